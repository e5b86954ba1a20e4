//! Classes of hangs: a file for each, or for two that differ in one fact.
//!
//! A file decides when its class is due, whether a hang of it still holds, and which parties it blames.
//! Owns everything that depends on a class; refuses to own names and order (`report::Class`) and the
//! search for hanging parties (`known`, `unknown`). No other code of `hang` names a class.
//!
//! | file | classes | in such a guest |
//! |---|---|---|
//! | `deadlock` | deadlock | CPUs and tasks wait for each other |
//! | `cpu_lockup` | dead-halt, hard-lockup | a CPU makes no progress, dead in HLT or not |
//! | `soft_lockup` | soft-lockup | a CPU takes interrupts and schedules nothing |
//! | `lock_wait` | lock-wait | parties wait for one that is not stuck and get no turn |
//! | `pending_work` | livelock, lost-wakeup | a CPU does not do its work, while busy or idle |
//! | `boot_stall` | boot-stall | boot does not end |
//! | `silent` | silent | an unknown kernel prints nothing and does not idle |
//! | `panicking` | none | a kernel panics and does not exit |

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

/// Rules for an unknown kernel, in order of precedence: the first that finds a hang wins.
pub static UNKNOWN: [&dyn UnknownRule; 3] =
    [&CpuLockup::DeadHalt, &CpuLockup::HardLockup, &silent::Silent];

/// Rules of all classes, in the order of [`Class`].
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

/// Returns the rule of a class.
pub fn rule(class: Class) -> &'static dyn Rule {
    ALL[class as usize]
}

/// Returns the rule of a class for an unknown kernel; `None` if the class needs a known kernel.
pub fn unknown_rule(class: Class) -> Option<&'static dyn UnknownRule> {
    UNKNOWN.into_iter().find(|rule| rule.class() == class)
}

/// Returns true for a class whose CPUs get no timer ticks.
pub fn rests_on_ticks(class: Class) -> bool {
    class == cpu_lockup::DEAD_HALT || class == cpu_lockup::HARD_LOCKUP
}

/// Returns true for a class whose parties wait for others: if all of them sleep, they have longer.
pub fn rests_on_waiters(class: Class) -> bool {
    matches!(class, Class::Deadlock | Class::LockWait)
}

/// Returns the behaviour of the parties that a class blames.
pub fn behaviour(class: Class) -> Behaviour {
    rule(class).behaviour()
}

/// Returns the age from which a wait counts: half of the smallest bound among the classes that can end a
/// chain of waits.
pub fn min_wait_age(bounds: &Bounds) -> Duration {
    let rules = ALL.into_iter().filter(|rule| rule.is_wait_root());
    rules.filter_map(|rule| bounds.least(rule.class())).min().unwrap_or(Duration::MAX) / 2
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn each_class_has_its_own_rule() {
        for &class in Class::value_variants() {
            assert_eq!(rule(class).class(), class);
        }
    }
}
