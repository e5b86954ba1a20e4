//! Groups: all parties that stand still for one reason, since their waits lead to one root.
//!
//! Owns who belongs to a root and what of them a hang says; refuses to own the class of it (`class`).
//! Called by `known` and by the classes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nmiscope_report::Class;

use super::guest::{KnownGuest, sleep_queue};
use super::verdict::{DetectedHang, HangCertainty};
use super::wait_graph::{Edge, EdgeKind, Node, Root, WaitChains};

/// The parties at one root of the graph.
#[derive(Debug, Default)]
pub struct WaiterGroup {
    pub members: BTreeSet<Node>,
    pub edges: BTreeSet<Edge>,
}

/// All parties that wait or stand still, by the root that they wait for in the end.
pub fn groups(
    guest: &KnownGuest<'_>,
    chains: &WaitChains<'_>,
    stands_still: impl Fn(u32) -> bool,
) -> BTreeMap<Root, WaiterGroup> {
    let still = guest.cpus().filter(|&cpu| stands_still(cpu));
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
    /// Both groups as one.
    pub fn merged_with(mut self, other: Self) -> Self {
        self.members.extend(other.members);
        self.edges.extend(other.edges);
        self
    }

    /// The hang of those that `root` keeps from going on.
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
        // A cycle has its own locks; a single party has all that lead to it.
        let locks = members.iter().filter_map(|node| match (node, root) {
            (Node::Lock(_), Root::Cycle(_)) if !in_root.contains(node) => None,
            (Node::Lock(address), _) => Some(*address),
            _ => None,
        });
        let locks = locks.collect();
        // A task that a blamed CPU runs is no victim of that CPU.
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
        }
    }
}

/// The edge from a party to the queue that it sleeps on. That leads nowhere: whoever is to wake it is
/// not known.
fn sleep_edge(guest: &KnownGuest<'_>, node: Node) -> Option<Edge> {
    let Node::Task(task) = node else { return None };
    let queue = sleep_queue(guest.kernel.task(task)?)?;
    Some(Edge { from: node, to: Node::Queue(queue), kind: EdgeKind::SleepsOn })
}

/// The parties at a root: all of a cycle, the one at the end of a line, or those who wait where there is
/// nobody at its end.
pub fn parties_at(guest: &KnownGuest<'_>, root: &Root, edges: &BTreeSet<Edge>) -> Vec<Node> {
    let waiters = |of: Node| edges.iter().filter(move |edge| edge.to == of);
    match *root {
        Root::Cycle(ref nodes) => nodes.iter().copied().filter(|node| !is_lock(*node)).collect(),
        // A lock that nobody holds, or whose holder does not exist: whose fault that is, is not known.
        // Those who wait for it are where to look.
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

/// The tasks that run on the CPU at the root, or would like to.
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
