//! Vocabulary of Linux: its panic message and its function names.
//!
//! Owns the names; refuses to own their use. A name is here because of what the function does in kernel/ and arch/x86,
//! not because a hang was seen in it.

use super::printed_stacks::printed_stacks;
use crate::kernel::{LogRecord, PrintedStack, TraceEntry, Vocabulary};

/// Prefix of a panic's line on the console (kernel/panic.c, `panic`).
const PANIC: &str = "Kernel panic - not syncing: ";

/// Beginnings of the names of functions that take locks, sleep, wait for other CPUs, or panic. The compiler appends
/// `.isra.0`, `.constprop.0` and the like.
const PLUMBING: [&str; 45] = [
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
    "__wait_for_common",
    "__wait_on_bit",
    "out_of_line_wait_on_bit",
    "bit_wait",
    "__wait_rcu_gp",
    "synchronize_rcu",
    "synchronize_srcu",
    "__synchronize_srcu",
    "msleep",
    "usleep_range",
    "schedule_hrtimeout_range",
    "do_nanosleep",
    "smp_call_function",
    "on_each_cpu",
    "csd_lock_wait",
    "cpu_relax",
    "delay_tsc",
    "delay_halt",
    "__const_udelay",
    "__delay",
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

/// Beginnings of the names of the entries of interrupts and NMIs (arch/x86/entry/entry_64.S, arch/x86/include/asm/
/// idtentry.h); the later ones are those of 5.7 and older.
const INTERRUPTS: [&str; 11] = [
    "asm_sysvec_",
    "asm_common_interrupt",
    "asm_spurious_interrupt",
    "asm_exc_nmi",
    "end_repeat_nmi",
    "ret_from_intr",
    "apic_timer_interrupt",
    "reschedule_interrupt",
    "call_function_interrupt",
    "call_function_single_interrupt",
    "irq_work_interrupt",
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
        // The line that ends a panic repeats its message.
        let is_end = |line: &String| line.contains("---[ end ");
        let after = |line: &String| match is_end(line) {
            false => Some(line.split_once(PANIC)?.1.to_owned()),
            true => None,
        };
        console.iter().rev().find_map(after)
    }

    fn call_trace(&self, _text: &str) -> Option<Vec<TraceEntry>> {
        None
    }

    fn printed_stacks(&self, log: &[LogRecord]) -> Vec<PrintedStack> {
        printed_stacks(log)
    }

    fn is_plumbing(&self, function: &str) -> bool {
        PLUMBING.iter().any(|name| function.starts_with(name))
    }

    fn is_start(&self, function: &str) -> bool {
        STARTS.contains(&function) || function.starts_with("asm_")
    }

    fn serves_interrupts(&self, function: &str) -> bool {
        INTERRUPTS.iter().any(|name| function.starts_with(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_a_panic_is_that_of_its_first_line() {
        let console = [
            "[    3.1] Kernel panic - not syncing: sysrq triggered crash",
            "[    3.2] CPU: 1 PID: 1 Comm: init Not tainted 6.1.0-56-cloud-amd64 #1",
            "[    3.3] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---",
        ]
        .map(str::to_owned);
        let message = LinuxVocabulary.panic_message(&console);
        assert_eq!(message.as_deref(), Some("sysrq triggered crash"));
        assert_eq!(LinuxVocabulary.panic_message(&console[1..2]), None);
    }

    #[test]
    fn names_of_functions_have_their_meaning_with_the_compilers_suffixes() {
        let is_plumbing = |name| LinuxVocabulary.is_plumbing(name);
        assert!(is_plumbing("__mutex_lock.constprop.0") && is_plumbing("_raw_spin_lock"));
        assert!(!is_plumbing("ext4_file_write_iter"));
        let is_start = |name| LinuxVocabulary.is_start(name);
        assert!(is_start("asm_exc_nmi") && is_start("ret_from_fork") && !is_start("kthread_stop"));
        let interrupts = |name| LinuxVocabulary.serves_interrupts(name);
        assert!(interrupts("asm_sysvec_apic_timer_interrupt") && interrupts("asm_exc_nmi"));
        assert!(!interrupts("asm_exc_page_fault") && !interrupts("do_syscall_64"));
    }
}
