//! Tries that reporters remember until the end of a run, with their hangs grouped by signature.
//!
//! Owns which tries are kept and how they are grouped; refuses to own any text. Called by the reporters.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{EventKind, FarmEvent, HangSummary, Status, VmFinished};
use crate::timestamp::Timestamp;

/// A try that has ended.
#[derive(Debug, Clone)]
pub struct Try {
    /// Time at which the try ended.
    pub time: Timestamp,
    /// End event of the try.
    pub end: VmFinished,
}

/// Tries by the VM's name and the number of the run.
#[derive(Debug)]
pub struct Runs {
    tries: BTreeMap<(String, u32), Vec<Try>>,
    /// True if runs that passed at the first try are kept too.
    all: bool,
}

/// Runs that hung with the same signature.
#[derive(Debug)]
pub struct HangGroup<'a> {
    /// Summary of the earliest of these hangs.
    pub hang: &'a HangSummary,
    /// URL at which the hang is tracked; `None` if it is not known.
    pub known: Option<&'a str>,
    /// Earliest try that hung in this way.
    pub first: &'a Try,
    /// Number of runs that hung in this way and did not pass later.
    pub count: u64,
    /// Number of runs that hung in this way and passed in a later try.
    pub flaky: u64,
}

impl Runs {
    /// Keeps every run, also those that passed at once.
    pub fn keep_all() -> Self {
        Self { tries: BTreeMap::new(), all: true }
    }

    /// Keeps only runs with a failed try, so that memory is bounded by the number of failures.
    pub fn failures_only() -> Self {
        Self { tries: BTreeMap::new(), all: false }
    }

    /// Records an event. A try that is run again, because the farm was interrupted or died, replaces its
    /// former result and those of all later tries.
    pub fn record(&mut self, event: &FarmEvent) {
        let (id, end) = match &event.kind {
            EventKind::VmStarted(started) => (&started.id, None),
            EventKind::VmFinished(end) => (&end.id, Some(end)),
            _ => return,
        };
        let run = (id.name.clone(), id.run);
        if let Some(tries) = self.tries.get_mut(&run) {
            tries.retain(|earlier| earlier.end.id.attempt < id.attempt);
        }
        let Some(end) = end else { return };
        if !self.all && end.status == Status::Pass && end.id.attempt <= 1 {
            self.tries.remove(&run);
            return;
        }
        self.tries.entry(run).or_default().push(Try { time: event.time, end: (**end).clone() });
    }

    /// Returns the tries of each run, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = &[Try]> {
        self.tries.values().map(Vec::as_slice)
    }

    /// Returns the last tries of runs that failed, without tries that the farm itself interrupted.
    pub fn failed(&self) -> impl Iterator<Item = &Try> {
        let last = self.iter().filter_map(<[Try]>::last);
        last.filter(|last| !matches!(last.end.status, Status::Pass | Status::Interrupted))
    }

    /// Returns all tries of the runs that failed first and then passed.
    pub fn flaky(&self) -> impl Iterator<Item = &[Try]> {
        self.iter().filter(|tries| tries.last().is_some_and(|last| last.end.flaky))
    }

    /// Groups hangs by signature: unknown ones before known ones, then by frequency, most frequent first.
    pub fn hang_groups(&self) -> Vec<HangGroup<'_>> {
        let mut groups: BTreeMap<&str, HangGroup<'_>> = BTreeMap::new();
        for tries in self.iter() {
            let flaky = tries.last().is_some_and(|last| last.end.status == Status::Pass);
            let mut counted = BTreeSet::new();
            for one in tries.iter().filter(|one| one.end.status == Status::Hang) {
                let Some(hang) = &one.end.hang else { continue };
                let known = one.end.known.as_deref();
                let new = HangGroup { hang, known, first: one, count: 0, flaky: 0 };
                let group = groups.entry(&hang.signature).or_insert(new);
                group.known = group.known.or(known);
                if one.time < group.first.time {
                    (group.first, group.hang) = (one, hang);
                }
                if counted.insert(&hang.signature) {
                    *if flaky { &mut group.flaky } else { &mut group.count } += 1;
                }
            }
        }
        let mut groups: Vec<HangGroup<'_>> = groups.into_values().collect();
        groups.sort_by_key(|group| {
            let often = (group.count, group.flaky);
            (group.known.is_some(), std::cmp::Reverse(often), group.first.time)
        });
        groups
    }
}
