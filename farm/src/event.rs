//! What happens during a farm's run, as it happens: the one interface between the runner and those
//! who tell of it, and, a line each, the journal in the results directory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nmiscope_report::Class;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// The version of what an event looks like as JSON: raised when an old reader would be wrong.
pub const EVENT_SCHEMA_VERSION: u32 = 2;

/// Something that has happened, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "nmiscope farm event")]
pub struct Event {
    /// Time of the event by the host's clock, in UTC, as RFC 3339 has it: `2026-01-02T03:04:05.678Z`.
    // Version 1 had milliseconds since the Unix epoch here, as `at_ms`.
    #[serde(alias = "at_ms")]
    pub time: Timestamp,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// The farm starts, or goes on with a run that was interrupted.
    FarmStarted(FarmStarted),
    /// A VM starts.
    VmStarted(VmStarted),
    /// A VM is over, and this is what is to be said of it.
    VmFinished(Box<VmFinished>),
    /// The farm has been asked to end: nothing new is started.
    FarmInterrupted {
        /// A signal's name, `--fail-fast` or `--until-hang`.
        by: String,
    },
    /// All is over.
    FarmFinished(FarmFinished),
}

/// What a run is about to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FarmStarted {
    /// [`EVENT_SCHEMA_VERSION`].
    #[serde(alias = "version")]
    pub schema_version: u32,
    /// The tool's version.
    pub tool: String,
    /// The suite's file.
    pub suite: String,
    /// The host's name.
    pub host: String,
    /// How many runs of VMs there are to be: VMs, times how often each is repeated.
    pub planned: u64,
    /// Of which so many are already done, by the run that this one resumes.
    pub done: u64,
    /// Runs that were going on when an earlier farm on this directory died: by name.
    pub lost: Vec<String>,
    /// VMs whose results until here do not count any more: they are planned no more, or are not what
    /// they were.
    #[serde(default)]
    pub stale: Vec<String>,
    /// The seed of the order; null for the suite's order.
    pub seed: Option<u64>,
    /// The part of the suite that is run here, as `hash:1/4`; null for all of it.
    pub partition: Option<String>,
    /// CPUs that may be given to VMs at a time.
    pub cpus: u32,
    /// Bytes of memory that may be given to VMs at a time.
    pub memory_bytes: u64,
}

/// Which try of which run of which VM.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct Id {
    /// The VM's name.
    pub name: String,
    /// Which run of it, from 1 on: more than one with `--repeat`.
    pub run: u32,
    /// Which try of that run, from 1 on: more than one after a failure.
    pub attempt: u32,
}

impl Id {
    /// Takes away the tries of the same run that come after this one: when this one starts, they are of
    /// an earlier farm, which ran the VM when it was another one.
    pub fn forget_later<T>(&self, tries: &mut BTreeMap<Self, T>) {
        for attempt in self.attempt.saturating_add(1)..=u32::MAX {
            if tries.remove(&Self { attempt, ..self.clone() }).is_none() {
                break;
            }
        }
    }
}

/// A VM starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VmStarted {
    /// Which.
    #[serde(flatten)]
    pub id: Id,
    /// Where its files are, relative to the results directory.
    pub directory: PathBuf,
    /// A hash of all that the suite says of the VM: SHA-256, as 64 hexadecimal digits.
    pub definition: String,
}

/// A VM is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VmFinished {
    /// Which.
    #[serde(flatten)]
    pub id: Id,
    /// Where its files are, relative to the results directory.
    pub directory: PathBuf,
    /// How it went.
    pub status: Status,
    /// Whether it is going to be tried again.
    pub again: bool,
    /// Whether an earlier try of the same run failed that this one makes good: it is flaky.
    pub flaky: bool,
    /// A failure that is known: where it is tracked; null for one that is not known, and for none.
    pub known: Option<String>,
    /// Why, in one sentence; null if there is nothing to explain.
    pub reason: Option<String>,
    /// How the guest hung; null if it did not.
    pub hang: Option<HangSummary>,
    /// How long it took, in milliseconds, from the start of its process to its end.
    pub elapsed_ms: f64,
    /// Its files: `report`, `core`, `console`, `stderr`; by name, those that there are, relative to
    /// `directory`.
    pub files: BTreeMap<String, PathBuf>,
}

/// The first hang of a report, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HangSummary {
    /// In which way.
    pub class: Class,
    /// The hang's signature: 16 hexadecimal digits.
    pub signature: String,
    /// Who is to blame.
    pub blamed: Vec<String>,
    /// The locks that have to do with it.
    pub locks: Vec<String>,
    /// The innermost function of the blamed stack that tells more than that it waits; null if there
    /// is none.
    pub function: Option<String>,
}

/// How a VM went.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As expected.
    Pass,
    /// Another exit code or another console than expected.
    Fail,
    /// It hung, and that was not expected; or in another way than was.
    Hang,
    /// Its kernel panicked, or it crashed, and that was not expected.
    Crash,
    /// It had not ended within its time limit.
    Timeout,
    /// The host did not run it: no verdict.
    Starved,
    /// The tool failed, or its process died: no verdict.
    Broken,
    /// It was ended with the farm: no verdict.
    Interrupted,
}

impl Status {
    /// Whether it says something about the guest. What has no verdict is run again by a farm that
    /// resumes.
    pub fn is_verdict(self) -> bool {
        !matches!(self, Self::Starved | Self::Broken | Self::Interrupted)
    }

    /// Its name, as events have it.
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

/// All is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FarmFinished {
    /// How many runs ended in which way, by their last try; a run that was resumed counts all of it.
    pub counts: BTreeMap<Status, u64>,
    /// Of the passes, so many needed more than one try.
    pub flaky: u64,
    /// Of the others, so many are known.
    pub known: u64,
    /// Different signatures among the hangs.
    pub distinct_hangs: u64,
    /// Runs that were planned and not started.
    pub not_run: u64,
    /// How long it took, in milliseconds.
    pub elapsed_ms: f64,
}

/// The JSON schema of an [`Event`], as docs/farm-events.schema.json holds it.
pub fn schema() -> String {
    nmiscope_report::json::schema_of::<Event>()
}
