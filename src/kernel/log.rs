//! Model of a kernel's log.
//!
//! Owns the model alone; refuses to own the format in memory (the adapters). Read from a stopped guest; a
//! record that was being written is left out.

use std::time::Duration;

use nmiscope_machine::ReadError;

/// Records of a kernel's log that have not been overwritten, oldest first.
///
/// The bundled guest has a type of the same name, the ring itself; this is a copy on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// The log's records, oldest first.
    pub records: Vec<LogRecord>,
    /// The number of records lost before these: overwritten, or skipped.
    pub lost: u64,
}

/// Record of a kernel's log: one line.
///
/// The bundled guest has a type of the same name, with its layout in memory; this is a copy on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The time at which it was printed, by the guest's clock since the guest's start.
    pub uptime: Duration,
    /// The CPU that printed it; `None` if the kernel does not record that.
    pub cpu: Option<u32>,
    /// The severity, as in syslog (RFC 5424): 0, emergency, to 7, debug.
    pub level: u8,
    /// The text without a line feed. Bytes that are not UTF-8 are U+FFFD.
    pub text: String,
}

/// Reason why a kernel's log was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The log's memory could not be read.
    #[error("read the kernel's log")]
    Unreadable(#[from] ReadError),
    /// The log's own numbers contradict each other.
    #[error("read the kernel's log: {0}")]
    Malformed(&'static str),
}
