//! A small KVM virtual machine monitor that can stop its world and inject NMIs.
//!
//! It boots a PVH ELF image on up to [`MAX_VCPUS`] vCPUs with an in-kernel irqchip, a serial port
//! and three doorbell ports, and gives its one controlling thread what a debugger of hung guests
//! needs: stop every vCPU within a deadline, read its state, let it run one NMI handler and no
//! more, and go on. It knows nothing of symbols, reports or any particular guest.
//!
//! [`Vm`] is the entry point; [`VmEvent`]s report what the guest does meanwhile. The state of a stopped
//! vCPU is in the types of `nmiscope-machine`.
//!
//! Boot an image, stop its vCPUs after a second, and print where each of them is:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use nmiscope_vmm::{Config, Ports, Vm};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut vm = Vm::new(Config {
//!     cpus: 2,
//!     memory: 64 << 20,
//!     image: &std::fs::read("vmlinux")?,
//!     initrd: None,
//!     cmdline: "console=ttyS0".to_owned(),
//!     serial_output: Box::new(std::io::stdout()),
//!     ports: Ports { debug_exit: 0xf4, post: 0x80, nmi_done: 0x510 },
//!     pit: true,
//!     events: Box::new(|event| eprintln!("{event:?}")),
//! })?;
//! vm.start();
//! std::thread::sleep(Duration::from_secs(1));
//!
//! for state in vm.pause(Duration::from_millis(100)) {
//!     match state {
//!         Ok(state) => println!("cpu{} is at {:#x}", state.cpu, state.registers.rip),
//!         // Its thread did not stop in time: the host is overloaded, or the serial output blocks.
//!         Err(error) => eprintln!("failed to {error}"),
//!     }
//! }
//! vm.shutdown(Duration::from_secs(1))?;
//! # Ok(())
//! # }
//! ```
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

pub use boot::{BootError, BootImageError, InitrdError, PvhError, check_image};
pub use devices::{Ports, SerialInputFull};
pub use error::CreateError;
pub use event::VmEvent;
pub use exits::ExitCounts;
pub use kvm::{KvmError, check as check_kvm};
pub use memory::{MIN_BYTES, RamError};
pub use vcpu::{ThreadState, ThreadTimes, VcpuError, VcpuStatistics};
pub use vm::{Config, MAX_VCPUS, Vm};
pub use world::ShutdownError;
