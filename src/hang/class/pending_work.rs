//! livelock and lost-wakeup: a CPU has work and does not do it, while everything else makes progress. In
//! a livelock the CPU is busy; after a lost wakeup it idles, or the task that should do the work sleeps.
//!
//! Due when no work item has been finished, no ready task switched to, or one ready task not run, for the
//! bound. Holds as long as that is so. A livelock blames the CPU; a lost wakeup blames the tasks that have
//! slept for that time, or else the CPU. A single task that is never run is blamed itself.
//!
//! A task that sleeps while its work waits is blamed before one that computes beside it: who computes can
//! do so for any reason, and the work is not its own. Which task does the work the kernel does not say; a
//! task that ran in an interval in which work was finished is taken for one that does.
//!
//! A livelock needs a CPU that is busy: it runs for at least half of the time for which its work waits. A
//! task that sleeps between two looks at its device lets the CPU idle, and switches say that something
//! happens, not that anything is wrong: the device is slow, until the bound of sleepers says otherwise. The
//! host's clock decides, since it counts each of the vCPU's sleeps, of which a kernel's records have the last
//! one only.
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
use crate::kernel::{KernelTask, TaskRunState};

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
        let age = task_or_cpu_age(guest, node, |cpu| pending_for(guest.ages.cpu(cpu)).own)?;
        match node {
            Node::Task(task) => Some(age.max(guest.ages.not_run(task).own)),
            _ => Some(age),
        }
    }
}

/// Returns the time for which a CPU has not done its work.
fn pending_for(ages: &CpuAges) -> Age {
    let (work, ready) = (ages.work.age, ages.ready.age);
    if ready.own > work.own { ready } else { work }
}

/// Parties of hangs by waits, which explain work that is not done.
#[derive(Debug, Default)]
pub struct Explained {
    /// Parties of hangs that are due, or have the bound of parties that run.
    pub at_once: BTreeSet<Node>,
    /// Parties of waits that have the patience for sleepers. These say nothing of a CPU that is busy or of a
    /// task that is never run: it is one of these that may keep the sleepers waiting.
    pub patiently: BTreeSet<Node>,
}

/// Returns the hangs of CPUs with pending work, and of tasks that are not run, unless a party that the work
/// waits for explains them.
pub fn found(guest: &KnownGuest<'_>, explained: &Explained) -> Vec<DetectedHang> {
    let is_among = |cpu: u32, parties: &BTreeSet<Node>| {
        let mut tasks = tasks_of(guest, cpu);
        parties.contains(&Node::Cpu(cpu))
            || tasks.any(|(task, _)| parties.contains(&Node::Task(task)))
    };
    let cpus = guest.cpus().filter(|&cpu| !is_among(cpu, &explained.at_once));
    let on_cpus = cpus.flat_map(|cpu| {
        let waits_patiently = is_among(cpu, &explained.patiently);
        found_on(guest, cpu).into_iter().filter(move |hang| !(hang.asleep && waits_patiently))
    });
    let mut found: Vec<DetectedHang> = on_cpus.collect();
    let cpus = guest.cpus().filter(|&cpu| !explained.at_once.contains(&Node::Cpu(cpu)));
    found.extend(cpus.flat_map(|cpu| not_run_on(guest, cpu)));
    found
}

fn found_on(guest: &KnownGuest<'_>, cpu: u32) -> Vec<DetectedHang> {
    let ages = guest.ages.cpu(cpu);
    let age = pending_for(ages);
    let age = Age { own: age.own.saturating_sub(guest.wait_credit(ages)), ..age };
    let (busy, active) = (is_busy(age), is_active(ages, age));
    let is_work = ages.work.own() >= ages.ready.own();
    // An idle CPU with a task that has long been ready has a scheduler to blame, not a task that sleeps.
    let may_sleep = is_work && (active || ages.ready.own() < age.own / 2);
    let sleepers = if may_sleep { sleepers_with_work(guest, cpu, active, age) } else { Vec::new() };
    let class = if busy && sleepers.is_empty() { Class::Livelock } else { Class::LostWakeup };
    let asleep = may_sleep && class == Class::LostWakeup;
    // Who has just been woken is not to be blamed for the time before: it slept, for which there is another bound.
    let slept = if class == Class::Livelock && is_work { ages.slept.own } else { Duration::ZERO };
    let age = Age { own: age.own.saturating_sub(slept), ..age };
    if !guest.bounds.is_half_due_for(class, asleep, age.own) {
        return Vec::new();
    }
    let on_queues = sleepers.into_iter().filter(|(_, task)| sleep_queue(task).is_some());
    let mut blamed: Vec<Node> = on_queues.map(|(number, _)| Node::Task(number)).collect();
    if blamed.is_empty() {
        blamed.push(Node::Cpu(cpu));
    }
    blamed.into_iter().map(|node| hang_of(guest, class, asleep, age.own, node)).collect()
}

