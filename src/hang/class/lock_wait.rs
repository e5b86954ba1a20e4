//! lock-wait: parties wait for one that is not itself stuck, and get no turn.
//!
//! Due when all waiters have waited for the bound, when the CPUs that are to answer them have had that
//! time to answer, and when the locks between them have stayed with their holders. Holds while one waiter
//! still waits. Blames the tasks that hold a lock and could run, or else the party that all wait for.
//!
//! Owns this rule; refuses to own ages (`ages`) and the search for parties (`known`, `unknown`). Called
//! through the tables in `class`.

use std::collections::BTreeSet;
use std::time::Duration;

use nmiscope_report::Class;

use super::deadlock;
use super::rule::{AgeIter, Behaviour, Rule};
use crate::hang::ages::Unchanged;
use crate::hang::group::{WaiterGroup, parties_at, tasks_on};
use crate::hang::guest::KnownGuest;
use crate::hang::verdict::DetectedHang;
use crate::hang::wait_graph::{Edge, Node, Root};

/// Rule of the lock-wait class.
pub struct LockWait;

impl Rule for LockWait {
    fn class(&self) -> Class {
        Class::LockWait
    }

    fn behaviour(&self) -> Behaviour {
        Behaviour { returns_to_main_loop: true, takes_interrupts: true, ..Behaviour::RUNS }
    }

    fn is_wait_root(&self) -> bool {
        true
    }

    fn ages<'a>(&self, guest: &KnownGuest<'a>) -> AgeIter<'a> {
        let ages = guest.ages;
        let answers = ages.cpus.iter().map(|cpu| &cpu.answer).chain(&ages.answers);
        // A holder may have taken its lock after the waiters began to wait.
        let locks = ages.locks.values().map(Unchanged::own);
        Box::new(deadlock::waits(guest).chain(answers.map(Unchanged::own)).chain(locks))
    }

    /// The waiters count: a party that keeps a lock may make progress with everything else.
    fn rests_on<'h>(&self, hang: &'h DetectedHang) -> &'h [Node] {
        if hang.victims.is_empty() { &hang.blamed } else { &hang.victims }
    }

    fn unchanged_for(&self, guest: &KnownGuest<'_>, node: Node) -> Option<Duration> {
        Some(guest.wait_age(node)?.own)
    }

    fn blames(&self, guest: &KnownGuest<'_>, root: &Root, edges: &BTreeSet<Edge>) -> Vec<Node> {
        let run = tasks_on(guest, root, edges);
        if run.is_empty() { parties_at(guest, root, edges) } else { run }
    }
}

/// Returns the class of a group that is kept waiting, and its age. The youngest wait counts, since a
/// waiter that the host does not run may be the next in turn. A lock that changes hands past a waiter
/// adds neither its holders nor its other waiters.
pub fn found(guest: &KnownGuest<'_>, group: &WaiterGroup) -> Option<(Class, Duration)> {
    let members = group.members.iter().filter_map(|&node| guest.wait_age(node));
    let waited = members.clone().map(|age| age.wall).min()?;
    let locks = group.members.iter().filter_map(|&node| match node {
        Node::Lock(address) if !guest.ages.changes_hands(address, waited) => {
            let holder = guest.kernel.locks.get(&address)?.holder;
            let held = holder.map(|_| guest.ages.lock(address));
            guest.wait_ages_for_lock(address).chain(held).map(|age| age.own).min()
        }
        _ => None,
    });
    let answers = group.members.iter().filter_map(|&node| match node {
        Node::Cpu(cpu) => guest.ages.cpu(cpu).answer.age_if_present(),
        Node::Task(task) => guest.ages.answer(task),
        Node::Lock(_) | Node::Queue(_) => None,
    });
    let ages = members.chain(answers).map(|age| age.own);
    Some((Class::LockWait, ages.chain(locks).min()?))
}
