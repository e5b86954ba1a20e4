//! The amount of text that a farm prints about each try, as `--status-level` sets it.
//!
//! Owns the order of levels and which try belongs to which; refuses to own the text (`progress`).

use clap::ValueEnum;

use crate::event::{Status, VmFinished};

/// Tries that a farm prints a line for. Each level includes those before it; the summary is always printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum StatusLevel {
    /// No try at all, only the summary.
    None,
    /// Tries that failed for good.
    Fail,
    /// Tries that are retried, passes after a retry, and known failures.
    Retry,
    /// Tries that passed at once.
    #[default]
    Pass,
    /// Starts of tries, beside their ends.
    All,
}

impl StatusLevel {
    /// Returns the level from which the end of a try is shown.
    pub fn of(end: &VmFinished) -> Self {
        match end.status {
            Status::Pass if end.flaky => Self::Retry,
            Status::Pass => Self::Pass,
            _ if end.again || end.known.is_some() => Self::Retry,
            _ => Self::Fail,
        }
    }
}