fn hang_of(
    guest: &KnownGuest<'_>,
    class: Class,
    asleep: bool,
    age: Duration,
    node: Node,
) -> DetectedHang {
    let group = WaiterGroup::default();
    let hang = group.into_hang(guest, (class, age), &Root::One(node), vec![node]);
    DetectedHang { asleep, ..hang }
}

/// Returns true if a CPU with pending work is busy: it runs for most of the time.
fn is_busy(age: Age) -> bool {
    age.ran >= age.own / 2
}

/// Returns true if a CPU with pending work is busy, or switches between tasks.
fn is_active(ages: &CpuAges, age: Age) -> bool {
    is_busy(age) || ages.switches.own() < age.own / 2
}

/// Returns the tasks of a CPU that have slept for at least half of the time for which its work has been
/// pending: those that do its work, if they are known, or else all. On an active CPU one of whose workers is
/// awake, a sleeping task that is no worker says nothing.
fn sleepers_with_work<'a>(
    guest: &KnownGuest<'a>,
    cpu: u32,
    active: bool,
    pending: Age,
) -> Vec<(u32, &'a KernelTask)> {
    let slept = |number| guest.ages.task(number).own >= (pending.own / 2).max(SHORTEST_SLEEP);
    let sleeps = |(number, task): &(u32, &KernelTask)| task.is_asleep() && slept(*number);
    let is_worker = |(number, _): &(u32, &KernelTask)| guest.ages.is_worker(*number);
    let sleepers: Vec<_> = tasks_of(guest, cpu).filter(sleeps).collect();
    if sleepers.iter().any(is_worker) {
        sleepers.into_iter().filter(is_worker).collect()
    } else if active && tasks_of(guest, cpu).any(|task| is_worker(&task)) {
        Vec::new()
    } else {
        sleepers
    }
}

/// Age of a wait that has been seen twice, the least that a sleep counts from.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// Returns the hangs of tasks that a CPU does not run although they could.
///
/// A task that is ready and in no queue is lost at once: the kernel's queue is shorter than the number of
/// its ready tasks, the task is recorded as running while its CPU runs another, or its CPU is offline, so
/// that nothing looks at the queue. One that waits in the queue has twice the bound: a turn of the main loop
/// runs each queued task, lasts at most the bound, or else the CPU is locked up, and the task may have missed
/// the present turn.
fn not_run_on(guest: &KnownGuest<'_>, cpu: u32) -> Vec<DetectedHang> {
    let (ages, Some(activity)) = (guest.ages.cpu(cpu), guest.kernel.cpu(cpu)) else {
        return Vec::new();
    };
    let is_ready = |task: &KernelTask| task.state == TaskRunState::Ready;
    let ready = tasks_of(guest, cpu).filter(|(_, task)| is_ready(task)).count();
    let is_lost = |task: &KernelTask| {
        !is_ready(task) || !activity.online || ready > activity.ready_tasks as usize
    };
    let hang = |(number, task): (u32, &KernelTask)| {
        let age = guest.ages.not_run(number).own;
        // Without a turn of the main loop, or a switch, the CPU is to blame.
        let goes_on = ages.main_loop.own() < age / 2 && ages.ready.own() < age / 2;
        let own = if is_lost(task) { age } else { age / 2 };
        let busy = ages.switches.own() < own / 2 || is_busy(ages.switches.age);
        let class = if busy && activity.online { Class::Livelock } else { Class::LostWakeup };
        let is_due = goes_on && guest.bounds.is_half_due(class, own);
        is_due.then(|| hang_of(guest, class, false, own, Node::Task(number)))
    };
    tasks_of(guest, cpu).filter_map(hang).collect()
}

/// Returns the tasks of a CPU, with their numbers.
fn tasks_of<'a>(guest: &KnownGuest<'a>, cpu: u32) -> impl Iterator<Item = (u32, &'a KernelTask)> {
    let tasks = (0..).zip(&guest.kernel.tasks);
    let tasks = tasks.filter_map(|(number, task)| Some((number, task.as_ref()?)));
    tasks.filter(move |(_, task)| task.cpu == cpu)
}
