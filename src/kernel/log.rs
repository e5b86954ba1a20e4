//! A kernel's log, as all kernels have one.
//!
//! Owns the model alone; where a kernel keeps its records is its adapter's. Read of a guest that stands
//! still; a record that was being written is left out.

use std::time::Duration;

use nmiscope_machine::ReadError;

/// The records of a kernel's log that were still there, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// The records.
    pub records: Vec<LogRecord>,
    /// The number of records before these: overwritten, or passed over.
    pub lost: u64,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The time at which it was printed, by the guest's clock since its start.
    pub uptime: Duration,
    /// The CPU that printed it; `None` where the kernel does not record it.
    pub cpu: Option<u32>,
    /// The severity, as in syslog (RFC 5424): 0, emergency, to 7, debug.
    pub level: u8,
    /// The text, without a line feed. What was not UTF-8 is U+FFFD.
    pub text: String,
}

/// The reason why a kernel's log was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The memory could not be read.
    #[error("read the kernel's log")]
    Unreadable(#[from] ReadError),
    /// The log's own numbers contradict each other.
    #[error("read the kernel's log: {0}")]
    Malformed(&'static str),
}
