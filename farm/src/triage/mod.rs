//! Triage: groups the failures in any number of reports by signature, marks known ones, and compares two
//! scans.
//!
//! Reads results directories of farms and reports of single runs (`scan`, `report_summary`, `stacks`), and
//! writes nothing. The types here are the JSON (docs/triage.schema.json); the text (`text`) is rendered
//! from them alone, with control characters of guests made harmless.
//!
//! A VM of a farm counts if it did not end as its suite expects. In a report on its own, every failure
//! counts.
//!
//! Owns the JSON types; refuses to own the exit code and the choice of files (the command line, which
//! calls it).

mod days;
pub mod diff;
mod failure;
mod groups;
pub mod known;
pub mod page;
mod parallel;
mod report_summary;
mod scan;
mod stacks;
pub mod text;

use std::collections::BTreeMap;

use nmiscope_report::{Class, sanitize};
use schemars::JsonSchema;
use serde::Serialize;

use crate::event::Status;
use crate::timestamp::Timestamp;
pub use days::{DayCount, DayRuns};
pub use diff::Diff;
pub use failure::FailureKind;
pub use known::KnownFailures;
pub use scan::{ScanResult, scan};
pub use stacks::{IsPlumbing, Stack};

/// Version of triage's JSON: raised when a field changes its meaning or goes away, not when one is added.
pub const TRIAGE_SCHEMA_VERSION: u32 = 2;

/// Output of `nmiscope triage --message-format json`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "nmiscope triage")]
pub struct Document<'a> {
    /// Version of this format, at present 2: raised when a field changes its meaning or goes away.
    pub schema_version: u32,
    /// Result of the triage, of the kind that `kind` names.
    #[serde(flatten)]
    pub content: Content<'a>,
}

/// Result of a triage: groups of failures, or with `--diff` the changes between two scans.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Content<'a> {
    /// Groups of failures in everything that was scanned.
    Groups(&'a TriageResult),
    /// Changes between two scans, by `--diff`.
    Diff(&'a Diff),
}

/// Failures in everything that was scanned.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct TriageResult {
    /// Groups of failures, the most recently seen first.
    pub groups: Vec<FailureGroup>,
    /// Numbers of results, reports and runs that were scanned.
    pub totals: Totals,
    /// Days on which runs ended, the earliest first, the last thousand at most.
    pub days: Vec<DayRuns>,
    /// Files that could not be used, with reasons; at most a thousand.
    pub skipped: Vec<Skipped>,
}

/// Numbers of results, reports and runs that were scanned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Totals {
    /// Number of results directories of farms.
    pub results: u64,
    /// Number of reports that were read.
    pub reports: u64,
    /// Number of runs of VMs, including reports that belong to no farm.
    pub runs: u64,
    /// Number of tries that started and have no end: their farm died, or is still running.
    pub unfinished: u64,
    /// Number of tries outside all groups, by status: the guest failed without a hang or crash, or there
    /// is no verdict.
    pub ungrouped: BTreeMap<Status, u64>,
    /// Number of files that could not be used.
    pub skipped: u64,
}

/// Failures of one kind with one signature. The exemplar of the group is its newest failure with a readable
/// report, or else its newest failure.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FailureGroup {
    /// Signature of the failures, as 16 hexadecimal digits.
    pub signature: String,
    /// Kind of all failures in the group.
    pub kind: FailureKind,
    /// Class of the hangs; null for other kinds, and for hangs without a readable report.
    pub class: Option<Class>,
    /// Name of the exemplar's hang that a person can say: class, blamed functions and locks; null for other
    /// kinds, and where no report has it.
    pub bucket: Option<String>,
    /// Message of the exemplar: of the panic, or the description of the crash; null if it has none.
    pub message: Option<String>,
    /// Number of failures in the group.
    pub count: u64,
    /// Number of runs in which the failures occurred.
    pub runs: u64,
    /// Names of the VMs in which the failures occurred; for a report that belongs to no farm, the name of
    /// its file.
    pub vms: Vec<String>,
    /// Time of the first failure, in UTC as RFC 3339 has it; for a report that belongs to no farm, its
    /// `captured_at`, or else when its file changed.
    pub first_seen: Timestamp,
    /// Time of the last failure, in UTC as RFC 3339 has it; for a report that belongs to no farm, its
    /// `captured_at`, or else when its file changed.
    pub last_seen: Timestamp,
    /// Numbers of failures by day, the earliest first, the last thousand days at most. Days without one are
    /// left out.
    pub by_day: Vec<DayCount>,
    /// Names of the CPUs and tasks to blame in the exemplar.
    pub blamed: Vec<String>,
    /// Names of the locks that are part of the hang in the exemplar.
    pub locks: Vec<String>,
    /// Innermost blamed function in the exemplar that is not merely one to wait or panic in; null if there
    /// is none.
    pub function: Option<String>,
    /// Stacks of the parties to blame in the exemplar.
    pub stacks: Vec<Stack>,
    /// Path of the exemplar's report; null if no failure of the group has a readable report.
    pub exemplar: Option<String>,
    /// Entry that makes the failures known today; null if there is none.
    pub known: Option<known::KnownEntry>,
    /// Entry that made the failures known until it expired; null if there is none, and for failures known
    /// today.
    pub was_known: Option<known::KnownEntry>,
}

/// A file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Skipped {
    /// Path of the file that was skipped.
    pub path: String,
    /// Reason for skipping the file.
    pub reason: String,
}

impl TriageResult {
    /// Marks the groups that are known.
    pub fn mark(&mut self, known: &KnownFailures) {
        for group in &mut self.groups {
            group.mark(known);
        }
    }
}

impl FailureGroup {
    fn mark(&mut self, known: &KnownFailures) {
        self.known = known.find(&self.signature).cloned();
        let over = if self.known.is_none() { known.expired(&self.signature) } else { None };
        self.was_known = over.cloned();
    }
}

impl Document<'_> {
    /// Encodes the document as JSON without characters that a terminal acts on.
    ///
    /// # Errors
    /// Fails if the document cannot be encoded.
    pub fn json(&self) -> serde_json::Result<String> {
        Ok(sanitize::json(&serde_json::to_string_pretty(self)?) + "\n")
    }
}

/// Returns the JSON schema of [`Document`], as docs/triage.schema.json holds it.
pub fn schema() -> String {
    let schema = schemars::schema_for!(Document<'_>);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain JSON");
    text.push('\n');
    text
}
