//! Changes between two scans: groups that are new or gone, and VMs that became flaky.
//!
//! Owns the comparison; refuses to own groups (`groups`) and their text (`text`). Called by the command
//! line.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use super::{FailureGroup, FailureKind, KnownFailures, ScanResult};

/// Changes from an old scan to a new one.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Diff {
    /// Groups that only the new scan has.
    pub new: Vec<FailureGroup>,
    /// Groups that only the old scan has.
    pub gone: Vec<GoneGroup>,
    /// Names of VMs that passed after a retry, or in some of their runs only, and did not do so in the old
    /// scan.
    pub flaky: Vec<String>,
    /// Number of groups that both scans have.
    pub stayed: u64,
}

/// A group that only the old scan has.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct GoneGroup {
    /// Group as the old scan has it.
    #[serde(flatten)]
    pub group: FailureGroup,
    /// True if the new scan has a verdict on one of the group's VMs. Without one, the absence says
    /// nothing.
    pub was_run: bool,
}

impl Diff {
    /// Compares an old scan with a new one.
    pub fn between(old: &ScanResult, new: &ScanResult) -> Self {
        let (before, now) = (signatures(old), signatures(new));
        let has = |all: &BTreeSet<_>, group: &FailureGroup| {
            all.contains(&(group.kind, &*group.signature))
        };
        let groups = &new.triage.groups;
        let (stayed, appeared): (Vec<&FailureGroup>, Vec<&FailureGroup>) =
            groups.iter().partition(|group| has(&before, group));
        let gone =
            old.triage.groups.iter().filter(|group| !has(&now, group)).map(|group| GoneGroup {
                was_run: group.vms.iter().any(|name| new.has_run(name)),
                group: group.clone(),
            });
        Self {
            new: appeared.into_iter().cloned().collect(),
            gone: gone.collect(),
            flaky: new.flaky().difference(&old.flaky()).map(|&name| name.into()).collect(),
            stayed: stayed.len() as u64,
        }
    }

    /// Marks the groups that are known.
    pub fn mark(&mut self, known: &KnownFailures) {
        let gone = self.gone.iter_mut().map(|gone| &mut gone.group);
        for group in self.new.iter_mut().chain(gone) {
            group.mark(known);
        }
    }
}

fn signatures(scan: &ScanResult) -> BTreeSet<(FailureKind, &str)> {
    scan.triage.groups.iter().map(|group| (group.kind, &*group.signature)).collect()
}
