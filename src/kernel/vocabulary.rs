//! Vocabulary: the meaning of a kernel's own codes and texts, on a port, on its console, in an NMI
//! buffer, and of its function names.
//!
//! Owns the trait; refuses to own any kernel's vocabulary (the adapters) and its use (`session`,
//! `diagnosis`). All input is the guest's, and may be anything.

use std::time::Duration;

use nmiscope_machine::VirtualAddress;

use super::log::LogRecord;

/// Vocabulary of one guest kernel.
pub trait Vocabulary: std::fmt::Debug + Sync {
    /// Returns true if a byte written to the POST port means that all CPUs are up.
    fn is_ready(&self, post_code: u8) -> bool;

    /// Returns true if a number written to the debug-exit port is that of a panic.
    fn is_panic(&self, exit_code: u32) -> bool;

    /// Returns the message of the last panic on the console, without the kernel's prefix; `None` if there
    /// is none.
    fn panic_message(&self, console: &[String]) -> Option<String>;

    /// Returns the call trace in the text of an NMI handler, innermost entry first; `None` if there is
    /// none. Of several, the last counts: an earlier one answered an NMI whose buffer was not read.
    fn call_trace(&self, text: &str) -> Option<Vec<TraceEntry>>;

    /// Returns the last stack of each CPU that the kernel has printed into its log; none for a kernel that prints them
    /// elsewhere.
    fn printed_stacks(&self, _log: &[LogRecord]) -> Vec<PrintedStack> {
        Vec::new()
    }

    /// Returns true for a function, by its path, in which all hangs end: it takes locks, sleeps or
    /// panics, and does not distinguish one hang from another.
    fn is_plumbing(&self, function: &str) -> bool;

    /// Returns true for a function, by its path, through which a CPU or a task comes to its work.
    fn is_start(&self, function: &str) -> bool;

    /// Returns true for a function, by its path, that serves interrupts or NMIs: what they interrupt is chance.
    /// False for the handler of an exception, which the interrupted function has caused.
    fn serves_interrupts(&self, _function: &str) -> bool {
        false
    }
}

/// Returns true for a line of a console with which a panic of any known kernel may begin.
pub fn may_begin_panic(line: &[u8]) -> bool {
    const MARK: &[u8] = b"Kernel panic";
    line.windows(MARK.len()).any(|window| window == MARK)
}

/// Entry of a call trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceEntry {
    /// The guest-virtual address, as it was printed.
    pub address: VirtualAddress,
    /// True if the address is that of the interrupted instruction; otherwise a call returns to it.
    pub interrupted: bool,
    /// True if the kernel vouches for the entry.
    pub reliable: bool,
}

/// Stack of a CPU that its kernel printed into its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrintedStack {
    /// The number of the CPU.
    pub cpu: u32,
    /// The time at which it was printed, by the guest's clock since the guest's start.
    pub uptime: Duration,
    /// The lines of the log with the stack and with what was printed beside it.
    pub lines: Vec<String>,
    /// The entries of the stack, innermost first.
    pub entries: Vec<PrintedEntry>,
}

/// Entry of a stack that was printed by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrintedEntry {
    /// The name of the function.
    pub function: String,
    /// The name of the function's module; `None` for a function of the kernel's image.
    pub module: Option<String>,
    /// The distance from the function's beginning in bytes.
    pub offset: u64,
    /// True if the place is that of the interrupted instruction; otherwise a call returns to it.
    pub interrupted: bool,
    /// True if the kernel vouches for the entry.
    pub reliable: bool,
}
