//! Guests at one moment, with the ages of their values: a struct for each degree of knowledge.
//!
//! Owns the questions that several classes ask of a guest; refuses to own the answers' meaning (`class`).
//! Made by `judge` from an observation.

use std::time::Duration;

use super::ages::{Age, Ages, CpuAges};
use super::bounds::Bounds;
use super::observation::{ObservedVcpu, VcpuSample};
use super::wait_graph::Node;
use crate::kernel::{KernelState, KernelTask, TaskRunState, Wait, WaitFor};

/// Guest that is not ready yet.
#[derive(Debug, Clone, Copy)]
pub struct BootingGuest<'a> {
    pub bounds: &'a Bounds,
    pub ages: &'a Ages,
    /// The kernel's state; `None` until it can be read.
    pub known: Option<KnownGuest<'a>>,
}

/// Guest whose kernel is known.
#[derive(Debug, Clone, Copy)]
pub struct KnownGuest<'a> {
    pub bounds: &'a Bounds,
    pub ages: &'a Ages,
    pub kernel: &'a KernelState,
    /// The number of vCPUs of the machine, which the kernel's own may exceed.
    pub vcpus: usize,
    /// The age from which a wait counts as part of a hang.
    pub min_wait_age: Duration,
}

/// Guest whose kernel is unknown: only vCPUs and console are visible.
#[derive(Debug, Clone, Copy)]
pub struct UnknownGuest<'a> {
    pub bounds: &'a Bounds,
    pub ages: &'a Ages,
    pub vcpus: &'a [ObservedVcpu],
}

impl KnownGuest<'_> {
    /// Returns the numbers of the CPUs in the kernel's state.
    pub fn cpus(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.kernel.cpus.len() as u32
    }

    /// Returns true if the party exists: the guest may have recorded any number.
    pub fn exists(&self, node: Node) -> bool {
        match node {
            Node::Cpu(cpu) => (cpu as usize) < self.vcpus,
            Node::Task(task) => self.kernel.task(task).is_some(),
            Node::Lock(_) | Node::Queue(_) => true,
        }
    }

    /// Returns the age of a party's wait; `None` for a party that waits for no other.
    pub fn wait_age(&self, node: Node) -> Option<Age> {
        match node {
            Node::Cpu(cpu) => {
                self.kernel.cpu(cpu)?.wait.as_ref()?;
                Some(self.ages.cpu(cpu).wait.age)
            }
            Node::Task(number) => {
                let task = self.kernel.task(number)?;
                let waits = |what| matches!(what, WaitFor::Lock(_) | WaitFor::Call(_));
                let waits = task.wait.as_ref().is_some_and(|wait| waits(wait.what));
                (waits && task.state == TaskRunState::Blocked).then(|| self.ages.task(number))
            }
            Node::Lock(_) | Node::Queue(_) => None,
        }
    }

    /// Returns the ages of all waits for a lock.
    pub fn wait_ages_for_lock(&self, lock: u64) -> impl Iterator<Item = Age> {
        let wants = move |wait: &Option<Wait>| {
            wait.as_ref().is_some_and(|wait| wait.what == WaitFor::Lock(lock))
        };
        let cpus = (0..)
            .zip(&self.kernel.cpus)
            .filter(move |(_, cpu)| cpu.as_ref().is_some_and(|cpu| wants(&cpu.wait)));
        let tasks = (0..)
            .zip(&self.kernel.tasks)
            .filter(move |(_, task)| task.as_ref().is_some_and(|task| wants(&task.wait)));
        let cpus = cpus.map(|(cpu, _)| self.ages.cpu(cpu).wait.age);
        cpus.chain(tasks.map(|(task, _)| self.ages.task(task)))
    }

    /// Returns the part of a CPU's age in which it waited for another party, and which is not its own
    /// fault. A wait younger than [`Self::min_wait_age`] gives no credit: otherwise a loop that keeps
    /// taking a lock would never hang.
    pub fn wait_credit(&self, ages: &CpuAges) -> Duration {
        Some(ages.waited.own).filter(|&waited| waited >= self.min_wait_age).unwrap_or_default()
    }
}

impl UnknownGuest<'_> {
    /// Returns the vCPUs that have been started and sampled.
    pub fn started(&self) -> impl Iterator<Item = (u32, VcpuSample)> {
        let samples = (0..).zip(self.vcpus).map(|(cpu, vcpu)| Some((cpu, vcpu.sample?)));
        samples.flatten().filter(|(_, sample)| sample.started)
    }

    /// Returns the time since the console's last byte.
    pub fn console_silence(&self) -> Duration {
        self.ages.console.own()
    }
}

/// Returns the queue that a task sleeps on; `None` if it does not.
pub fn sleep_queue(task: &KernelTask) -> Option<u64> {
    match task.wait.as_ref()?.what {
        WaitFor::Queue(queue) if task.state == TaskRunState::Blocked => Some(queue),
        _ => None,
    }
}
