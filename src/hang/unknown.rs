//! Hangs of a guest with an unknown kernel: those of its vCPUs that show from outside.
//!
//! Owns that at most one hang is found at a time; refuses to own what makes a class (`class`). Called by
//! `judge`.

use std::time::Duration;

use super::class;
use super::guest::UnknownGuest;
use super::verdict::DetectedHang;
use super::wait_graph::Node;

/// Returns the hang that is due, of the first class that has one.
pub fn hang(guest: &UnknownGuest<'_>) -> Option<DetectedHang> {
    class::UNKNOWN.into_iter().find_map(|rule| rule.found(guest))
}

/// Returns the age from which a hang is due, the longest one of its vCPUs; `None` if its class is disabled,
/// or needs a known kernel.
pub fn bound(guest: &UnknownGuest<'_>, hang: &DetectedHang) -> Option<Duration> {
    let rule = class::unknown_rule(hang.class)?;
    let bounds = hang.blamed.iter().map(|node| match *node {
        Node::Cpu(cpu) => rule.bound_of_vcpu(guest, cpu),
        Node::Task(_) | Node::Lock(_) | Node::Queue(_) => None,
    });
    bounds.max().flatten()
}

/// Returns true while a reported hang lasts; false for a class that needs a known kernel.
pub fn holds(guest: &UnknownGuest<'_>, hang: &DetectedHang) -> bool {
    class::unknown_rule(hang.class).is_some_and(|rule| rule.holds_for_vcpus(guest, hang))
}

/// Returns the time until the first hang that may become due.
pub fn remaining(guest: &UnknownGuest<'_>) -> Option<Duration> {
    let cpus = 0..guest.ages.cpus.len() as u32;
    let of_cpu = |cpu| {
        class::UNKNOWN.into_iter().filter_map(move |rule| {
            guest.bounds.remaining(rule.class(), rule.age_of_vcpu(guest, cpu))
        })
    };
    cpus.flat_map(of_cpu).min()
}
