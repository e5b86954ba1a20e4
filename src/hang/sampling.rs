//! The CPUs of a hang that are worth looking at again, because they run on.
//!
//! Owns the choice; refuses to own the samples (`sample`) and when they are taken (`session`).

use std::collections::BTreeSet;

use super::class;
use super::verdict::DetectedHang;
use super::wait_graph::Node;
use crate::kernel::{KernelState, TaskRunState};

impl DetectedHang {
    /// The CPUs that are to blame, or run a task that is, and may be somewhere else a moment later.
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
