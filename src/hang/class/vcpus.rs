//! Hangs of vCPUs whose kernel is unknown or still boots, made from outside observation alone.
//!
//! Owns how such a hang is built. Called by the classes of an unknown kernel and of a booting one.

use std::time::Duration;

use nmiscope_report::Class;

use super::rule::UnknownRule;
use crate::hang::guest::UnknownGuest;
use crate::hang::verdict::{DetectedHang, HangCertainty};
use crate::hang::wait_graph::Node;

/// Makes a hang that blames these vCPUs, without locks or waits.
pub fn hang_of_vcpus(class: Class, age: Duration, cpus: Vec<u32>) -> DetectedHang {
    DetectedHang {
        class,
        age,
        blamed: cpus.into_iter().map(Node::Cpu).collect(),
        locks: Vec::new(),
        victims: Vec::new(),
        edges: Vec::new(),
        certainty: HangCertainty::default(),
        asleep: false,
    }
}

/// Makes the hang of all vCPUs that run and whose age has reached their bound; `None` if there are none.
pub fn running_for(
    guest: &UnknownGuest<'_>,
    rule: &dyn UnknownRule,
    age: impl Fn(&UnknownGuest<'_>, u32) -> Duration,
) -> Option<DetectedHang> {
    let running = guest.started().filter(|(_, sample)| !sample.halted).map(|(cpu, _)| cpu);
    let is_due =
        |&cpu: &u32| rule.bound_of_vcpu(guest, cpu).is_some_and(|bound| age(guest, cpu) >= bound);
    let due: Vec<u32> = running.filter(is_due).collect();
    let oldest = due.iter().map(|&cpu| age(guest, cpu)).max()?;
    Some(hang_of_vcpus(rule.class(), oldest, due))
}
