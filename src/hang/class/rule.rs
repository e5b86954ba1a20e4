//! What every class answers: when it is due, whether it still holds, whom it blames.
//!
//! Owns the two traits, one for a known kernel and one for an unknown one. Implemented by the files
//! of the classes, called through the tables in `class`.

use std::collections::BTreeSet;
use std::time::Duration;

use nmiscope_report::Class;

use crate::hang::ages::Age;
use crate::hang::group::parties_at;
use crate::hang::guest::{KnownGuest, UnknownGuest};
use crate::hang::verdict::DetectedHang;
use crate::hang::wait_graph::{Edge, Node, Root};

/// How those to blame go on while they hang in a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// They may be somewhere else a moment later. The others wait for each other, or for nothing.
    pub keeps_running: bool,
    /// They come back to their main loop.
    pub returns_to_main_loop: bool,
    /// Their CPUs go on taking interrupts.
    pub takes_interrupts: bool,
    /// Their CPUs have work that is not done.
    pub has_work: bool,
}

impl Behaviour {
    /// They stay where they are.
    pub(super) const STAYS: Self = Self {
        keeps_running: false,
        returns_to_main_loop: false,
        takes_interrupts: false,
        has_work: false,
    };
    /// They run on, and nothing but an NMI reaches them.
    pub(super) const RUNS: Self = Self { keeps_running: true, ..Self::STAYS };
}

/// Ages of things that stand still.
pub type AgeIter<'a> = Box<dyn Iterator<Item = Duration> + 'a>;

/// A class, in a guest whose kernel is known.
pub trait Rule: Sync {
    /// The class.
    fn class(&self) -> Class;

    /// The conduct of those to blame.
    fn behaviour(&self) -> Behaviour;

    /// True where the bound is the patient one unless told otherwise.
    fn has_long_bound(&self) -> bool {
        false
    }

    /// True where a line of waits may end at a hang of the class: a wait counts once it has lasted for
    /// half of the least bound of these.
    fn is_wait_root(&self) -> bool {
        false
    }

    /// The ages of all that may make a hang of the class.
    fn ages<'a>(&self, _: &KnownGuest<'a>) -> AgeIter<'a> {
        Box::new(std::iter::empty())
    }

    /// The age by which a CPU may come to hang so on its own; `None` where it may not.
    fn age_of_cpu(&self, _: &KnownGuest<'_>, _cpu: u32) -> Option<Age> {
        None
    }

    /// The parties on whose standing still a hang rests.
    fn rests_on<'h>(&self, hang: &'h DetectedHang) -> &'h [Node] {
        &hang.blamed
    }

    /// The time for which a party has not moved; `None` for a party that has no part in it.
    fn unchanged_for(&self, guest: &KnownGuest<'_>, node: Node) -> Option<Duration>;

    /// The parties to blame for a group of those whose `edges` lead to `root`.
    fn blames(&self, guest: &KnownGuest<'_>, root: &Root, edges: &BTreeSet<Edge>) -> Vec<Node> {
        parties_at(guest, root, edges)
    }

    /// True while a hang that was reported goes on: one of its parties has not moved since.
    fn holds(&self, guest: &KnownGuest<'_>, hang: &DetectedHang) -> bool {
        let still = self.rests_on(hang).iter().filter_map(|&node| self.unchanged_for(guest, node));
        still.into_iter().any(|age| guest.bounds.is_half_due(self.class(), age))
    }
}

/// A class that shows without a kernel too, in a guest whose kernel is unknown.
pub trait UnknownRule: Rule {
    /// The age by which a vCPU may come to hang so.
    fn age_of_vcpu(&self, guest: &UnknownGuest<'_>, cpu: u32) -> Duration;

    /// The hang of the vCPUs that have hung so for as long as the bound.
    fn found(&self, guest: &UnknownGuest<'_>) -> Option<DetectedHang>;

    /// The time for which a vCPU that hangs so has not moved.
    fn vcpu_unchanged_for(&self, guest: &UnknownGuest<'_>, cpu: u32) -> Duration;

    /// True while a hang that was reported goes on.
    fn holds_for_vcpus(&self, guest: &UnknownGuest<'_>, hang: &DetectedHang) -> bool {
        hang.blamed.iter().any(|node| match *node {
            Node::Cpu(cpu) => {
                guest.bounds.is_half_due(self.class(), self.vcpu_unchanged_for(guest, cpu))
            }
            Node::Task(_) | Node::Lock(_) | Node::Queue(_) => false,
        })
    }
}

/// A task to blame does not move as long as it waits for the same; for a CPU, `of_cpu` says.
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
