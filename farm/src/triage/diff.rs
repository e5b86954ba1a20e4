//! What has changed from one time to another.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use super::{FailureGroup, FailureKind, KnownFailures, ScanResult};

/// What has changed.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Diff {
    /// Groups that were not there, as they are now.
    pub new: Vec<FailureGroup>,
    /// Groups that are not there any more, as they were.
    pub gone: Vec<Gone>,
    /// VMs that have become flaky: now they passed at a second try, or in some of their runs only, and
    /// before they did not.
    pub flaky: Vec<String>,
    /// How many groups were there, and still are.
    pub stayed: u64,
}

/// A group that is not there any more.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Gone {
    /// As it was.
    #[serde(flatten)]
    pub group: FailureGroup,
    /// Whether there is a new verdict on any of its VMs. If not, that it is gone says nothing.
    pub was_run: bool,
}

impl Diff {
    /// What has changed from `old` to `new`.
    pub fn between(old: &ScanResult, new: &ScanResult) -> Self {
        let (before, now) = (signatures(old), signatures(new));
        let has = |all: &BTreeSet<_>, group: &FailureGroup| {
            all.contains(&(group.kind, &*group.signature))
        };
        let groups = &new.triage.groups;
        let (stayed, appeared): (Vec<&FailureGroup>, Vec<&FailureGroup>) =
            groups.iter().partition(|group| has(&before, group));
        let gone = old.triage.groups.iter().filter(|group| !has(&now, group)).map(|group| Gone {
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

fn signatures(of: &ScanResult) -> BTreeSet<(FailureKind, &str)> {
    of.triage.groups.iter().map(|group| (group.kind, &*group.signature)).collect()
}
