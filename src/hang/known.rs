//! Hangs of a guest with a known kernel.
//!
//! Owns which parties form one hang and which hangs are reported together; refuses to own what makes a
//! class (`class`). Called by `judge`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nmiscope_report::Class;

use super::ages::Age;
use super::class::{self, cpu_lockup, deadlock, lock_wait, pending_work, soft_lockup};
use super::group::{WaiterGroup, groups};
use super::guest::KnownGuest;
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
    // Wait for such a CPU, which may be as much to blame; but not forever, since the host may never run
    // it.
    let early = |hang: &DetectedHang| {
        guest.bounds.get(hang.class).is_some_and(|bound| hang.age < bound * 2)
    };
    if hangs.iter().all(early) && others.any(|cpu| is_undecided(guest, cpu)) {
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
    let explained: BTreeSet<Node> =
        groups_of_now.values().flat_map(|group| group.members.iter().copied()).collect();
    let mut found: Vec<DetectedHang> = groups_of_now
        .into_iter()
        .filter_map(|(root, group)| {
            let (class, age) = classify(guest, &root, &group)?;
            let group = group.merged_with(victims.remove(&root).unwrap_or_default());
            let blamed = class::rule(class).blames(guest, &root, &group.edges);
            Some(group.into_hang(guest, (class, age), &root, blamed))
        })
        .collect();
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

/// Merges candidates into one hang of each class that is due, and one of each cycle, with all that have
/// reached half of the bound: CPUs that hang together do not stop in the same interval.
fn merge(guest: &KnownGuest<'_>, found: Vec<DetectedHang>) -> Vec<DetectedHang> {
    let is_due = |hang: &&DetectedHang| guest.bounds.is_due(hang.class, hang.age);
    let due: BTreeSet<Class> = found.iter().filter(is_due).map(|hang| hang.class).collect();
    let mut merged = BTreeMap::<(Class, Vec<Node>), DetectedHang>::new();
    let found = found.into_iter().filter(|hang| due.contains(&hang.class));
    for hang in found.filter(|hang| guest.bounds.is_half_due(hang.class, hang.age)) {
        // Two cycles are independent, or they would be one.
        let cycle = hang.blamed.iter().copied().filter(|_| hang.class.is_cycle());
        match merged.entry((hang.class, cycle.collect())) {
            Entry::Occupied(mut first) => first.get_mut().absorb(hang),
            Entry::Vacant(first) => {
                first.insert(hang);
            }
        }
    }
    merged.into_values().collect()
}
