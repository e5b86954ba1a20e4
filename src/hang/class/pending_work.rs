//! livelock and lost-wakeup: a CPU has work and does not do it, while everything else makes progress. In
//! a livelock the CPU is busy; after a lost wakeup it idles.
//!
//! Due when no work item has been finished, or no ready task switched to, for the bound. Holds as long as
//! that is so. A livelock blames the CPU; a lost wakeup blames the tasks that have slept for that time,
//! or else the CPU.
//!
//! Owns this rule; refuses to own ages (`ages`) and the search for parties (`known`, `unknown`). Called
//! through the tables in `class`.

use std::collections::BTreeSet;
use std::time::Duration;

use nmiscope_report::Class;

use super::rule::{AgeIter, Behaviour, Rule, task_or_cpu_age};
use crate::hang::ages::{Age, CpuAges};
use crate::hang::group::WaiterGroup;
use crate::hang::guest::{KnownGuest, sleep_queue};
use crate::hang::verdict::DetectedHang;
use crate::hang::wait_graph::{Node, Root};
use crate::kernel::KernelTask;

/// The rule of both classes.
pub enum PendingWork {
    /// A CPU that is busy and finishes none of its work items.
    Livelock,
    /// A CPU that idles although it has work.
    LostWakeup,
}

const BEHAVIOUR: Behaviour = Behaviour {
    returns_to_main_loop: true,
    takes_interrupts: true,
    has_work: true,
    ..Behaviour::RUNS
};

impl Rule for PendingWork {
    fn class(&self) -> Class {
        match self {
            Self::Livelock => Class::Livelock,
            Self::LostWakeup => Class::LostWakeup,
        }
    }

    fn behaviour(&self) -> Behaviour {
        BEHAVIOUR
    }

    fn ages<'a>(&self, guest: &KnownGuest<'a>) -> AgeIter<'a> {
        Box::new(guest.ages.cpus.iter().map(|cpu| pending_for(cpu).own))
    }

    fn age_of_cpu(&self, guest: &KnownGuest<'_>, cpu: u32) -> Option<Age> {
        match self {
            Self::Livelock => Some(guest.ages.cpu(cpu).work.age),
            Self::LostWakeup => None,
        }
    }

    fn unchanged_for(&self, guest: &KnownGuest<'_>, node: Node) -> Option<Duration> {
        task_or_cpu_age(guest, node, |cpu| pending_for(guest.ages.cpu(cpu)).own)
    }
}

/// Returns the time for which a CPU has not done its work.
fn pending_for(ages: &CpuAges) -> Age {
    let (work, ready) = (ages.work.age, ages.ready.age);
    if ready.own > work.own { ready } else { work }
}

/// Returns the hangs of CPUs with pending work, unless a party that the work waits for is in `explained`.
pub fn found(guest: &KnownGuest<'_>, explained: &BTreeSet<Node>) -> Vec<DetectedHang> {
    let is_explained = |cpu: u32| {
        let mut tasks = tasks_of(guest, cpu);
        explained.contains(&Node::Cpu(cpu))
            || tasks.any(|(task, _)| explained.contains(&Node::Task(task)))
    };
    let cpus = guest.cpus().filter(|&cpu| !is_explained(cpu));
    cpus.flat_map(|cpu| found_on(guest, cpu)).collect()
}

fn found_on(guest: &KnownGuest<'_>, cpu: u32) -> Vec<DetectedHang> {
    let ages = guest.ages.cpu(cpu);
    let age = pending_for(ages);
    let age = Age { own: age.own.saturating_sub(guest.wait_credit(ages)), ..age };
    let class = if is_busy(ages, age) { Class::Livelock } else { Class::LostWakeup };
    if !guest.bounds.is_half_due(class, age.own) {
        return Vec::new();
    }
    // If no task is ready, the task that should have done the work is asleep.
    let asleep = if class == Class::LostWakeup && ages.ready.own().is_zero() {
        asleep_on(guest, cpu)
    } else {
        Vec::new()
    };
    let blamed = if asleep.is_empty() { vec![Node::Cpu(cpu)] } else { asleep };
    let hang = |node| {
        WaiterGroup::default().into_hang(guest, (class, age.own), &Root::One(node), vec![node])
    };
    blamed.into_iter().map(hang).collect()
}

/// Returns true if a CPU with pending work is busy: it runs most of the time, or switches between tasks.
fn is_busy(ages: &CpuAges, age: Age) -> bool {
    age.ran >= age.own / 2 || ages.switches.own() < age.own / 2
}

/// Returns the tasks of a CPU that have slept on a queue for at least half of the bound.
fn asleep_on(guest: &KnownGuest<'_>, cpu: u32) -> Vec<Node> {
    let sleeps = |(number, task): &(u32, &KernelTask)| {
        let long = guest.bounds.is_half_due(Class::LostWakeup, guest.ages.task(*number).own);
        long && sleep_queue(task).is_some()
    };
    tasks_of(guest, cpu).filter(sleeps).map(|(number, _)| Node::Task(number)).collect()
}

/// Returns the tasks of a CPU, with their numbers.
fn tasks_of<'a>(guest: &KnownGuest<'a>, cpu: u32) -> impl Iterator<Item = (u32, &'a KernelTask)> {
    let tasks = (0..).zip(&guest.kernel.tasks);
    let tasks = tasks.filter_map(|(number, task)| Some((number, task.as_ref()?)));
    tasks.filter(move |(_, task)| task.cpu == cpu)
}
