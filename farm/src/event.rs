//! Events of a farm's run, in the order in which they happen: the only interface between the runner and
//! the reporters, and, one line each, the journal in the results directory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nmiscope_report::Class;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// Version of the events' JSON: raised when a field changes its meaning or goes away, not when one is
/// added. A reader of one version also reads the version before it.
pub const EVENT_SCHEMA_VERSION: u32 = 2;

/// An event of a farm's run, and the time at which it happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "nmiscope farm event")]
pub struct FarmEvent {
    /// Time of the event by the host's clock, in UTC, as RFC 3339 has it: `2026-01-02T03:04:05.678Z`.
    // Version 1 had milliseconds since the Unix epoch here, as `at_ms`.
    #[serde(alias = "at_ms")]
    pub time: Timestamp,
    /// Kind of the event, with the data of that kind.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Kinds of events, each with its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// The farm starts, or resumes an interrupted run.
    FarmStarted(FarmStarted),
    /// A try of a VM starts.
    VmStarted(VmStarted),
    /// A try of a VM has ended, with its verdict.
    VmFinished(Box<VmFinished>),
    /// The farm was asked to end: no further VM starts.
    FarmInterrupted {
        /// Cause of the interruption: a signal's name, `--fail-fast` or `--until-hang`.
        by: String,
    },
    /// The run is complete or was ended early.
    FarmFinished(FarmFinished),
}

/// Plan of a run, as it stands when the run starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FarmStarted {
    /// Version of this format, at present 2: raised when a field changes its meaning or goes away.
    #[serde(alias = "version")]
    pub schema_version: u32,
    /// Version of the nmiscope that runs the farm.
    pub tool: String,
    /// Path of the suite's file, as it was given.
    pub suite: String,
    /// Name of the host that runs the farm.
    pub host: String,
    /// Number of planned runs: VMs, times the number of repetitions.
    pub planned: u64,
    /// Number of planned runs that the resumed farm has already completed; 0 for a new run.
    pub done: u64,
    /// Names of VMs that were running when an earlier farm in this directory died; they run again.
    pub lost: Vec<String>,
    /// Names of VMs whose earlier results no longer count, because the suite dropped or changed them.
    #[serde(default)]
    pub stale: Vec<String>,
    /// Seed of the random order; null for the suite's order.
    pub seed: Option<u64>,
    /// Part of the suite that runs here, as in `hash:1/4`; null for the whole suite.
    pub partition: Option<String>,
    /// Number of CPUs that running VMs may use at a time.
    pub cpus: u32,
    /// Bytes of memory that running VMs may use at a time.
    pub memory_bytes: u64,
}

/// Identity of a try: the VM, the run of that VM, and the try of that run.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct Id {
    /// Name of the VM in its suite.
    pub name: String,
    /// Number of the run of this VM, from 1; above 1 only with `--repeat`.
    pub run: u32,
    /// Number of the try of this run, from 1; above 1 only after a failure.
    pub attempt: u32,
}

impl Id {
    /// Removes later tries of the same run from `tries`. When this try starts and later ones exist, an
    /// earlier farm made them, before the VM was changed.
    pub fn forget_later<T>(&self, tries: &mut BTreeMap<Self, T>) {
        for attempt in self.attempt.saturating_add(1)..=u32::MAX {
            if tries.remove(&Self { attempt, ..self.clone() }).is_none() {
                break;
            }
        }
    }
}

/// Start of a try of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VmStarted {
    /// Identity of the try that starts.
    #[serde(flatten)]
    pub id: Id,
    /// Directory of the try's files, relative to the results directory.
    pub directory: PathBuf,
    /// SHA-256 of everything the suite says about the VM, as 64 hexadecimal digits.
    pub definition: String,
}

/// End of a try of a VM, with its verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VmFinished {
    /// Identity of the try that ended.
    #[serde(flatten)]
    pub id: Id,
    /// Directory of the try's files, relative to the results directory.
    pub directory: PathBuf,
    /// Verdict on the try, or the reason why there is none.
    pub status: Status,
    /// True if the same run is going to be retried.
    pub again: bool,
    /// True if this try passed after an earlier try of the same run failed.
    pub flaky: bool,
    /// URL at which this failure is tracked; null for a failure that is not known, and for a pass.
    pub known: Option<String>,
    /// Reason for the status in one sentence; null if the status needs none.
    pub reason: Option<String>,
    /// First hang in the try's report; null if the guest did not hang.
    pub hang: Option<HangSummary>,
    /// Milliseconds from the start of the VM's process to its end.
    pub elapsed_ms: f64,
    /// Paths of the try's files relative to `directory`, by `report`, `text`, `html`, `core`, `console` or
    /// `stderr`; files that are missing or empty are left out.
    pub files: BTreeMap<String, PathBuf>,
}

/// Summary of the first hang in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HangSummary {
    /// Class of the hang, such as `deadlock`.
    pub class: Class,
    /// Signature of the hang, as 16 hexadecimal digits: equal for equal hangs.
    pub signature: String,
    /// Names of the CPUs and tasks to blame.
    pub blamed: Vec<String>,
    /// Names of the locks that are part of the hang.
    pub locks: Vec<String>,
    /// Innermost function of the blamed stack that is not merely one to wait in; null if there is none.
    pub function: Option<String>,
}

/// Verdicts on a try, and reasons for having none.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The guest ended as the suite expects.
    Pass,
    /// The guest left with another exit code or printed something else than expected.
    Fail,
    /// The guest hung unexpectedly, or hung in another way than expected.
    Hang,
    /// The guest's kernel panicked or crashed unexpectedly.
    Crash,
    /// The guest had not ended within its time limit.
    Timeout,
    /// The host did not schedule the guest's vCPUs: no verdict.
    Starved,
    /// The tool failed, or its process was killed: no verdict.
    Broken,
    /// The try was stopped together with the farm: no verdict.
    Interrupted,
}

impl Status {
    /// True if the status says something about the guest. A farm that resumes runs tries without a verdict
    /// again.
    pub fn is_verdict(self) -> bool {
        !matches!(self, Self::Starved | Self::Broken | Self::Interrupted)
    }

    /// Returns the status as events spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Hang => "hang",
            Self::Crash => "crash",
            Self::Timeout => "timeout",
            Self::Starved => "starved",
            Self::Broken => "broken",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Totals of a run at its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FarmFinished {
    /// Number of runs by the status of their last try, those of a resumed farm included.
    pub counts: BTreeMap<Status, u64>,
    /// Number of passed runs that needed more than one try.
    pub flaky: u64,
    /// Number of failed runs whose failure is known.
    pub known: u64,
    /// Number of different signatures among the hangs.
    pub distinct_hangs: u64,
    /// Number of planned runs that did not start, or were interrupted.
    pub not_run: u64,
    /// Milliseconds from the start of this farm to its end.
    pub elapsed_ms: f64,
}

/// Returns the JSON schema of [`FarmEvent`], as docs/farm-events.schema.json holds it.
pub fn schema() -> String {
    nmiscope_report::json::schema_of::<FarmEvent>()
}
