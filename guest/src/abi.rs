//! Interface between the bundled guest and its hypervisor: port numbers, exit codes, and values of
//! variables.
//!
//! The host also knows the names of the guest's variables and their members, and the form of a call
//! trace. It reads the addresses and the layout of structures from the image's symbols and DWARF. Used by
//! the kernel, and by `src/` of nmiscope, which passes the port numbers to the VMM.

/// I/O port whose writes end the VM: the dword written is the exit code. QEMU's
/// `-device isa-debug-exit,iobase=0xf4` has the same port and ends QEMU with `(code << 1) | 1`.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// I/O port for POST codes, which report the boot's progress, a byte each. No other device uses it.
pub const POST_PORT: u16 = 0x80;

/// POST code of a kernel whose CPUs are all up and about to run the workload.
pub const POST_READY: u8 = 0x52;

/// I/O port that a CPU writes right before it returns from an NMI that no client in the guest asked for:
/// the low byte of its number. A VMM can stop the CPU at that instruction. Unused in PC hardware.
pub const NMI_DONE_PORT: u16 = 0x510;

/// Exit code of a workload that ended without an error.
pub const EXIT_OK: u32 = 0;

/// Exit code for kernel parameters that the kernel cannot run with, an unknown workload for one.
pub const EXIT_BAD_PARAMETER: u32 = 2;

/// Exit code of a kernel panic, sent after the panic's message and call trace are in the log. It is more
/// than a byte, so that it differs from every workload's own code; QEMU's exit status keeps the low byte,
/// the same as for code 101.
pub const EXIT_PANIC: u32 = 0x165;

/// Value of `nmi_print_flag` while the hypervisor holds the reservation. A guest CPU that holds
/// it stores its number plus one; zero is free.
pub const RESERVED_BY_HYPERVISOR: u32 = 0x8000_0000;

/// Kind of a [`LockRecord`](crate::sync::LockRecord): a spin lock.
pub const LOCK_SPIN: u32 = 1;
/// Kind of a lock record: a ticket lock.
pub const LOCK_TICKET: u32 = 2;
/// Kind of a lock record: a mutex. Tasks sleep for it, and its holder is a task.
pub const LOCK_MUTEX: u32 = 3;

/// Kind of a [`Wait`](crate::sync::Wait): no wait.
pub const WAIT_NOTHING: u32 = 0;
/// Kind of a wait: for a lock.
pub const WAIT_LOCK: u32 = 1;
/// Kind of a wait: for a wake-up on a wait queue.
pub const WAIT_QUEUE: u32 = 2;
/// Kind of a wait: for a CPU to answer a cross-CPU call.
pub const WAIT_CPU_CALL: u32 = 3;
/// Kind of a wait: for a CPU to come online.
pub const WAIT_CPU_ONLINE: u32 = 4;

/// State of a [`Task`](crate::sched::Task): no task has this number yet.
pub const TASK_UNUSED: u32 = 0;
/// State of a task: in its CPU's run queue, ready to run.
pub const TASK_READY: u32 = 1;
/// State of a task: running on its CPU.
pub const TASK_RUNNING: u32 = 2;
/// State of a task: asleep until a wake-up.
pub const TASK_BLOCKED: u32 = 3;
/// State of a task: its function has returned.
pub const TASK_ENDED: u32 = 4;
