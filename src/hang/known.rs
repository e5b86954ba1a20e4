//! Hangs of a guest with a known kernel.
//!
//! Owns which parties form one hang and which hangs are reported together; refuses to own what makes a
//! class (`class`). Called by `judge`.
//!
//! Once a hang is due, everything that has made no progress since about the same time is reported with it,
//! of whatever class: the reader has to see all of it to find the cause, and the run may end with the
//! report. What has not lasted for nearly its own bound is reported as a suspicion.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nmiscope_report::Class;

use super::ages::Age;
use super::class::pending_work::Explained;
use super::class::{self, cpu_lockup, deadlock, lock_wait, pending_work, soft_lockup};
use super::group::{WaiterGroup, all_sleep, groups};
use super::guest::KnownGuest;
use super::moment::{is_endless, suspicion};
use super::verdict::DetectedHang;
use super::wait_graph::{Node, Root, WaitChains};

/// Returns the hangs that are due and for which `is_reported` is false.
pub fn hangs(
    guest: &KnownGuest<'_>,
    is_reported: impl Fn(&DetectedHang) -> bool,
) -> Vec<DetectedHang> {
    let mut found = candidates(guest);
    found.retain(|hang| !is_reported(hang));
    let hangs = merge(guest, found);
    let known: BTreeSet<Node> =
        hangs.iter().flat_map(|hang| hang.blamed.iter().chain(&hang.victims).copied()).collect();
    let mut others = guest.cpus().filter(|&cpu| !known.contains(&Node::Cpu(cpu)));
    // Wait for such a CPU, which may be as much to blame, and for one that has nearly come to its bound; but
    // not forever, since the host may never run it.
    let early = |hang: &DetectedHang| {
        hang.bound(guest.bounds).is_some_and(|bound| hang.age < bound.saturating_mul(2))
    };
    let mut is_undecided = || {
        let is_open = |hang| is_open(guest, hang);
        hangs.iter().any(is_open) || others.any(|cpu| is_undecided(guest, cpu))
    };
    if hangs.iter().all(early) && is_undecided() {
        return Vec::new();
    }
    hangs
}

/// Returns the hangs that are due, without waiting for others.
pub fn due(guest: &KnownGuest<'_>) -> Vec<DetectedHang> {
    merge(guest, candidates(guest))
}

/// Returns true while a reported hang lasts.
pub fn holds(guest: &KnownGuest<'_>, hang: &DetectedHang) -> bool {
    class::rule(hang.class).holds(guest, hang)
}

/// Returns the time until the first hang that may become due.
pub fn remaining(guest: &KnownGuest<'_>) -> Option<Duration> {
    let rules = class::ALL.into_iter();
    let of_rule = |rule: &dyn class::Rule| {
        let ages = rule.ages(guest);
        ages.filter_map(|age| guest.bounds.remaining(rule.class(), age)).min()
    };
    rules.filter_map(of_rule).min()
}

/// Returns the group with the most waits, and its root.
pub fn largest_group(guest: &KnownGuest<'_>) -> Option<(Root, WaiterGroup)> {
    let chains = WaitChains::new(guest.kernel, guest.ages, guest.min_wait_age);
    let groups = groups(guest, &chains, |cpu| classify_cpu(guest, cpu).is_some()).into_iter();
    let waiting = groups.filter(|(_, group)| !group.edges.is_empty());
    waiting.max_by_key(|(_, group)| group.edges.len())
}

/// Returns everything that may be a hang, due or not.
fn candidates(guest: &KnownGuest<'_>) -> Vec<DetectedHang> {
    let is_stuck = |cpu| classify_cpu(guest, cpu).is_some();
    let chains = WaitChains::new(guest.kernel, guest.ages, guest.min_wait_age);
    let groups_of_now = groups(guest, &chains, is_stuck);
    // Without groups, as at nearly every observation of a healthy guest, there are no victims to find.
    let mut victims = if groups_of_now.is_empty() {
        BTreeMap::new()
    } else {
        groups(guest, &chains.by_wall_clock(), is_stuck)
    };
    let mut explained = Explained::default();
    let mut found = Vec::new();
    for (root, group) in groups_of_now {
        let members = group.members.clone();
        let hang = classify(guest, &root, &group).map(|(class, age)| {
            let group = group.merged_with(victims.remove(&root).unwrap_or_default());
            let blamed = class::rule(class).blames(guest, &root, &group.edges);
            let hang = group.into_hang(guest, (class, age), &root, blamed);
            let asleep = class::rests_on_waiters(class)
                && all_sleep(guest, &hang.edges)
                && !is_endless(guest.kernel, &hang);
            DetectedHang { asleep, ..hang }
        });
        let is_patient = |hang: &DetectedHang| hang.asleep && !hang.is_due(guest.bounds);
        match hang.as_ref().is_some_and(is_patient) {
            true => explained.patiently.extend(members),
            false => explained.at_once.extend(members),
        }
        found.extend(hang);
    }
    found.extend(pending_work::found(guest, &explained));
    found
}

/// Returns the class of a group, and its age.
fn classify(guest: &KnownGuest<'_>, root: &Root, group: &WaiterGroup) -> Option<(Class, Duration)> {
    match root {
        Root::Cycle(nodes) => deadlock::found(guest, nodes),
        &Root::One(Node::Cpu(cpu)) => {
            classify_cpu(guest, cpu).or_else(|| lock_wait::found(guest, group))
        }
        Root::One(_) => lock_wait::found(guest, group),
    }
}

