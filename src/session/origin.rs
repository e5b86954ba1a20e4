//! The time and the host of a capture, which guest memory does not record.
//!
//! Owns where both are read: the only wall clock of a session. Called by every session that completes a
//! report.

use std::time::SystemTime;

use nmiscope_report::UNKNOWN_HOST;
use nmiscope_report::units::rfc3339;

/// The time and the host of a capture, as a report has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Wall clock of the capture, RFC 3339 in UTC; `None` where it is not known.
    pub captured_at: Option<String>,
    /// Name of the host, or [`UNKNOWN_HOST`].
    pub host: String,
}

impl Origin {
    /// Returns this host, and a time on its clock.
    pub fn here(at: SystemTime) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { captured_at: Some(rfc3339(at)), host }
    }

    /// Returns the origin of a dump that another program wrote: its formats record neither time nor host,
    /// and the time of the file is that of its last copy.
    pub fn unknown() -> Self {
        Self { captured_at: None, host: UNKNOWN_HOST.into() }
    }
}
