//! What the bundled guest and its hypervisor agree on beforehand: ports and exit codes.
//!
//! Deliberately nothing else. Where the guest's structures lie, and how they are laid out, the
//! host reads from the image's symbols and DWARF. Used by the kernel, and by `src/` of nmiscope,
//! which hands the port numbers to the VMM.

/// A byte or dword written here ends the VM with that code. The address is that of QEMU's
/// `-device isa-debug-exit,iobase=0xf4`, which ends QEMU with `(code << 1) | 1`.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// POST codes: the boot's progress, a byte each. The traditional port; nothing else reacts to it.
pub const POST_PORT: u16 = 0x80;

/// The POST code of a kernel whose CPUs are all up and about to run the workload.
pub const POST_READY: u8 = 0x52;

/// A CPU whose handler is about to return from an NMI that no client in the guest asked for writes
/// its number's low byte here. It lets a VMM stop the CPU at that very instruction. Unused in PC
/// hardware.
pub const NMI_DONE_PORT: u16 = 0x510;

/// Exit code of a workload that ended as it should.
pub const EXIT_OK: u8 = 0;

/// Exit code for kernel parameters that the kernel cannot run with, an unknown workload for one.
pub const EXIT_BAD_PARAMETER: u8 = 2;

/// Exit code of a kernel panic. The panic's message and call trace are in the log by then.
pub const EXIT_PANIC: u8 = 101;

/// Value of `nmi_print_flag` while the hypervisor holds the reservation. A guest CPU that holds
/// it stores its number plus one; zero is free.
pub const RESERVED_BY_HYPERVISOR: u32 = 0x8000_0000;
