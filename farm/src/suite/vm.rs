//! One VM of a suite, with nothing left to default.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use nmiscope_report::Class;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most vCPUs that a VM can have: as many as the VMM has room for, which a suite is checked
/// against before there is one. A test of the command line holds the two equal.
pub const MAX_VCPUS: u32 = 512;

/// A VM to be run, and what is expected of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Its name, which no other VM of the suite has: parts with slashes between them.
    pub name: String,
    /// The image; `None` for the bundled guest.
    pub image: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// What the guest runs, as its kernel parameter `workload=`.
    pub workload: Option<String>,
    /// Other kernel parameters.
    pub append: String,
    /// vCPUs.
    pub cpus: u32,
    /// Bytes of guest memory.
    pub memory: u64,
    /// The guest should have ended by then, or been ended by `stop_after`.
    pub time_limit: Duration,
    /// Ends the run as a success, for a guest that does not end by itself.
    pub stop_after: Option<Duration>,
    /// How long the guest may take to get ready.
    pub ready_within: Duration,
    /// Bounds of hangs, as `run --hang-after` has them: `2s`, `livelock=30s`.
    pub hang_after: Vec<String>,
    /// How often it is tried again if it does not do what is expected.
    pub retries: u32,
    /// Tags, for filters.
    pub tags: BTreeSet<String>,
    /// How it is to end.
    pub expect: Expectation,
    /// What it is to print.
    pub console: ConsoleRules,
}

/// How a VM is to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Expectation {
    /// The guest leaves with code 0, or is stopped after its time.
    Pass,
    /// The guest leaves with this code.
    Exit {
        /// The code.
        code: u32,
    },
    /// The guest hangs.
    Hang {
        /// In this way; `None` for in any.
        class: Option<Class>,
        /// With these to blame, by the names that a report has for them, in any order; `None` for
        /// whoever it is.
        blamed: Option<BTreeSet<String>>,
    },
    /// The guest's kernel panics, with a message that matches this regular expression.
    Panic {
        /// The expression; `None` for whatever it says.
        message: Option<String>,
    },
    /// The guest crashes other than by a panic: a triple fault, a reset, an error of KVM's.
    Crash,
}

/// What a VM is to print on its console: regular expressions, each for one line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConsoleRules {
    /// Some line matches each of these.
    pub must: Vec<String>,
    /// No line matches any of these.
    pub must_not: Vec<String>,
}
