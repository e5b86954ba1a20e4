//! Groups: all parties whose waits lead to one root.
//!
//! Owns which parties belong to a root, and which of them are victims of a hang; refuses to own its class
//! (`class`). Called by `known` and by the classes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nmiscope_report::Class;

use super::guest::{KnownGuest, sleep_queue};
use super::verdict::{DetectedHang, HangCertainty};
use super::wait_graph::{Edge, EdgeKind, Node, Root, WaitChains};
use crate::kernel::KernelTask;

/// Parties whose waits lead to one root, with the waits.
#[derive(Debug, Default)]
pub struct WaiterGroup {
    pub members: BTreeSet<Node>,
    pub edges: BTreeSet<Edge>,
}

/// Returns the groups of all parties that wait, and of the CPUs for which `is_stalled` is true, by
/// root.
pub fn groups(
    guest: &KnownGuest<'_>,
    chains: &WaitChains<'_>,
    is_stalled: impl Fn(u32) -> bool,
) -> BTreeMap<Root, WaiterGroup> {
    let still = guest.cpus().filter(|&cpu| is_stalled(cpu));
    let mut groups = BTreeMap::<Root, WaiterGroup>::new();
    for node in chains.waiters().chain(still.map(Node::Cpu)) {
        let (path, root) = chains.follow(node);
        let group = groups.entry(root).or_default();
        group.members.insert(node);
        group.members.extend(path.iter().flat_map(|edge| [edge.from, edge.to]));
        group.edges.extend(path);
    }
    groups
}

impl WaiterGroup {
    /// Merges two groups of one root.
    pub fn merged_with(mut self, other: Self) -> Self {
        self.members.extend(other.members);
        self.edges.extend(other.edges);
        self
    }

    /// Makes the hang of a group.
    pub fn into_hang(
        self,
        guest: &KnownGuest<'_>,
        (class, age): (Class, Duration),
        root: &Root,
        blamed: Vec<Node>,
    ) -> DetectedHang {
        let Self { members, mut edges } = self;
        edges.extend(blamed.iter().filter_map(|&node| sleep_edge(guest, node)));
        let in_root: BTreeSet<Node> = match root {
            Root::Cycle(nodes) => nodes.iter().copied().collect(),
            Root::One(node) => BTreeSet::from([*node]),
        };
        // A hang by a cycle has the locks of the cycle; one by a single party has all locks that lead to
        // it.
        let locks = members.iter().filter_map(|node| match (node, root) {
            (Node::Lock(_), Root::Cycle(_)) if !in_root.contains(node) => None,
            (Node::Lock(address), _) => Some(*address),
            _ => None,
        });
        let locks = locks.collect();
        // A task that runs on a blamed CPU is not a victim of that CPU.
        let runs_on_blamed = |node: &Node| match node {
            Node::Task(task) => blamed.iter().any(|blamed| {
                matches!(blamed, Node::Cpu(cpu)
                    if guest.kernel.cpu(*cpu).is_some_and(|cpu| cpu.task == Some(*task)))
            }),
            _ => false,
        };
        let is_victim = |node: &&Node| {
            !is_lock(**node)
                && !blamed.contains(node)
                && !in_root.contains(node)
                && !runs_on_blamed(node)
        };
        let victims = members.iter().filter(is_victim).copied().collect();
        let edges = edges.into_iter().collect();
        DetectedHang {
            class,
            age,
            blamed,
            locks,
            victims,
            edges,
            certainty: HangCertainty::default(),
            asleep: false,
        }
    }
}

/// Returns the edge from a party to the queue that it sleeps on. The path ends there: the party that is
/// to wake it is not known.
fn sleep_edge(guest: &KnownGuest<'_>, node: Node) -> Option<Edge> {
    let Node::Task(task) = node else { return None };
    let queue = sleep_queue(guest.kernel.task(task)?)?;
    Some(Edge { from: node, to: Node::Queue(queue), kind: EdgeKind::SleepsOn })
}

/// Returns the parties at a root: all of a cycle, or the party at the end of a path, or the waiters if
/// there is no party at its end.
pub fn parties_at(guest: &KnownGuest<'_>, root: &Root, edges: &BTreeSet<Edge>) -> Vec<Node> {
    let waiters = |of: Node| edges.iter().filter(move |edge| edge.to == of);
    match *root {
        Root::Cycle(ref nodes) => nodes.iter().copied().filter(|node| !is_lock(*node)).collect(),
        // A lock without a holder, or with one that does not exist: the party at fault is not known, and
        // the waiters are the place to look.
        Root::One(node) if is_lock(node) || !guest.exists(node) => {
            let direct = waiters(node).map(|edge| edge.from);
            let all = direct.flat_map(|node| match node {
                Node::Lock(_) => waiters(node).map(|edge| edge.from).collect(),
                node => vec![node],
            });
            all.collect()
        }
        Root::One(node) => vec![node],
    }
}

/// Returns true if there are waits for locks or CPUs among `edges`, and all waiters are tasks that sleep.
pub fn all_sleep(guest: &KnownGuest<'_>, edges: &[Edge]) -> bool {
    let is_wait = |edge: &&Edge| !matches!(edge.kind, EdgeKind::HeldBy | EdgeKind::RunsOn);
    let mut waiters = edges.iter().filter(is_wait).map(|edge| edge.from).peekable();
    let sleeps = |node| match node {
        Node::Task(task) => guest.kernel.task(task).is_some_and(KernelTask::is_asleep),
        Node::Cpu(_) | Node::Lock(_) | Node::Queue(_) => false,
    };
    waiters.peek().is_some() && waiters.all(sleeps)
}

/// Returns the tasks that run on the CPU at the root, or are ready to.
pub fn tasks_on(guest: &KnownGuest<'_>, root: &Root, edges: &BTreeSet<Edge>) -> Vec<Node> {
    let Root::One(node) = *root else { return Vec::new() };
    if !guest.exists(node) {
        return Vec::new();
    }
    let run = edges.iter().filter(|edge| edge.to == node && edge.kind == EdgeKind::RunsOn);
    run.map(|edge| edge.from).collect()
}

fn is_lock(node: Node) -> bool {
    matches!(node, Node::Lock(_))
}
