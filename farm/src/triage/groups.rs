//! Groups failures by signature as they arrive, in any order. Of each group it keeps the counts and the
//! newest failure.
//!
//! Owns the counts; refuses to own the search for reports (`scan`) and the signatures (`failure`). Called
//! by `scan`.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use super::days::FailureDays;
use super::failure::{Failure, FailureKind};
use super::report_summary;
use super::stacks::{self, IsPlumbing, Stack};
use super::{FailureGroup, parallel};
use crate::timestamp::Timestamp;

/// A run of a VM, or a report that belongs to no farm.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunKey {
    /// Name of the VM, or of the report's file.
    pub name: Arc<str>,
    /// Number of the results directory or report among all sources of the scan.
    pub source: u64,
    /// Number of the run of this VM.
    pub run: u32,
}

/// Groups under construction, by kind and signature.
#[derive(Debug, Default)]
pub struct Groups {
    by_signature: HashMap<(FailureKind, String), Members>,
}

#[derive(Debug)]
struct Members {
    count: u64,
    runs: BTreeSet<RunKey>,
    first_seen: Timestamp,
    last_seen: Timestamp,
    days: FailureDays,
    newest: Sighting,
}

/// A failure with its time and report; the report is `None` if it cannot be read.
#[derive(Debug)]
struct Sighting {
    time: Timestamp,
    report: Option<PathBuf>,
    failure: Failure,
}

impl Sighting {
    /// True if this failure is the better exemplar: one with a report, or else the newer one.
    fn is_better_than(&self, other: &Self) -> bool {
        let rank = |seen: &Self| (seen.report.is_some(), seen.time, seen.report.clone());
        rank(self) > rank(other)
    }
}

impl Groups {
    /// Adds a failure to its group.
    pub fn add(
        &mut self,
        run: &RunKey,
        time: Timestamp,
        report: Option<PathBuf>,
        failure: Failure,
    ) {
        let key = (failure.kind, failure.signature.clone());
        let seen = Sighting { time, report, failure };
        let Some(members) = self.by_signature.get_mut(&key) else {
            let mut days = FailureDays::default();
            days.add(time);
            let members = Members {
                count: 1,
                runs: BTreeSet::from([run.clone()]),
                first_seen: time,
                last_seen: time,
                days,
                newest: seen,
            };
            self.by_signature.insert(key, members);
            return;
        };
        members.days.add(time);
        members.count += 1;
        members.runs.insert(run.clone());
        members.first_seen = members.first_seen.min(time);
        members.last_seen = members.last_seen.max(time);
        if seen.is_better_than(&members.newest) {
            members.newest = seen;
        }
    }

    /// Returns all groups, the most recently seen first, with the stacks of their exemplars.
    pub fn finish(self, is_plumbing: IsPlumbing) -> Vec<FailureGroup> {
        let all: Vec<Members> = self.by_signature.into_values().collect();
        let mut groups = Vec::with_capacity(all.len());
        let stacks = |members: &Members| stacks(members, is_plumbing);
        parallel::for_each(&all, stacks, |members, stacks| groups.push(group(members, stacks)));
        groups.sort_by(|a: &FailureGroup, b: &FailureGroup| {
            b.last_seen.cmp(&a.last_seen).then_with(|| a.signature.cmp(&b.signature))
        });
        groups
    }
}

fn stacks(members: &Members, is_plumbing: IsPlumbing) -> Vec<Stack> {
    let report =
        members.newest.report.as_ref().and_then(|path| report_summary::read_report(path).ok());
    report.map_or_else(Vec::new, |report| {
        stacks::blamed_stacks(&report, &members.newest.failure, is_plumbing)
    })
}

fn group(members: &Members, stacks: Vec<Stack>) -> FailureGroup {
    let Sighting { report, failure, .. } = &members.newest;
    let mut vms: Vec<String> = members.runs.iter().map(|run| run.name.to_string()).collect();
    vms.dedup();
    FailureGroup {
        signature: failure.signature.clone(),
        kind: failure.kind,
        class: failure.class,
        bucket: failure.bucket.clone(),
        message: failure.message.clone(),
        count: members.count,
        runs: members.runs.len() as u64,
        vms,
        first_seen: members.first_seen,
        last_seen: members.last_seen,
        by_day: members.days.counts(),
        blamed: failure.blamed.clone(),
        locks: failure.locks.clone(),
        // Events and summaries have no function for a blamed task: take it from the stack.
        function: failure.function.clone().or_else(|| innermost(&stacks)),
        stacks,
        exemplar: report.as_ref().map(|path| path.display().to_string()),
        known: None,
        was_known: None,
    }
}

fn innermost(stacks: &[Stack]) -> Option<String> {
    stacks.first().and_then(|stack| stack.functions.first()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(signature: &str, message: &str) -> Failure {
        Failure {
            kind: FailureKind::Panic,
            signature: signature.into(),
            class: None,
            bucket: None,
            message: Some(message.into()),
            blamed: Vec::new(),
            locks: Vec::new(),
            function: None,
        }
    }

    fn run(name: &str, run: u32) -> RunKey {
        RunKey { name: name.into(), source: 0, run }
    }

    #[test]
    fn group_does_not_depend_on_the_order_of_its_failures() {
        let seen = [("a", 1, 30, None), ("a", 1, 10, Some("x")), ("a", 2, 20, Some("y"))];
        let seen = [&seen[..], &[("b", 1, 5, Some("z"))]].concat();
        for shift in 0..seen.len() {
            let mut groups = Groups::default();
            for at in 0..seen.len() {
                let (name, number, unix_ms, path) = seen[(at + shift) % seen.len()];
                let said = format!("at {unix_ms}");
                let time = Timestamp::from_unix_ms(unix_ms);
                groups.add(&run(name, number), time, path.map(Into::into), failure("1", &said));
            }
            groups.add(&run("c", 1), Timestamp::from_unix_ms(31), None, failure("2", ""));
            let [newest, group]: [FailureGroup; 2] = groups.finish(|_| false).try_into().unwrap();
            assert_eq!((newest.signature.as_str(), newest.exemplar), ("2", None));
            assert_eq!((group.count, group.runs, group.vms), (4, 3, vec!["a".into(), "b".into()]));
            assert_eq!(
                (group.first_seen, group.last_seen),
                (Timestamp::from_unix_ms(5), Timestamp::from_unix_ms(30))
            );
            // The newest failure has no report, so the newest one with a report is the exemplar.
            assert_eq!(group.exemplar.as_deref(), Some("y"));
            assert_eq!(group.message.as_deref(), Some("at 20"));
        }
    }
}
