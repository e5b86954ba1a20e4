//! Reports of the former version of the format, read as those of this one.
//!
//! Version 2 had other names for some fields and variants. Each type reads them as aliases, next to the
//! present names:
//!
//! | version 2 | version 3 |
//! |---|---|
//! | `cpus[].word`, `cpus[].look`, `tasks[].look` | `guest_trace`, `host_stack`, `host_stack` |
//! | findings `word-garbled`, `word-truncated`, `word-incomplete`, `witnesses-differ` | `trace-garbled`, `trace-truncated`, `trace-incomplete`, `stacks-differ` |
//! | `evidence[].of`; facts `work-undone`, `stood` with `at` | `party`; `pending-work`, `stopped-at` with `address` |
//! | `edges[].at`, `edges[].for_ms` | `call_site`, `lasted_ms` |
//! | `certainty.why` | `certainty.reason` |
//! | `visit.process`, `visit.was` | `visit.pid`, `visit.run_state` |
//!
//! The former version lacked `captured_at`, `host`, `summary` and `hangs[].bucket`: the first two and the
//! last are not known then, and the summary is made from the rest.
//!
//! Owns which versions are read. Called wherever a report is read: by [`json::read`](crate::json::read), for
//! the notes of core files, and by triage.

use crate::report::{Report, SCHEMA_VERSION};
use crate::summary;

/// The oldest version of the format that is read: the one before [`SCHEMA_VERSION`].
pub const OLDEST_READ_VERSION: u32 = SCHEMA_VERSION - 1;

/// Returns true for a version of the format that this crate reads.
pub fn is_read(version: u64) -> bool {
    (u64::from(OLDEST_READ_VERSION)..=u64::from(SCHEMA_VERSION)).contains(&version)
}

/// Brings a report of a version that [is read](is_read) to the present version: sets `schema_version`, and
/// makes the summary that a report of the former version lacks.
pub fn upgrade(report: &mut Report) {
    report.schema_version = SCHEMA_VERSION;
    if report.summary.is_empty() {
        report.summary = summary::summarize(report);
    }
}
