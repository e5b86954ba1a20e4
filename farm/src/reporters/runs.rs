//! What reporters remember of a run until its end: its tries, by run, and the hangs among them, by
//! signature.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Event, EventKind, HangSummary, Status, VmFinished};
use crate::timestamp::Timestamp;

/// A try that is over.
#[derive(Debug, Clone)]
pub struct Try {
    /// When that was: milliseconds since the Unix epoch.
    pub time: Timestamp,
    /// What was said of it.
    pub end: VmFinished,
}

/// Tries by run: the VM's name, and which run of it.
#[derive(Debug)]
pub struct Runs {
    tries: BTreeMap<(String, u32), Vec<Try>>,
    /// Runs that passed at once are kept too.
    all: bool,
}

/// Runs that hung in one way.
#[derive(Debug)]
pub struct HangGroup<'a> {
    /// In which.
    pub hang: &'a HangSummary,
    /// Where that is tracked.
    pub known: Option<&'a str>,
    /// The earliest try that did.
    pub first: &'a Try,
    /// So many runs did, and did not pass afterwards.
    pub count: u64,
    /// So many did, and passed afterwards.
    pub flaky: u64,
}

impl Runs {
    /// Keeps all of them.
    pub fn keep_all() -> Self {
        Self { tries: BTreeMap::new(), all: true }
    }

    /// Keeps those of which a try failed: what that takes is bounded by how many do, not by how many
    /// there are.
    pub fn failures_only() -> Self {
        Self { tries: BTreeMap::new(), all: false }
    }

    /// Takes note of an event. A try that is run again, because the farm was interrupted or died,
    /// takes the place of what was known of it and of all that followed.
    pub fn record(&mut self, event: &Event) {
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

    /// The tries of each run, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = &[Try]> {
        self.tries.values().map(Vec::as_slice)
    }

    /// The last tries of those that failed in the end, without those that the farm itself has ended.
    pub fn failed(&self) -> impl Iterator<Item = &Try> {
        let last = self.iter().filter_map(<[Try]>::last);
        last.filter(|last| !matches!(last.end.status, Status::Pass | Status::Interrupted))
    }

    /// Those that failed and then passed, all tries of each.
    pub fn flaky(&self) -> impl Iterator<Item = &[Try]> {
        self.iter().filter(|tries| tries.last().is_some_and(|last| last.end.flaky))
    }

    /// The hangs by signature: the unknown ones before the known ones, then the most frequent first.
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
