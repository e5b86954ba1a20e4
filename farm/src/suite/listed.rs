//! The form in which `nmiscope farm --list --message-format json` prints a VM: one line of JSON.
//!
//! Owns that form (docs/farm-list.schema.json), apart from [`SuiteVm`], whose own serialization only feeds the
//! hash by which a resumed farm recognises a VM and must not change.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::vm::{ConsoleRules, Expectation, SuiteVm};

/// Version of [`ListedVm`] as JSON: raised when a field changes its meaning or goes away, not when one is
/// added.
pub const LIST_SCHEMA_VERSION: u32 = 1;

/// A VM that a farm would run, with all defaults of the suite filled in.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(title = "nmiscope farm --list")]
pub struct ListedVm<'a> {
    /// Version of this format, at present 1: raised when a field changes its meaning or goes away.
    pub schema_version: u32,
    /// Name of the VM, unique in its suite: parts with slashes between them.
    pub name: &'a str,
    /// Path of the kernel image on the host; null for the guest bundled with nmiscope.
    pub image: Option<&'a Path>,
    /// Path of the initial RAM disk on the host; null for none.
    pub initrd: Option<&'a Path>,
    /// Value of the kernel parameter `workload=`; null for none.
    pub workload: Option<&'a str>,
    /// Further kernel parameters, separated by spaces; may be empty.
    pub append: &'a str,
    /// Number of virtual CPUs, from 1 to 512.
    pub cpus: u32,
    /// Size of the guest's memory in bytes.
    pub memory_bytes: u64,
    /// Milliseconds of wall-clock time after which a guest that has not ended fails.
    pub time_limit_ms: f64,
    /// Milliseconds of wall-clock time after which the guest is stopped and counts as passed; null for
    /// never.
    pub stop_after_ms: Option<f64>,
    /// Milliseconds within which the guest must report that it is ready, or it hangs (boot-stall); 0
    /// disables the check.
    pub ready_within_ms: f64,
    /// Hang bounds, as `nmiscope run --hang-after` takes them: `2s` for all classes, `livelock=30s` for
    /// one.
    pub hang_after: &'a [String],
    /// Number of further tries after one that did not end as expected.
    pub retries: u32,
    /// Tags that `--filter` can select the VM by.
    pub tags: &'a BTreeSet<String>,
    /// Expected end of the guest.
    pub expect: &'a Expectation,
    /// Rules for the lines that the guest prints on its console.
    pub console: &'a ConsoleRules,
}

impl<'a> From<&'a SuiteVm> for ListedVm<'a> {
    fn from(vm: &'a SuiteVm) -> Self {
        let milliseconds = |duration: Duration| duration.as_micros() as f64 / 1000.0;
        Self {
            schema_version: LIST_SCHEMA_VERSION,
            name: &vm.name,
            image: vm.image.as_deref(),
            initrd: vm.initrd.as_deref(),
            workload: vm.workload.as_deref(),
            append: &vm.append,
            cpus: vm.cpus,
            memory_bytes: vm.memory,
            time_limit_ms: milliseconds(vm.time_limit),
            stop_after_ms: vm.stop_after.map(milliseconds),
            ready_within_ms: milliseconds(vm.ready_within),
            hang_after: &vm.hang_after,
            retries: vm.retries,
            tags: &vm.tags,
            expect: &vm.expect,
            console: &vm.console,
        }
    }
}

/// Returns the JSON schema of [`ListedVm`], as docs/farm-list.schema.json holds it.
pub fn schema() -> String {
    nmiscope_report::json::schema_of::<ListedVm<'_>>()
}
