//! A running QEMU from outside: its state, its vCPUs' registers, its guest's memory, and a stop that
//! is always undone.
//!
//! This is the sibling of `nmiscope-vmm` for a VM that somebody else runs. It asks no more of that VM
//! than a QMP socket (`-qmp unix:PATH,server=on,wait=off`). It knows nothing of symbols, reports or any
//! particular guest: registers and memory are in the types of `nmiscope-machine`.
//!
//! [`Qemu`] is the way in:
//!
//! 1. [`Qemu::open`] connects and finds the process behind the socket; [`Qemu::open_pid`] finds the
//!    socket of a process.
//! 2. [`Qemu::readiness`] refuses a VM in migration, with a snapshot or a dump under way, or with
//!    encrypted memory. [`Qemu::states`] and [`Qemu::memory`] need no stop.
//! 3. [`Qemu::stop`] starts a guardian ([`hold`]) and only then stops the VM. [`StoppedVm`] lets it go
//!    on when it is dropped; the guardian does when this process is killed. A VM that was stopped
//!    before stays stopped.
//!
//! Nothing is written to the guest or to QEMU's memory, and memory that the guest never touched is not
//! allocated by reading it. Every command has a deadline ([`Deadlines`]), and every answer a budget:
//! QEMU and its guest are not trusted.
//!
//! | module | owns |
//! |---|---|
//! | `wait` | deadlines and poll(2) |
//! | `qmp` | the connection |
//! | `status` | run states, and what forbids a capture |
//! | [`registers`] | registers, from the monitor's text |
//! | [`memory_map`] | guest-physical to QEMU's addresses |
//! | `process`, `mappings`, `process_memory` | the process, and its memory |
//! | `monitor`, `monitor_memory`, `descriptor` | memory by way of the monitor, where the process may not be read |
//! | `find`, `command_line` | the monitor of a process |
//! | [`hold`] | the guardian |
//! | `qemu` | the order of all that |
//!
//! x86-64 Linux hosts and x86 guests only.

#![forbid(unsafe_code)]

mod command_line;
mod descriptor;
mod find;
pub mod hold;
mod mappings;
mod memory;
pub mod memory_map;
mod monitor;
mod monitor_memory;
mod process;
mod process_memory;
mod qemu;
mod qmp;
pub mod registers;
mod status;
mod wait;

pub use find::FindError;
pub use memory::GuestMemory;
pub use monitor_memory::MonitorMemory;
pub use process::{Denial, ProcessError, ProcessHandle};
pub use process_memory::{ProcessMemory, ProcessMemoryError};
pub use qemu::{Qemu, QemuError, ReleaseOutcome, StoppedVm};
pub use qmp::{Address, Deadlines, Qmp, QmpError, QmpEvent, Version};
pub use registers::VcpuRegisters;
pub use status::{Accelerator, Operation, Readiness, RunState, StatusError};
