//! Vocabulary of Linux: its panic message and its function names.
//!
//! Owns the names; refuses to own their use. A name is here because of what the function does in kernel/ and arch/x86,
//! not because a hang was seen in it.

use crate::kernel::{TraceEntry, Vocabulary};

/// Prefix of a panic's line on the console (kernel/panic.c, `panic`).
const PANIC: &str = "Kernel panic - not syncing: ";

/// Beginnings of the names of functions that take locks, sleep, wait for other CPUs, or panic. The compiler appends
/// `.isra.0`, `.constprop.0` and the like.
const PLUMBING: [&str; 26] = [
    "__schedule",
    "schedule",
    "preempt_schedule",
    "io_schedule",
    "context_switch",
    "__switch_to",
    "native_queued_spin_lock_slowpath",
    "queued_spin_lock_slowpath",
    "queued_read_lock_slowpath",
    "queued_write_lock_slowpath",
    "__pv_queued_spin_lock_slowpath",
    "kvm_wait",
    "_raw_spin_",
    "_raw_read_",
    "_raw_write_",
    "__raw_spin_",
    "mutex_lock",
    "__mutex_lock",
    "down_read",
    "down_write",
    "rwsem_down_",
    "__down",
    "wait_for_completion",
    "smp_call_function",
    "native_safe_halt",
    "panic",
];

/// Functions through which a CPU or a task comes to its work: entry code, the idle loop, threads and work queues.
const STARTS: [&str; 15] = [
    "start_kernel",
    "start_secondary",
    "secondary_startup_64",
    "common_startup_64",
    "cpu_startup_entry",
    "do_idle",
    "kthread",
    "kthread_worker_fn",
    "worker_thread",
    "process_one_work",
    "ret_from_fork",
    "ret_from_fork_asm",
    "do_syscall_64",
    "entry_SYSCALL_64_after_hwframe",
    "smpboot_thread_fn",
];

/// Vocabulary of any version of Linux.
#[derive(Debug)]
pub(super) struct LinuxVocabulary;

impl Vocabulary for LinuxVocabulary {
    fn is_ready(&self, _post_code: u8) -> bool {
        false
    }

    fn is_panic(&self, _exit_code: u32) -> bool {
        false
    }

    fn panic_message(&self, console: &[String]) -> Option<String> {
        let after = |line: &String| Some(line.split_once(PANIC)?.1.to_owned());
        console.iter().rev().find_map(after)
    }

    fn call_trace(&self, _text: &str) -> Option<Vec<TraceEntry>> {
        None
    }

    fn is_plumbing(&self, function: &str) -> bool {
        PLUMBING.iter().any(|name| function.starts_with(name))
    }

    fn is_start(&self, function: &str) -> bool {
        STARTS.contains(&function) || function.starts_with("asm_")
    }
}
