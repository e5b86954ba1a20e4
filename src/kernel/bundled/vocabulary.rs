//! Vocabulary of the bundled guest, and its I/O ports.
//!
//! Owns its codes, texts and function names; refuses to own their use. Called through
//! `kernel::vocabulary`.

use nmiscope_guest::abi;

use super::call_trace;
use crate::kernel::vocabulary::{TraceEntry, Vocabulary};

/// Vocabulary of the bundled guest.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernel) struct BundledVocabulary;

/// I/O ports by which the bundled guest signals its VMM: every VM has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doorbells {
    /// The port that ends the VM with an exit code.
    pub debug_exit: u16,
    /// The port that takes POST codes.
    pub post: u16,
    /// The port that signals the end of an NMI handler.
    pub nmi_done: u16,
}

/// Port numbers of the bundled guest's [`Doorbells`].
pub const DOORBELLS: Doorbells = Doorbells {
    debug_exit: abi::DEBUG_EXIT_PORT,
    post: abi::POST_PORT,
    nmi_done: abi::NMI_DONE_PORT,
};

/// Functions in which all hangs end, by the start of their path: this kernel's, and those of Rust's core,
/// which has methods of numbers too.
const PLUMBING: [&str; 25] = [
    "nmiscope_guest::sync::",
    "nmiscope_kernel::workload::Meeting::",
    "nmiscope_kernel::panic::",
    "nmiscope_kernel::arch::x86_64::",
    "nmiscope_guest::sched::",
    "core::",
    "<core::",
    "<u8",
    "<u16",
    "<u32",
    "<u64",
    "<u128",
    "<usize",
    "<i8",
    "<i16",
    "<i32",
    "<i64",
    "<i128",
    "<isize",
    "<bool",
    "<nmiscope_guest::sync::",
    "<nmiscope_kernel::arch::x86_64::",
    "trap_common",
    "rust_begin_unwind",
    "rust_panic",
];

/// Functions through which a CPU or a task comes to its work, by their whole path: the first CPU comes
/// another way than the others.
const START: [&str; 4] = [
    "nmiscope_kernel::arch::x86_64::smp::enter",
    "nmiscope_kernel::arch::x86_64::smp::boot_cpu_main",
    "ap_main",
    "task_start",
];

/// Functions that serve interrupts and NMIs, by their whole path.
const INTERRUPTS: [&str; 2] = [
    "nmiscope_kernel::arch::x86_64::trap::interrupt",
    "nmiscope_kernel::arch::x86_64::nmi::handle",
];

impl Vocabulary for BundledVocabulary {
    fn is_ready(&self, post_code: u8) -> bool {
        post_code == abi::POST_READY
    }

    fn is_panic(&self, exit_code: u32) -> bool {
        exit_code == abi::EXIT_PANIC
    }

    fn panic_message(&self, console: &[String]) -> Option<String> {
        let after_mark = |line: &String| {
            let (_, rest) = line.split_once("Kernel panic on ")?;
            Some(rest.split_once(": ")?.1.to_owned())
        };
        console.iter().rev().find_map(after_mark)
    }

    fn call_trace(&self, text: &str) -> Option<Vec<TraceEntry>> {
        let entries: Vec<TraceEntry> = call_trace::entries(text).collect();
        (call_trace::has_trace(text) || !entries.is_empty()).then_some(entries)
    }

    fn is_plumbing(&self, function: &str) -> bool {
        PLUMBING.iter().any(|start| function.starts_with(start))
    }

    fn is_start(&self, function: &str) -> bool {
        START.contains(&function)
    }

    fn serves_interrupts(&self, function: &str) -> bool {
        INTERRUPTS.contains(&function)
    }
}