/// Returns the class of a CPU that makes no progress and waits for no other, and its age. The class does
/// not depend on which one is due first.
fn classify_cpu(guest: &KnownGuest<'_>, cpu: u32) -> Option<(Class, Duration)> {
    // Whoever holds the lock is to blame, not who waits for it in HLT.
    if guest.kernel.cpu(cpu).is_some_and(|activity| activity.waits_in_halt) {
        return None;
    }
    // The tick and the main loop of a tickless CPU rest together. A tick that goes on alone is taken by a loop
    // around HLT, somewhere else.
    let ages = guest.ages.cpu(cpu);
    if ages.awaits_timer() && ages.no_progress.wall >= ages.main_loop.age.wall * 3 / 4 {
        return None;
    }
    let main_loop = soft_lockup::main_loop_age(guest, cpu);
    cpu_lockup::found(guest, cpu, main_loop).or_else(|| soft_lockup::found(guest, cpu))
}

/// Returns true if a CPU may hang by the wall clock, and the host has not run it for long enough to
/// decide.
fn is_undecided(guest: &KnownGuest<'_>, cpu: u32) -> bool {
    let undecided = |class, age: Age| {
        let half_due = |age| guest.bounds.is_half_due(class, age);
        half_due(age.wall) && !half_due(age.own)
    };
    let mut rules = class::ALL.into_iter();
    rules.any(|rule| rule.age_of_cpu(guest, cpu).is_some_and(|age| undecided(rule.class(), age)))
}

/// Merges candidates into the hangs that are reported together; none if none of them is due.
///
/// All join that have reached half of their own bound, since parties that hang together do not stop in the
/// same interval, and all that have made no progress since about the same time. A class has one hang; cycles
/// are independent, or they would be one.
fn merge(guest: &KnownGuest<'_>, found: Vec<DetectedHang>) -> Vec<DetectedHang> {
    let kind = |hang: &DetectedHang| (hang.class, hang.asleep);
    let is_due = |hang: &&DetectedHang| hang.is_due(guest.bounds);
    let due: BTreeSet<(Class, bool)> = found.iter().filter(is_due).map(kind).collect();
    let since = found.iter().filter(is_due).map(|hang| stopped_for(guest, hang)).max();
    let Some(since) = since else { return Vec::new() };
    let mut merged = BTreeMap::<(Class, bool, bool, Vec<Node>), DetectedHang>::new();
    for mut hang in found {
        let is_half_due = guest.bounds.is_half_due_for(hang.class, hang.asleep, hang.age);
        let stopped = stopped_for(guest, &hang);
        let is_contemporary = stopped + TOGETHER >= since;
        // A party that the host has hardly run may just not have come to go on.
        let joins = is_half_due || is_contemporary && hang.age >= stopped / 2;
        if hang.bound(guest.bounds).is_none() || !joins {
            continue;
        }
        let is_like_due = due.contains(&kind(&hang)) || is_contemporary;
        let is_verdict = is_nearly_due(guest, &hang) || is_half_due && is_like_due;
        if !is_verdict {
            hang.certainty = suspicion(&hang, hang.bound(guest.bounds));
        }
        let cycle = hang.blamed.iter().copied().filter(|_| hang.class.is_cycle());
        let key = (hang.class, hang.asleep, !hang.certainty.is_verdict(), cycle.collect());
        match merged.entry(key) {
            Entry::Occupied(mut first) => first.get_mut().absorb(hang),
            Entry::Vacant(first) => {
                first.insert(hang);
            }
        }
    }
    merged.into_values().collect()
}

/// The most time between the observations at which two parties that stop together are seen to stop: each
/// interval adds at most 200 ms.
const TOGETHER: Duration = Duration::from_millis(300);

/// Returns true for a hang that has lasted for three quarters of its bound.
fn is_nearly_due(guest: &KnownGuest<'_>, hang: &DetectedHang) -> bool {
    hang.bound(guest.bounds).is_some_and(|bound| hang.age >= bound * 3 / 4)
}

/// Returns true for a suspicion beside a verdict that will soon be a verdict, or be over.
fn is_open(guest: &KnownGuest<'_>, hang: &DetectedHang) -> bool {
    let is_half_due = guest.bounds.is_half_due_for(hang.class, hang.asleep, hang.age);
    !hang.certainty.is_verdict() && is_half_due
}

/// Returns the wall-clock time for which a party of a hang has made no progress, the longest one.
fn stopped_for(guest: &KnownGuest<'_>, hang: &DetectedHang) -> Duration {
    let parties = hang.blamed.iter().chain(&hang.victims);
    let wall = |node: &Node| match *node {
        Node::Cpu(cpu) => {
            let ages = guest.ages.cpu(cpu);
            let ages = [ages.main_loop.age, ages.wait.age, ages.work.age, ages.ready.age];
            ages.into_iter().map(|age| age.wall).max()
        }
        Node::Task(task) => Some(guest.ages.task(task).wall.max(guest.ages.not_run(task).wall)),
        Node::Lock(_) | Node::Queue(_) => None,
    };
    parties.filter_map(wall).max().unwrap_or(hang.age)
}
