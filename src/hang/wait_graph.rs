//! Who waits for whom. CPUs and tasks wait for locks and for other CPUs; locks are held by CPUs and
//! tasks; a task that could run waits for its CPU. Each of them waits for one other at most, so that
//! following it is a walk along a line, which ends at somebody who waits for nobody, or in a circle.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ages::{Age, Ages};
use crate::kernel::{KernelState, Lock, LockKind, TaskRunState, Wait, WaitFor};

/// Somebody, or something, in the graph.
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

/// What `from` has to do with `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edge {
    /// Who cannot go on ...
    pub from: Node,
    /// ... before this one does.
    pub to: Node,
    /// Why not.
    pub kind: EdgeKind,
}

/// Why one cannot go on before the other does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EdgeKind {
    /// Waits for the lock.
    WaitsFor,
    /// The lock is held by it.
    HeldBy,
    /// Waits for the CPU to answer a call-function IPI.
    Calls,
    /// Waits for the CPU to come online.
    BringsUp,
    /// The task runs on the CPU, or would like to.
    RunsOn,
    /// The task sleeps on the queue until somebody wakes it.
    SleepsOn,
}

/// Where following a line led.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Root {
    /// To one that waits for nobody.
    One(Node),
    /// Into a circle, told from its smallest node on.
    Cycle(Vec<Node>),
}

/// The graph of one moment, as far as it has lasted.
#[derive(Debug, Clone, Copy)]
pub struct WaitChains<'a> {
    kernel: &'a KernelState,
    ages: &'a Ages,
    /// A wait younger than this is just a wait.
    min_age: Duration,
    /// By the clock, and not by the own time of those who wait.
    by_wall_clock: bool,
}

impl Lock {
    /// Who has it, if anybody has.
    pub fn holder(&self) -> Option<Node> {
        let holder = self.holder?;
        match self.kind {
            LockKind::Mutex => Some(Node::Task(holder)),
            LockKind::Spin | LockKind::Ticket => Some(Node::Cpu(holder)),
            // Whatever it is, it is no lock.
            LockKind::Garbage(_) => None,
        }
    }
}

impl<'a> WaitChains<'a> {
    /// The graph of waits that have lasted for `lasting`.
    pub fn new(kernel: &'a KernelState, ages: &'a Ages, min_age: Duration) -> Self {
        Self { kernel, ages, min_age, by_wall_clock: false }
    }

    /// The same of waits that have lasted for so long by the clock: who suffers from what is found, and
    /// is not run by the host all the time.
    pub fn by_wall_clock(self) -> Self {
        Self { by_wall_clock: true, ..self }
    }

    fn has_lasted(&self, age: Age) -> bool {
        (if self.by_wall_clock { age.wall } else { age.own }) >= self.min_age
    }

    /// Whom a node waits for, if for anybody.
    pub fn next(&self, node: Node) -> Option<Edge> {
        let edge = |kind, to| Some(Edge { from: node, to, kind });
        let waits = |wait: &Wait| match wait.what {
            WaitFor::Lock(address) => edge(EdgeKind::WaitsFor, Node::Lock(address)),
            WaitFor::Call(cpu) => edge(EdgeKind::Calls, Node::Cpu(cpu)),
            WaitFor::Online(cpu) => edge(EdgeKind::BringsUp, Node::Cpu(cpu)),
            // Whoever is to wake it is not known.
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
                    TaskRunState::Blocked => waits(self.long_wait_of_task(number)?),
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

    /// CPUs and tasks that have waited long for a lock or a CPU.
    pub fn waiters(&self) -> impl Iterator<Item = Node> {
        let cpus = (0..self.kernel.cpus.len() as u32).map(Node::Cpu);
        let tasks = (0..self.kernel.tasks.len() as u32).map(Node::Task);
        let waits = |edge: &Edge| edge.kind != EdgeKind::RunsOn;
        cpus.chain(tasks).filter(move |&node| self.next(node).as_ref().is_some_and(waits))
    }

    /// Follows whom `from` waits for. Returns the way, and where it led.
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

/// The circle that a way has ended in by coming to `node` again.
fn cycle(path: &[Edge], node: Node) -> Vec<Node> {
    let start = path.iter().position(|edge| edge.from == node).unwrap_or(0);
    let mut nodes: Vec<Node> = path[start..].iter().map(|edge| edge.from).collect();
    let smallest = (0..nodes.len()).min_by_key(|&index| nodes[index]).unwrap_or(0);
    nodes.rotate_left(smallest);
    nodes
}
