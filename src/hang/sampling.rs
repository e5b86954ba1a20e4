//! Choice of the CPUs of a hang to be sampled: blamed ones that keep executing.
//!
//! Owns the choice; refuses to own the samples (`sample`) and when they are taken (`capture`).

use std::collections::BTreeSet;

use super::class;
use super::verdict::DetectedHang;
use super::wait_graph::Node;
use crate::kernel::{KernelState, TaskRunState};

impl DetectedHang {
    /// Returns the blamed CPUs, and those that run a blamed task, if the class's parties keep executing.
    pub fn cpus_to_sample(&self, kernel: Option<&KernelState>) -> BTreeSet<u32> {
        let cpu = |node: &Node| match *node {
            Node::Cpu(cpu) => Some(cpu),
            Node::Task(task) => {
                let task = kernel?.task(task)?;
                (task.state == TaskRunState::Running).then_some(task.cpu)
            }
            Node::Lock(_) | Node::Queue(_) => None,
        };
        let runs_on = class::behaviour(self.class).keeps_running;
        let blamed = self.blamed.iter().filter(|_| runs_on);
        blamed.filter_map(cpu).collect()
    }
}
