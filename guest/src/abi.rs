//! What the bundled guest and its hypervisor agree on beforehand: ports and exit codes.
//!
//! Apart from these, the host knows the names of the guest's variables and their members, what the
//! values of a few of them mean ([`RESERVED_BY_HYPERVISOR`], `LOCK_*`, `WAIT_*`, `TASK_*`,
//! `NMI_PRINT_SEQ_*`),
//! and what a call trace looks like. Where the structures lie, and how they are laid out, it reads from the image's
//! symbols and DWARF. Used by the kernel, and by `src/` of nmiscope, which hands the port numbers to
//! the VMM.

/// A dword written here ends the VM with that code. The address is that of QEMU's
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
pub const EXIT_OK: u32 = 0;

/// Exit code for kernel parameters that the kernel cannot run with, an unknown workload for one.
pub const EXIT_BAD_PARAMETER: u32 = 2;

/// Exit code of a kernel panic. The panic's message and call trace are in the log by then. More than
/// a byte, so that no workload's own code is mistaken for it; QEMU's exit status keeps the low byte,
/// that of 101.
pub const EXIT_PANIC: u32 = 0x165;

/// Value of `nmi_print_flag` while the hypervisor holds the reservation. A guest CPU that holds
/// it stores its number plus one; zero is free.
pub const RESERVED_BY_HYPERVISOR: u32 = 0x8000_0000;

/// [`LockRecord`](crate::sync::LockRecord)'s kind: a spin lock.
pub const LOCK_SPIN: u32 = 1;
/// A ticket lock.
pub const LOCK_TICKET: u32 = 2;
/// A mutex, which tasks sleep for; its holder is a task.
pub const LOCK_MUTEX: u32 = 3;

/// [`Wait`](crate::sync::Wait)'s kind: for nothing.
pub const WAIT_NOTHING: u32 = 0;
/// For a lock.
pub const WAIT_LOCK: u32 = 1;
/// For a wake-up, on a wait queue.
pub const WAIT_QUEUE: u32 = 2;
/// For a CPU to answer a cross-CPU call.
pub const WAIT_CPU_CALL: u32 = 3;
/// For a CPU to come up.
pub const WAIT_CPU_ONLINE: u32 = 4;

/// [`Task`](crate::sched::Task)'s state: there is none of that number.
pub const TASK_UNUSED: u32 = 0;
/// It could run, and will when its turn comes.
pub const TASK_READY: u32 = 1;
/// It runs.
pub const TASK_RUNNING: u32 = 2;
/// It sleeps.
pub const TASK_BLOCKED: u32 = 3;
/// It has returned.
pub const TASK_ENDED: u32 = 4;
