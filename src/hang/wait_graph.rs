//! Wait graph: CPUs and tasks wait for locks and for other CPUs; locks are held by CPUs and tasks; a task
//! that could run waits for its CPU. Each node waits for one other at most, so that following the waits
//! is a walk along a path, which ends at a node that waits for no other, or in a cycle.
//!
//! Owns the walk; refuses to own what a path means (`class`). Called by `group` and `moment`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ages::{Age, Ages};
use crate::kernel::{KernelState, Lock, LockKind, TaskRunState, Wait, WaitFor};

/// Node of the graph: a party, or something that parties wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Node {
    /// A CPU, by its number.
    Cpu(u32),
    /// A task, by its number.
    Task(u32),
    /// A lock, by its address.
    Lock(u64),
    /// A queue that tasks sleep on, by its address.
    Queue(u64),
}

/// Edge of the graph: one node waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edge {
    /// The node that cannot continue before `to`.
    pub from: Node,
    /// The node that is waited for.
    pub to: Node,
    /// The kind of wait between them.
    pub kind: EdgeKind,
}

/// Kind of wait between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EdgeKind {
    /// `from` waits for the lock `to`.
    WaitsFor,
    /// The lock `from` is held by `to`.
    HeldBy,
    /// `from` waits for the CPU to answer a call-function IPI.
    Calls,
    /// `from` waits for the CPU to come online.
    BringsUp,
    /// The task runs on the CPU, or is ready to.
    RunsOn,
    /// The task sleeps on the queue until it is woken.
    SleepsOn,
}

/// End of a path of waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Root {
    /// A node that waits for no other.
    One(Node),
    /// A cycle, listed from its smallest node on.
    Cycle(Vec<Node>),
}

/// Chains of waits at one moment, without waits that are too young.
#[derive(Debug, Clone, Copy)]
pub struct WaitChains<'a> {
    kernel: &'a KernelState,
    ages: &'a Ages,
    /// The age from which a wait or a holder counts.
    min_age: Duration,
    /// True to compare ages by the wall clock instead of own time.
    by_wall_clock: bool,
}

impl Lock {
    /// Returns the CPU or task that holds the lock.
    pub fn holder(&self) -> Option<Node> {
        let holder = self.holder?;
        match self.kind {
            LockKind::Mutex | LockKind::RwSemaphore => Some(Node::Task(holder)),
            LockKind::Spin | LockKind::Ticket => Some(Node::Cpu(holder)),
            // Not a lock.
            LockKind::Garbage(_) => None,
        }
    }
}

impl<'a> WaitChains<'a> {
    /// Makes the chains of waits that are at least `min_age` old.
    pub fn new(kernel: &'a KernelState, ages: &'a Ages, min_age: Duration) -> Self {
        Self { kernel, ages, min_age, by_wall_clock: false }
    }

    /// Compares ages by the wall clock instead: for victims, which the host may hardly run.
    pub fn by_wall_clock(self) -> Self {
        Self { by_wall_clock: true, ..self }
    }

    fn has_lasted(&self, age: Age) -> bool {
        (if self.by_wall_clock { age.wall } else { age.own }) >= self.min_age
    }

    /// Returns the edge to the node that a node waits for.
    pub fn next(&self, node: Node) -> Option<Edge> {
        let edge = |kind, to| Some(Edge { from: node, to, kind });
        let waits = |wait: &Wait| match wait.what {
            WaitFor::Lock(address) => edge(EdgeKind::WaitsFor, Node::Lock(address)),
            WaitFor::Call(cpu) => edge(EdgeKind::Calls, Node::Cpu(cpu)),
            WaitFor::Online(cpu) => edge(EdgeKind::BringsUp, Node::Cpu(cpu)),
            // The party that is to wake it is not known.
            WaitFor::Queue(_) => None,
        };
        match node {
            Node::Cpu(cpu) => waits(self.long_wait_of_cpu(cpu)?),
            Node::Task(number) => {
                let task = self.kernel.task(number)?;
                match task.state {
                    TaskRunState::Ready | TaskRunState::Running => {
                        edge(EdgeKind::RunsOn, Node::Cpu(task.cpu))
                    }
                    TaskRunState::Blocked | TaskRunState::Sleeping => {
                        waits(self.long_wait_of_task(number)?)
                    }
                    TaskRunState::Ended | TaskRunState::Garbage(_) => None,
                }
            }
            Node::Queue(_) => None,
            Node::Lock(address) => {
                let lock = self.kernel.locks.get(&address)?;
                let is_old = self.has_lasted(self.ages.lock(address));
                edge(EdgeKind::HeldBy, lock.holder().filter(|_| is_old)?)
            }
        }
    }

    fn long_wait_of_cpu(&self, cpu: u32) -> Option<&'a Wait> {
        let wait = self.kernel.cpu(cpu)?.wait.as_ref()?;
        self.has_lasted(self.ages.cpu(cpu).wait.age).then_some(wait)
    }

    fn long_wait_of_task(&self, task: u32) -> Option<&'a Wait> {
        let wait = self.kernel.task(task)?.wait.as_ref()?;
        self.has_lasted(self.ages.task(task)).then_some(wait)
    }

    /// Returns the CPUs and tasks with a counted wait for a lock or a CPU.
    pub fn waiters(&self) -> impl Iterator<Item = Node> {
        let cpus = (0..self.kernel.cpus.len() as u32).map(Node::Cpu);
        let tasks = (0..self.kernel.tasks.len() as u32).map(Node::Task);
        let waits = |edge: &Edge| edge.kind != EdgeKind::RunsOn;
        cpus.chain(tasks).filter(move |&node| self.next(node).as_ref().is_some_and(waits))
    }

    /// Follows the waits from a node. Returns the path and its end.
    pub fn follow(&self, from: Node) -> (Vec<Edge>, Root) {
        let mut path: Vec<Edge> = Vec::new();
        let mut seen = BTreeSet::from([from]);
        let mut last = from;
        while let Some(edge) = self.next(last) {
            path.push(edge);
            last = edge.to;
            if !seen.insert(last) {
                return (path.clone(), Root::Cycle(cycle(&path, last)));
            }
        }
        (path, Root::One(last))
    }
}

/// Returns the cycle in which a path ends that has reached `node` again.
fn cycle(path: &[Edge], node: Node) -> Vec<Node> {
    let start = path.iter().position(|edge| edge.from == node).unwrap_or(0);
    let mut nodes: Vec<Node> = path[start..].iter().map(|edge| edge.from).collect();
    let smallest = (0..nodes.len()).min_by_key(|&index| nodes[index]).unwrap_or(0);
    nodes.rotate_left(smallest);
    nodes
}
