//! soft-lockup: a CPU takes interrupts, and schedules nothing.
//!
//! Due when the main loop has not advanced for the bound, not counting the time in which the CPU waited
//! for another party. Holds until the main loop advances. Blames the CPU.
//!
//! Owns this rule; refuses to own ages (`ages`) and the search for parties (`known`, `unknown`). Called
//! through the tables in `class`.

use std::time::Duration;

use nmiscope_report::Class;

use super::rule::{AgeIter, Behaviour, Rule, task_or_cpu_age};
use crate::hang::ages::Age;
use crate::hang::guest::KnownGuest;
use crate::hang::wait_graph::Node;

/// Rule of the soft-lockup class.
pub struct SoftLockup;

impl Rule for SoftLockup {
    fn class(&self) -> Class {
        Class::SoftLockup
    }

    fn behaviour(&self) -> Behaviour {
        Behaviour { takes_interrupts: true, ..Behaviour::RUNS }
    }

    fn is_wait_root(&self) -> bool {
        true
    }

    fn ages<'a>(&self, guest: &KnownGuest<'a>) -> AgeIter<'a> {
        Box::new(guest.ages.cpus.iter().map(|cpu| cpu.main_loop.own()))
    }

    fn age_of_cpu(&self, guest: &KnownGuest<'_>, cpu: u32) -> Option<Age> {
        Some(guest.ages.cpu(cpu).main_loop.age)
    }

    fn unchanged_for(&self, guest: &KnownGuest<'_>, node: Node) -> Option<Duration> {
        task_or_cpu_age(guest, node, |cpu| guest.ages.cpu(cpu).main_loop.own())
    }
}

/// Returns the time for which a CPU has scheduled nothing by its own fault.
pub fn main_loop_age(guest: &KnownGuest<'_>, cpu: u32) -> Duration {
    let ages = guest.ages.cpu(cpu);
    let age = ages.without_sleep(ages.main_loop.age);
    age.own.saturating_sub(guest.wait_credit(ages))
}

/// Returns the class of a CPU that schedules nothing, and its age; `None` if it does.
pub fn found(guest: &KnownGuest<'_>, cpu: u32) -> Option<(Class, Duration)> {
    let age = main_loop_age(guest, cpu);
    (age >= guest.min_wait_age).then_some((Class::SoftLockup, age))
}
