//! A small KVM virtual machine monitor that can stop its world and inject NMIs.
//!
//! It boots a PVH ELF image on up to [`MAX_VCPUS`] vCPUs with an in-kernel irqchip, a serial port
//! and three doorbell ports, and gives its one controlling thread what a debugger of hung guests
//! needs: stop every vCPU within a deadline, read its state, let it run one NMI handler and no
//! more, and go on. It knows nothing of symbols, reports or any particular guest.
//!
//! [`Vm`] is the way in; [`VmEvent`]s say what the guest does while nobody looks. What it says of a
//! stopped vCPU is in the types of `nmiscope-machine`.
//!
//! x86-64 Linux hosts only. Unsafe code is in three files: `vm.rs` (handing guest memory to KVM),
//! `vcpu/kick.rs` (the shared `immediate_exit` byte) and `vcpu/host.rs` (reading `kvm_run`'s unions,
//! the thread's CPU clock, and the file of KVM's statistics).

mod boot;
mod collector;
mod cpuid;
mod devices;
mod error;
mod event;
mod exits;
mod kvm;
mod layout;
mod memory;
mod open_files;
mod vcpu;
mod vm;
mod watch;
mod world;

pub use boot::{BootError, BootImageError, InitrdError, PvhError};
pub use devices::{Ports, SerialInputFull};
pub use error::CreateError;
pub use event::VmEvent;
pub use exits::ExitCounts;
pub use kvm::{KvmError, check as check_kvm};
pub use memory::{MIN_BYTES, RamError};
pub use vcpu::{ThreadState, ThreadTimes, VcpuError, VcpuStatistics};
pub use vm::{Config, MAX_VCPUS, Vm};
pub use world::ShutdownError;
