//! A guest at one moment, with the ages of what has not changed: one struct for each thing that can
//! be known of it.
//!
//! Owns what every class asks of a guest; refuses to own what that makes of it (`class`). Made by
//! `judge` of an observation.

use std::time::Duration;

use super::ages::{Age, Ages, CpuAges};
use super::bounds::Bounds;
use super::observation::{ObservedVcpu, VcpuSample};
use super::wait_graph::Node;
use crate::kernel::{KernelState, KernelTask, TaskRunState, Wait, WaitFor};

/// A guest that is not ready yet.
#[derive(Debug, Clone, Copy)]
pub struct BootingGuest<'a> {
    pub bounds: &'a Bounds,
    pub ages: &'a Ages,
    /// The kernel's state, where it can be read already.
    pub known: Option<KnownGuest<'a>>,
}

/// A guest whose kernel is known.
#[derive(Debug, Clone, Copy)]
pub struct KnownGuest<'a> {
    pub bounds: &'a Bounds,
    pub ages: &'a Ages,
    pub kernel: &'a KernelState,
    /// The number of vCPUs, whatever the kernel says.
    pub vcpus: usize,
    /// The age from which on a wait counts: a younger one is just a wait.
    pub min_wait_age: Duration,
}

/// A guest of whose kernel nothing is known: its vCPUs and its console.
#[derive(Debug, Clone, Copy)]
pub struct UnknownGuest<'a> {
    pub bounds: &'a Bounds,
    pub ages: &'a Ages,
    pub vcpus: &'a [ObservedVcpu],
}

impl KnownGuest<'_> {
    /// The numbers of the CPUs that the kernel speaks of.
    pub fn cpus(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.kernel.cpus.len() as u32
    }

    /// True where there is such a party, whatever the guest has written down.
    pub fn exists(&self, node: Node) -> bool {
        match node {
            Node::Cpu(cpu) => (cpu as usize) < self.vcpus,
            Node::Task(task) => self.kernel.task(task).is_some(),
            Node::Lock(_) | Node::Queue(_) => true,
        }
    }

    /// The age of a party's wait; `None` for a party that waits for nobody.
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

    /// The ages of all waits for a lock.
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

    /// The part of a CPU's age in which it waited for somebody who has let it go on: that it has not
    /// yet come back to its main loop since is no fault of its own. A short wait excuses nothing, or
    /// a loop that keeps taking a lock would never be one.
    pub fn wait_credit(&self, ages: &CpuAges) -> Duration {
        Some(ages.waited.own).filter(|&waited| waited >= self.min_wait_age).unwrap_or_default()
    }
}

impl UnknownGuest<'_> {
    /// The vCPUs that have been started and looked at.
    pub fn started(&self) -> impl Iterator<Item = (u32, VcpuSample)> {
        let samples = (0..).zip(self.vcpus).map(|(cpu, vcpu)| Some((cpu, vcpu.sample?)));
        samples.flatten().filter(|(_, sample)| sample.started)
    }

    /// The time since the console's last byte.
    pub fn console_silence(&self) -> Duration {
        self.ages.console.own()
    }
}

/// The queue that a task sleeps on.
pub fn sleep_queue(task: &KernelTask) -> Option<u64> {
    match task.wait.as_ref()?.what {
        WaitFor::Queue(queue) if task.state == TaskRunState::Blocked => Some(queue),
        _ => None,
    }
}
