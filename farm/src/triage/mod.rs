//! Triage: of any number of reports, what there is to look into. Groups what went wrong by signature,
//! says which groups are known, and what has changed since an earlier time.
//!
//! Reads results directories of farms and reports of single runs (`gather`, `glance`, `stacks`), and writes
//! nothing. The structs here are the JSON (docs/triage.schema.json), and the text (`text`) is made from
//! them alone. Strings from a guest may hold control characters, which the text makes harmless.
//!
//! What a suite expects is no finding: of a farm's VMs, those count that did not do what they should.
//! Of a report by itself, everything counts.

pub mod diff;
mod failure;
mod groups;
pub mod known;
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
pub use diff::Diff;
pub use failure::FailureKind;
pub use known::KnownFailures;
pub use scan::{ScanResult, scan};
pub use stacks::{IsPlumbing, Stack};

/// Raised when a field changes its meaning or goes away; not when one is added.
pub const TRIAGE_SCHEMA_VERSION: u32 = 2;

/// What `nmiscope triage --message-format json` prints.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "nmiscope triage")]
pub struct Document<'a> {
    /// [`TRIAGE_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What there is.
    #[serde(flatten)]
    pub content: Content<'a>,
}

/// What there is.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Content<'a> {
    /// The groups.
    Groups(&'a Triage),
    /// What `--diff` has found.
    Diff(&'a Diff),
}

/// What has been found in all that was given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Triage {
    /// The groups, those first that were seen last.
    pub groups: Vec<FailureGroup>,
    /// What it was found in.
    pub totals: Totals,
    /// Files that could not be made use of, and why: the first thousand.
    pub skipped: Vec<Skipped>,
}

/// What has been looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Totals {
    /// Results directories.
    pub results: u64,
    /// Reports that were read.
    pub reports: u64,
    /// Runs of VMs, and reports that belong to none.
    pub runs: u64,
    /// Tries that began, and of whose end there is nothing: their farm died, or is still at work.
    pub unfinished: u64,
    /// Tries that are in no group, and did not do as they should: the guest failed, or there is no
    /// verdict. By how they went.
    pub ungrouped: BTreeMap<Status, u64>,
    /// Files that could not be made use of.
    pub skipped: u64,
}

/// Of one kind and signature, all that there is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FailureGroup {
    /// The signature: 16 hexadecimal digits.
    pub signature: String,
    /// What it is.
    pub kind: FailureKind,
    /// In which way it hangs; null for what is no hang, and for a hang that no report tells of.
    pub class: Option<Class>,
    /// What was said of it, the last time: the panic's message, or the crash's description; null if
    /// that is nothing.
    pub message: Option<String>,
    /// How often it was found.
    pub count: u64,
    /// In how many runs.
    pub runs: u64,
    /// In which VMs, by name. A report that belongs to none has the name of its file.
    pub vms: Vec<String>,
    /// When it was seen first, in milliseconds since the Unix epoch.
    pub first_seen: Timestamp,
    /// When it was seen last.
    pub last_seen: Timestamp,
    /// Who was to blame, in the exemplar.
    pub blamed: Vec<String>,
    /// The locks that had to do with it, in the exemplar.
    pub locks: Vec<String>,
    /// The innermost function of the blamed that tells more than that it waits, in the exemplar; null
    /// where there is none.
    pub function: Option<String>,
    /// The stacks of the blamed, in the exemplar.
    pub stacks: Vec<Stack>,
    /// The newest report of it that can be read; null if there is none.
    pub exemplar: Option<String>,
    /// Where it is tracked; null for what is not known today.
    pub known: Option<known::KnownEntry>,
    /// Where it was tracked until a day that is over; null where there is no such day, and for what is
    /// known.
    pub was_known: Option<known::KnownEntry>,
}

/// A file that could not be made use of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Skipped {
    /// The file.
    pub path: String,
    /// Why.
    pub reason: String,
}

impl Triage {
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
    /// As JSON that does no harm to a terminal.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn json(&self) -> serde_json::Result<String> {
        Ok(sanitize::json(&serde_json::to_string_pretty(self)?) + "\n")
    }
}

/// The JSON schema of [`Document`], as docs/triage.schema.json holds it.
pub fn schema() -> String {
    let schema = schemars::schema_for!(Document<'_>);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain JSON");
    text.push('\n');
    text
}
