//! dead-halt and hard-lockup: a CPU makes no progress at all. A dead halt is in HLT with interrupts off;
//! a hard lockup is every other such CPU.
//!
//! Due when neither tick nor main loop has advanced for the bound, unless the CPU is halted with interrupts
//! on and its timer is armed: then it idles, for however long. In an unknown kernel, due when interrupts
//! have been off and the console silent for the bound. Both hold as long as that is so, and blame the
//! CPU.
//!
//! Owns this rule; refuses to own ages (`ages`) and the search for parties (`known`, `unknown`). Called
//! through the tables in `class`.

use std::time::Duration;

use nmiscope_report::Class;

use super::boot_stall;
use super::rule::{AgeIter, Behaviour, Rule, UnknownRule, task_or_cpu_age};
use super::vcpus::{hang_of_vcpus, running_for};
use crate::hang::ages::Age;
use crate::hang::guest::{KnownGuest, UnknownGuest};
use crate::hang::verdict::DetectedHang;
use crate::hang::wait_graph::Node;

/// The class of a CPU in HLT with its interrupts off.
pub const DEAD_HALT: Class = Class::DeadHalt;

/// The class of any other CPU without progress.
pub const HARD_LOCKUP: Class = Class::HardLockup;

/// The rule of both classes.
pub enum CpuLockup {
    /// A CPU halted with interrupts off: only an NMI wakes it.
    DeadHalt,
    /// A CPU that takes no timer interrupts and schedules nothing.
    HardLockup,
}

impl Rule for CpuLockup {
    fn class(&self) -> Class {
        match self {
            Self::DeadHalt => DEAD_HALT,
            Self::HardLockup => HARD_LOCKUP,
        }
    }

    fn behaviour(&self) -> Behaviour {
        match self {
            Self::DeadHalt => Behaviour::STAYS,
            Self::HardLockup => Behaviour::RUNS,
        }
    }

    fn is_wait_root(&self) -> bool {
        true
    }

    fn ages<'a>(&self, guest: &KnownGuest<'a>) -> AgeIter<'a> {
        let cpus = guest.ages.cpus.iter().filter(|cpu| !cpu.awaits_timer());
        Box::new(cpus.map(|cpu| cpu.no_progress().own))
    }

    fn age_of_cpu(&self, guest: &KnownGuest<'_>, cpu: u32) -> Option<Age> {
        let ages = guest.ages.cpu(cpu);
        let is_so = class_of(guest, cpu) == self.class() && !ages.awaits_timer();
        is_so.then(|| ages.no_progress())
    }

    fn unchanged_for(&self, guest: &KnownGuest<'_>, node: Node) -> Option<Duration> {
        task_or_cpu_age(guest, node, |cpu| guest.ages.cpu(cpu).no_progress().own)
    }
}

/// Returns the class of a CPU on which both main loop and tick have stopped, and its age; `None` for any
/// other CPU. The tick counts as stopped once it is three quarters as old as the main loop, whose age is
/// `main_loop`, or half as old as the class's bound.
pub fn found(guest: &KnownGuest<'_>, cpu: u32, main_loop: Duration) -> Option<(Class, Duration)> {
    let ages = guest.ages.cpu(cpu);
    let no_progress = ages.no_progress().own.saturating_sub(guest.wait_credit(ages));
    let class = class_of(guest, cpu);
    let stalled_together = no_progress >= guest.min_wait_age && no_progress >= main_loop * 3 / 4;
    (stalled_together || guest.bounds.is_half_due(class, no_progress))
        .then_some((class, no_progress))
}

/// Returns the class that a CPU has if it makes no progress. Without a sample it is the class with the
/// smaller bound.
fn class_of(guest: &KnownGuest<'_>, cpu: u32) -> Class {
    match guest.ages.cpu(cpu).seen {
        Some(sample) if sample.halted && !sample.interrupts_on => Class::DeadHalt,
        Some(_) => Class::HardLockup,
        None => {
            let bound = |class: &Class| guest.bounds.get(*class).unwrap_or(Duration::MAX);
            let classes = [Class::HardLockup, Class::DeadHalt];
            classes.into_iter().min_by_key(bound).unwrap_or(Class::HardLockup)
        }
    }
}

impl UnknownRule for CpuLockup {
    fn age_of_vcpu(&self, guest: &UnknownGuest<'_>, cpu: u32) -> Duration {
        off_and_silent(guest, cpu)
    }

    fn bound_of_vcpu(&self, guest: &UnknownGuest<'_>, cpu: u32) -> Option<Duration> {
        let bound = guest.bounds.get(self.class())?;
        match self {
            Self::DeadHalt => Some(bound),
            Self::HardLockup => {
                // A CPU that boots has its interrupts off for an unknown time, whatever the others have
                // come to: it gets as long as a known kernel to become ready.
                let is_booting = !guest.ages.cpu(cpu).took_interrupts;
                let patience = boot_stall::bound(guest.bounds).filter(|_| is_booting);
                Some(bound.max(patience.unwrap_or_default()))
            }
        }
    }

    fn found(&self, guest: &UnknownGuest<'_>) -> Option<DetectedHang> {
        match self {
            Self::DeadHalt => all_halted(guest),
            Self::HardLockup => running_for(guest, self, off_and_silent),
        }
    }

    fn vcpu_unchanged_for(&self, guest: &UnknownGuest<'_>, cpu: u32) -> Duration {
        guest.ages.cpu(cpu).interrupts_off.own()
    }
}

/// Returns the dead halt of a guest with all vCPUs in HLT: one that runs might still wake the others.
fn all_halted(guest: &UnknownGuest<'_>) -> Option<DetectedHang> {
    if !guest.started().all(|(_, sample)| sample.halted) {
        return None;
    }
    let age = guest.started().map(|(cpu, _)| off_and_silent(guest, cpu)).min()?;
    let cpus = || guest.started().map(|(cpu, _)| cpu).collect();
    guest.bounds.is_due(DEAD_HALT, age).then(|| hang_of_vcpus(DEAD_HALT, age, cpus()))
}

/// Returns the time for which a vCPU has had interrupts off while the console was silent.
fn off_and_silent(guest: &UnknownGuest<'_>, cpu: u32) -> Duration {
    guest.ages.cpu(cpu).interrupts_off.own().min(guest.console_silence())
}
