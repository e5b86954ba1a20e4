//! The hangs of a guest whose kernel is unknown: of its vCPUs, by what shows from outside.
//!
//! Owns that at most one hang is found at once; refuses to own what makes a class (`class`). Called by
//! `judge`.

use std::time::Duration;

use super::class;
use super::guest::UnknownGuest;
use super::verdict::DetectedHang;

/// The hang that is due, of the class that explains most.
pub fn hang(guest: &UnknownGuest<'_>) -> Option<DetectedHang> {
    class::UNKNOWN.into_iter().find_map(|rule| rule.found(guest))
}

/// True while a hang that was reported goes on. One that takes a kernel to see does not.
pub fn holds(guest: &UnknownGuest<'_>, hang: &DetectedHang) -> bool {
    class::unknown_rule(hang.class).is_some_and(|rule| rule.holds_for_vcpus(guest, hang))
}

/// The time until the first hang of those that may be on their way.
pub fn remaining(guest: &UnknownGuest<'_>) -> Option<Duration> {
    let cpus = 0..guest.ages.cpus.len() as u32;
    let of_cpu = |cpu| {
        class::UNKNOWN.into_iter().filter_map(move |rule| {
            guest.bounds.remaining(rule.class(), rule.age_of_vcpu(guest, cpu))
        })
    };
    cpus.flat_map(of_cpu).min()
}
