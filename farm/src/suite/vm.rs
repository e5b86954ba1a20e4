//! A VM of a suite with all defaults filled in.
//!
//! The serialization of these types is not printed: it feeds the hash by which a resumed farm recognises a
//! VM (`results::hash_definition`), so any change to it makes that farm run the VM again. `listed` has the
//! printed form.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use nmiscope_report::Class;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum number of vCPUs, equal to the VMM's limit, against which a suite is checked before there is a
/// VMM. A test of the command line keeps the two equal.
pub const MAX_VCPUS: u32 = 512;

/// A VM to run, with its expected end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteVm {
    /// Name of the VM, unique in its suite: parts with slashes between them.
    pub name: String,
    /// Path of the kernel image; `None` for the bundled guest.
    pub image: Option<PathBuf>,
    /// Path of the initial RAM disk; `None` for none.
    pub initrd: Option<PathBuf>,
    /// Value of the kernel parameter `workload=`; `None` for none.
    pub workload: Option<String>,
    /// Further kernel parameters, separated by spaces.
    pub append: String,
    /// Number of vCPUs, from 1 to `MAX_VCPUS`.
    pub cpus: u32,
    /// Size of the guest's memory in bytes.
    pub memory: u64,
    /// Wall-clock time after which a guest that has not ended fails.
    pub time_limit: Duration,
    /// Wall-clock time after which the guest is stopped and counts as passed; `None` for never.
    pub stop_after: Option<Duration>,
    /// Time within which the guest must report that it is ready; zero disables the check.
    pub ready_within: Duration,
    /// Hang bounds, as `run --hang-after` takes them: `2s`, `livelock=30s`.
    pub hang_after: Vec<String>,
    /// Number of further tries after one that did not end as expected.
    pub retries: u32,
    /// Tags that `--filter` can select the VM by.
    pub tags: BTreeSet<String>,
    /// Expected end of the guest.
    pub expect: Expectation,
    /// Rules for the guest's console output.
    pub console: ConsoleRules,
}

/// Expected end of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Expectation {
    /// The guest leaves with code 0, or is stopped by `stop-after`.
    Pass,
    /// The guest leaves with this code.
    Exit {
        /// Exit code of the guest.
        code: u32,
    },
    /// The guest hangs, with this class and blame.
    Hang {
        /// Class of the hang; null for any class.
        class: Option<Class>,
        /// Names of exactly the parties to blame, as reports spell them, in any order; null for any
        /// parties.
        blamed: Option<BTreeSet<String>>,
    },
    /// The guest's kernel panics, with this message.
    Panic {
        /// Regular expression that the message matches; null for any message.
        message: Option<String>,
    },
    /// The guest crashes without a panic: a triple fault, a reset, or an error of KVM.
    Crash,
}

/// Rules for a guest's console output: regular expressions, each matched against single lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConsoleRules {
    /// Expressions that must each match some line.
    pub must: Vec<String>,
    /// Expressions that must match no line.
    pub must_not: Vec<String>,
}
