//! The meaning of a kernel's own words: to a port, on its console, in an NMI buffer, as names of functions.
//!
//! Owns the trait; refuses to own any kernel's words (the adapters) and what follows from them
//! (`session`, `diagnosis`). What is read is the guest's, and may be anything.

use nmiscope_machine::VirtualAddress;

/// A kernel's words.
pub trait Vocabulary: std::fmt::Debug + Sync {
    /// True when a byte that was written to the POST port says that all CPUs are up.
    fn is_ready(&self, post_code: u8) -> bool;

    /// True when a number that was written to the debug-exit port is a panic's.
    fn is_panic(&self, exit_code: u32) -> bool;

    /// The message of the last panic on the console, without what the kernel writes before each;
    /// `None` where there is none.
    fn panic_message(&self, console: &[String]) -> Option<String>;

    /// The call trace in the text of an NMI handler, innermost entry first; `None` where there is
    /// none. If there are several, the last one counts: an earlier one answered an NMI that nobody
    /// read.
    fn call_trace(&self, text: &str) -> Option<Vec<TraceEntry>>;

    /// True for a function, by its path, in which everybody ends up: it takes locks, sleeps or
    /// panics, and tells no hang from another.
    fn is_plumbing(&self, function: &str) -> bool;

    /// True for a function, by its path, through which a CPU or a task came to where it does its work.
    fn is_start(&self, function: &str) -> bool;
}

/// An entry of a call trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceEntry {
    /// The address as it was printed.
    pub address: VirtualAddress,
    /// True for the very instruction that was interrupted; otherwise a call returns to it.
    pub interrupted: bool,
    /// True when the kernel vouches for the entry.
    pub reliable: bool,
}
