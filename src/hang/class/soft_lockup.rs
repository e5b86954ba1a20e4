//! soft-lockup: a CPU takes interrupts, and schedules nothing.
//!
//! Due when its main loop has not moved for as long as the bound, but for the time in which it waited
//! for somebody else. Holds while the main loop stands still. Blames the CPU.

use std::time::Duration;

use nmiscope_report::Class;

use super::rule::{AgesOf, Conduct, Rule, task_or};
use crate::hang::ages::Age;
use crate::hang::guest::KnownGuest;
use crate::hang::wait_graph::Node;

/// See the module.
pub struct SoftLockup;

impl Rule for SoftLockup {
    fn class(&self) -> Class {
        Class::SoftLockup
    }

    fn conduct(&self) -> Conduct {
        Conduct { takes_interrupts: true, ..Conduct::RUNS }
    }

    fn ends_waits(&self) -> bool {
        true
    }

    fn ages<'a>(&self, guest: &KnownGuest<'a>) -> AgesOf<'a> {
        Box::new(guest.ages.cpus.iter().map(|cpu| cpu.main_loop.own()))
    }

    fn age_of_cpu(&self, guest: &KnownGuest<'_>, cpu: u32) -> Option<Age> {
        Some(guest.ages.cpu(cpu).main_loop.age)
    }

    fn still_for(&self, guest: &KnownGuest<'_>, node: Node) -> Option<Duration> {
        task_or(guest, node, |cpu| guest.ages.cpu(cpu).main_loop.own())
    }
}

/// The time for which a CPU has scheduled nothing by its own fault.
pub fn main_loop_age(guest: &KnownGuest<'_>, cpu: u32) -> Duration {
    let ages = guest.ages.cpu(cpu);
    ages.main_loop.own().saturating_sub(guest.excused(ages))
}

/// The class of a CPU that schedules nothing, and its age; `None` if it does.
pub fn found(guest: &KnownGuest<'_>, cpu: u32) -> Option<(Class, Duration)> {
    let age = main_loop_age(guest, cpu);
    (age >= guest.lasting).then_some((Class::SoftLockup, age))
}
