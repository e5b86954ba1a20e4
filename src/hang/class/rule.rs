//! Rules: the traits that decide when a class is due, whether a hang still holds, and which parties it
//! blames.
//!
//! Owns the two traits, for known and for unknown kernels. Implemented by the files of the classes,
//! called through the tables in `class`.

use std::collections::BTreeSet;
use std::time::Duration;

use nmiscope_report::Class;

use crate::hang::ages::Age;
use crate::hang::group::parties_at;
use crate::hang::guest::{KnownGuest, UnknownGuest};
use crate::hang::verdict::DetectedHang;
use crate::hang::wait_graph::{Edge, Node, Root};

/// Behaviour of the blamed parties while a hang of a class lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// True if they keep executing and may be elsewhere a moment later; parties of the other classes wait
    /// for each other, or stay halted.
    pub keeps_running: bool,
    /// True if they return to their main loop.
    pub returns_to_main_loop: bool,
    /// True if their CPUs still take interrupts.
    pub takes_interrupts: bool,
    /// True if their CPUs have work that is not done.
    pub has_work: bool,
}

impl Behaviour {
    /// Blamed parties that stay where they are.
    pub(super) const STAYS: Self = Self {
        keeps_running: false,
        returns_to_main_loop: false,
        takes_interrupts: false,
        has_work: false,
    };
    /// Blamed parties that keep executing and that only an NMI reaches.
    pub(super) const RUNS: Self = Self { keeps_running: true, ..Self::STAYS };
}

/// Ages of everything that may become a hang of a class.
pub type AgeIter<'a> = Box<dyn Iterator<Item = Duration> + 'a>;

/// Rule of a class for a guest whose kernel is known.
pub trait Rule: Sync {
    /// Returns the class of the rule.
    fn class(&self) -> Class;

    /// Returns the behaviour of the parties that the class blames.
    fn behaviour(&self) -> Behaviour;

    /// Returns true if the class has the long default bound.
    fn has_long_bound(&self) -> bool {
        false
    }

    /// Returns true if a chain of waits may end at a hang of the class: a wait counts once it is half as
    /// old as the smallest bound among such classes.
    fn is_wait_root(&self) -> bool {
        false
    }

    /// Returns the ages of everything that may become a hang of the class.
    fn ages<'a>(&self, _: &KnownGuest<'a>) -> AgeIter<'a> {
        Box::new(std::iter::empty())
    }

    /// Returns the age by which a CPU may become a hang of the class on its own; `None` if it may not.
    fn age_of_cpu(&self, _: &KnownGuest<'_>, _cpu: u32) -> Option<Age> {
        None
    }

    /// Returns the parties whose lack of progress makes the hang hold.
    fn rests_on<'h>(&self, hang: &'h DetectedHang) -> &'h [Node] {
        &hang.blamed
    }

    /// Returns the time for which a party has made no progress; `None` for a party that has no part in
    /// the hang.
    fn unchanged_for(&self, guest: &KnownGuest<'_>, node: Node) -> Option<Duration>;

    /// Returns the parties to blame for a group whose `edges` lead to `root`.
    fn blames(&self, guest: &KnownGuest<'_>, root: &Root, edges: &BTreeSet<Edge>) -> Vec<Node> {
        parties_at(guest, root, edges)
    }

    /// Returns true while a reported hang lasts: at least one of its parties has made no progress since.
    fn holds(&self, guest: &KnownGuest<'_>, hang: &DetectedHang) -> bool {
        let still = self.rests_on(hang).iter().filter_map(|&node| self.unchanged_for(guest, node));
        let is_half_due = |age| guest.bounds.is_half_due_for(self.class(), hang.asleep, age);
        still.into_iter().any(is_half_due)
    }
}

/// Rule of a class that is also detected in a guest whose kernel is unknown.
pub trait UnknownRule: Rule {
    /// Returns the age by which a vCPU may become a hang of the class.
    fn age_of_vcpu(&self, guest: &UnknownGuest<'_>, cpu: u32) -> Duration;

    /// Returns the age from which a hang of a vCPU is due; `None` if the class is disabled.
    fn bound_of_vcpu(&self, guest: &UnknownGuest<'_>, _cpu: u32) -> Option<Duration> {
        guest.bounds.get(self.class())
    }

    /// Returns the hang of the vCPUs whose age has reached the bound.
    fn found(&self, guest: &UnknownGuest<'_>) -> Option<DetectedHang>;

    /// Returns the time for which a blamed vCPU has made no progress.
    fn vcpu_unchanged_for(&self, guest: &UnknownGuest<'_>, cpu: u32) -> Duration;

    /// Returns true while a reported hang lasts.
    fn holds_for_vcpus(&self, guest: &UnknownGuest<'_>, hang: &DetectedHang) -> bool {
        hang.blamed.iter().any(|node| match *node {
            Node::Cpu(cpu) => {
                guest.bounds.is_half_due(self.class(), self.vcpu_unchanged_for(guest, cpu))
            }
            Node::Task(_) | Node::Lock(_) | Node::Queue(_) => false,
        })
    }
}

/// Returns the age of a task's wait, or `of_cpu` for a CPU; `None` for a lock or queue.
pub(super) fn task_or_cpu_age(
    guest: &KnownGuest<'_>,
    node: Node,
    of_cpu: impl FnOnce(u32) -> Duration,
) -> Option<Duration> {
    match node {
        Node::Cpu(cpu) => Some(of_cpu(cpu)),
        Node::Task(task) => Some(guest.ages.task(task).own),
        Node::Lock(_) | Node::Queue(_) => None,
    }
}
