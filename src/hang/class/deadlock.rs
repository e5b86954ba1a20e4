//! deadlock: a cycle of CPUs and tasks that wait for each other.
//!
//! Due when each of them has waited for the bound. Holds while at least one of them is still in the same
//! wait. Blames all of them.
//!
//! Owns this rule; refuses to own ages (`ages`) and the search for parties (`known`, `unknown`). Called
//! through the tables in `class`.

use std::time::Duration;

use nmiscope_report::Class;

use super::rule::{AgeIter, Behaviour, Rule};
use crate::hang::guest::KnownGuest;
use crate::hang::wait_graph::Node;
use crate::kernel::{TaskRunState, WaitFor};

/// Rule of the deadlock class.
pub struct Deadlock;

impl Rule for Deadlock {
    fn class(&self) -> Class {
        Class::Deadlock
    }

    fn behaviour(&self) -> Behaviour {
        Behaviour::STAYS
    }

    fn is_wait_root(&self) -> bool {
        true
    }

    fn ages<'a>(&self, guest: &KnownGuest<'a>) -> AgeIter<'a> {
        Box::new(waits(guest))
    }

    fn unchanged_for(&self, guest: &KnownGuest<'_>, node: Node) -> Option<Duration> {
        Some(guest.wait_age(node)?.own)
    }
}

/// Returns the class of a cycle, and the age of its youngest wait.
pub fn found(guest: &KnownGuest<'_>, cycle: &[Node]) -> Option<(Class, Duration)> {
    let waits = cycle.iter().filter_map(|&node| guest.wait_age(node));
    Some((Class::Deadlock, waits.map(|age| age.own).min()?))
}

/// Returns the ages of all waits for a lock or a CPU. A task that sleeps on a queue waits for no known
/// party.
pub(super) fn waits<'a>(guest: &KnownGuest<'a>) -> impl Iterator<Item = Duration> + use<'a> {
    let KnownGuest { ages, kernel, .. } = *guest;
    let tasks = ages.tasks.iter().zip(kernel.tasks.iter().map(Option::as_ref));
    let tasks = tasks.filter(move |(_, task)| {
        task.filter(|task| task.state == TaskRunState::Blocked)
            .and_then(|task| task.wait.as_ref())
            .is_some_and(|wait| !matches!(wait.what, WaitFor::Queue(_)))
    });
    ages.cpus.iter().map(|cpu| cpu.wait.own()).chain(tasks.map(|(age, _)| age.own()))
}
