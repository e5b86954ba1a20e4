//! Hangs of vCPUs of which no more is known than what shows from outside.
//!
//! Owns how such a hang is made. Called by the classes of an unknown kernel and of one that boots.

use std::time::Duration;

use nmiscope_report::Class;

use crate::hang::guest::UnknownGuest;
use crate::hang::verdict::{DetectedHang, HangCertainty};
use crate::hang::wait_graph::Node;

/// The hang of these vCPUs.
pub fn hang_of_vcpus(class: Class, age: Duration, cpus: Vec<u32>) -> DetectedHang {
    DetectedHang {
        class,
        age,
        blamed: cpus.into_iter().map(Node::Cpu).collect(),
        locks: Vec::new(),
        victims: Vec::new(),
        edges: Vec::new(),
        certainty: HangCertainty::default(),
    }
}

/// The hang of those vCPUs that run and are due, whose age is at least `least`.
pub fn running_for(
    guest: &UnknownGuest<'_>,
    class: Class,
    least: Duration,
    age: impl Fn(&UnknownGuest<'_>, u32) -> Duration,
) -> Option<DetectedHang> {
    let running = guest.started().filter(|(_, sample)| !sample.halted).map(|(cpu, _)| cpu);
    let is_due = |age| guest.bounds.is_due(class, age) && age >= least;
    let due: Vec<u32> = running.filter(|&cpu| is_due(age(guest, cpu))).collect();
    let oldest = due.iter().map(|&cpu| age(guest, cpu)).max()?;
    Some(hang_of_vcpus(class, oldest, due))
}
