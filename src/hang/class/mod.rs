//! The classes of hangs, a file each, or a family of two that differ in one fact.
//!
//! A file says when its class is due, whether a hang of it still holds, and whom it blames. Owns all
//! that depends on a class; refuses to own names and order (`report::Class`) and how those who hang
//! are found (`known`, `unknown`). No other code of `hang` names a class.
//!
//! | file | classes | a guest in which |
//! |---|---|---|
//! | `deadlock` | deadlock | CPUs and tasks wait for each other |
//! | `cpu_lockup` | dead-halt, hard-lockup | nothing moves on a CPU, which is halted for good, or not |
//! | `soft_lockup` | soft-lockup | a CPU takes interrupts and schedules nothing |
//! | `lock_wait` | lock-wait | somebody waits for one that is not stuck and keeps him waiting |
//! | `pending_work` | livelock, lost-wakeup | a CPU does not do its work, busy or idle |
//! | `boot_stall` | boot-stall | boot does not come to an end |
//! | `silent` | silent | an unknown kernel prints nothing and does not idle |
//! | `panicking` | none | a kernel panics and does not leave |

pub mod boot_stall;
pub mod cpu_lockup;
pub mod deadlock;
mod default_bounds;
pub mod lock_wait;
pub mod panicking;
pub mod pending_work;
mod rule;
mod silent;
pub mod soft_lockup;
mod vcpus;

use std::time::Duration;

use nmiscope_report::Class;

use super::bounds::Bounds;
use cpu_lockup::CpuLockup;
use pending_work::PendingWork;
pub use rule::{Behaviour, Rule, UnknownRule};

/// The classes of an unknown kernel, in the order of what explains most: one of them is found.
pub static UNKNOWN: [&dyn UnknownRule; 3] =
    [&CpuLockup::DeadHalt, &CpuLockup::HardLockup, &silent::Silent];

/// All classes.
pub static ALL: [&dyn Rule; Class::COUNT] = [
    &deadlock::Deadlock,
    &CpuLockup::DeadHalt,
    &CpuLockup::HardLockup,
    &soft_lockup::SoftLockup,
    &lock_wait::LockWait,
    &PendingWork::Livelock,
    &PendingWork::LostWakeup,
    &boot_stall::BootStall,
    &silent::Silent,
];

/// The rule of a class.
pub fn rule(class: Class) -> &'static dyn Rule {
    ALL[class as usize]
}

/// The rule of a class in a guest whose kernel is unknown; `None` where it takes a kernel to see it.
pub fn unknown_rule(class: Class) -> Option<&'static dyn UnknownRule> {
    UNKNOWN.into_iter().find(|rule| rule.class() == class)
}

/// True for a class of CPUs whose timer tick does not come.
pub fn rests_on_ticks(class: Class) -> bool {
    class == cpu_lockup::DEAD_HALT || class == cpu_lockup::HARD_LOCKUP
}

/// The conduct of those to blame for a hang of a class.
pub fn behaviour(class: Class) -> Behaviour {
    rule(class).behaviour()
}

/// The age from which on a wait counts.
pub fn min_wait_age(bounds: &Bounds) -> Duration {
    let rules = ALL.into_iter().filter(|rule| rule.is_wait_root());
    rules.filter_map(|rule| bounds.get(rule.class())).min().unwrap_or(Duration::MAX) / 2
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn a_class_has_the_rule_that_is_of_it() {
        for &class in Class::value_variants() {
            assert_eq!(rule(class).class(), class);
        }
    }
}
