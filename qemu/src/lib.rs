//! Access to a running QEMU from outside: its run state, vCPU registers and guest memory, and a stop
//! that is always undone.
//!
//! This is the sibling of `nmiscope-vmm` for a VM that another program runs. It needs only a QMP socket
//! (`-qmp unix:PATH,server=on,wait=off`). It knows nothing of symbols, reports or any particular guest:
//! registers and memory have the types of `nmiscope-machine`.
//!
//! [`Qemu`] is the entry point:
//!
//! 1. [`Qemu::open`] connects and finds the process behind the socket; [`Qemu::open_pid`] finds the
//!    socket of a process.
//! 2. [`Qemu::readiness`] refuses a VM during a migration, a snapshot or a dump, and one with encrypted
//!    memory. [`Qemu::states`] and [`Qemu::memory`] need no stop.
//! 3. [`Qemu::stop`] starts a guardian ([`hold`]) and only then stops the VM. Dropping [`StoppedVm`]
//!    resumes it; if this process is killed, the guardian resumes it. A VM that was already stopped
//!    stays stopped.
//!
//! Nothing is written to the guest or to QEMU's memory. Memory that the guest never touched is not
//! allocated by reading it, except through the monitor ([`MonitorMemory`]). QEMU and its guest are not
//! trusted: every command has a deadline ([`Deadlines`]), and every answer a maximum size.
//!
//! | module | owns |
//! |---|---|
//! | `wait` | deadlines and poll(2) |
//! | `qmp` | the QMP connection |
//! | `status` | run states, and the conditions that forbid a capture |
//! | [`registers`] | registers, parsed from the monitor's text |
//! | [`memory_map`] | the map from guest-physical addresses to addresses in QEMU's process |
//! | `process`, `mappings`, `process_memory` | the process and its memory |
//! | `monitor`, `monitor_memory`, `descriptor` | memory through the monitor, without access to the process |
//! | `find`, `command_line` | the search for the monitor of a process |
//! | [`hold`] | the guardian |
//! | `qemu` | the order in which a visit uses these parts |
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
