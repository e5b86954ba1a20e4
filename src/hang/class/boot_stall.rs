//! boot-stall: the guest does not become ready in time.
//!
//! Due when the boot CPU, and the CPU that it waits for, have been observed for the bound. Holds until
//! the guest is ready. Blames the party that most others wait for, or else the boot CPU.
//!
//! Owns this rule; refuses to own ages (`ages`) and the search for parties (`known`, `unknown`). Called
//! through the tables in `class`.

use std::time::Duration;

use nmiscope_report::Class;

use super::rule::{Behaviour, Rule};
use super::vcpus::hang_of_vcpus;
use crate::hang::bounds::Bounds;
use crate::hang::group::WaiterGroup;
use crate::hang::guest::{BootingGuest, KnownGuest};
use crate::hang::verdict::DetectedHang;
use crate::hang::wait_graph::{Node, Root};

/// Rule of the boot-stall class. In a guest that is ready no boot-stall holds.
pub struct BootStall;

impl Rule for BootStall {
    fn class(&self) -> Class {
        Class::BootStall
    }

    fn behaviour(&self) -> Behaviour {
        Behaviour::RUNS
    }

    fn has_long_bound(&self) -> bool {
        true
    }

    fn unchanged_for(&self, _: &KnownGuest<'_>, _: Node) -> Option<Duration> {
        None
    }
}

/// Returns the time that a guest has to become ready; `None` if the class is disabled.
pub fn bound(bounds: &Bounds) -> Option<Duration> {
    bounds.get(Class::BootStall)
}

/// Returns the time until a stall is due; `None` if none can become due.
pub fn remaining(guest: &BootingGuest<'_>) -> Option<Duration> {
    guest.bounds.remaining(Class::BootStall, guest.ages.cpu(0).watched.own)
}

/// Returns the stall, if it is due. `waits_for` returns the root that most parties wait for, and its
/// group.
pub fn found(
    guest: &BootingGuest<'_>,
    waits_for: impl FnOnce(&KnownGuest<'_>) -> Option<(Root, WaiterGroup)>,
) -> Option<DetectedHang> {
    let age = guest.ages.cpu(0).watched.own;
    if !guest.bounds.is_due(Class::BootStall, age) {
        return None;
    }
    let waiting = guest.known.as_ref().and_then(|known| {
        let (root, group) = waits_for(known)?;
        let blamed = BootStall.blames(known, &root, &group.edges);
        Some(group.into_hang(known, (Class::BootStall, age), &root, blamed))
    });
    let hang = waiting.unwrap_or_else(|| hang_of_vcpus(Class::BootStall, age, vec![0]));
    // The host may have run the boot CPU but not the CPU that it waits for.
    let had = |node: &Node| match node {
        Node::Cpu(cpu) => guest.ages.cpu(*cpu).watched.own,
        _ => age,
    };
    let age = hang.blamed.iter().map(had).min().unwrap_or(age);
    Some(DetectedHang { age, ..hang })
        .filter(|hang| guest.bounds.is_due(Class::BootStall, hang.age))
}
