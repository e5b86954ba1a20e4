//! Wait graphs as reports have them: parties with names, waits with lines.
//!
//! Owns the names, which are unique in a graph, and the whole graph of a moment; refuses to own the
//! choice of hangs (`hang`) and their form (`hangs`).

use std::collections::{BTreeMap, BTreeSet};

use nmiscope_machine::VirtualAddress;
use nmiscope_report::{
    self as report, ActivityState, Cpu, CpuState, LockKind, NodeKind, SourceLine, WaitEdge,
    WaitGraph, WaitKind, WaitNode,
};
use nmiscope_symbolizer::{demangle, short_name};

use super::{Resolver, milliseconds};
use crate::hang::{self, Ages, EdgeKind, Node};
use crate::kernel::{self, KernelState, Site, TaskRunState};

/// Returns the whole graph of a moment; `None` if there are no waits, or the kernel is unknown.
pub fn wait_graph(
    kernel: Option<&KernelState>,
    ages: &Ages,
    cpus: &[Cpu],
    resolver: &Resolver<'_>,
) -> Option<WaitGraph> {
    let edges = hang::all_waits(kernel?, ages);
    let names = Names::of_waits(&edges, kernel, resolver);
    let parties = Parties { kernel, ages, cpus, resolver, names: &names };
    let nodes: BTreeSet<Node> = edges.iter().flat_map(|edge| [edge.from, edge.to]).collect();
    (!edges.is_empty()).then(|| WaitGraph {
        nodes: nodes.into_iter().map(|node| parties.node(node)).collect(),
        edges: edges.iter().map(|edge| parties.edge(edge)).collect(),
    })
}

/// Names of parties, unique in a graph.
pub struct Names {
    tasks: BTreeMap<u32, String>,
    /// Names of locks and queues, by address.
    locks: BTreeMap<u64, String>,
}

impl Names {
    /// Names the `locks`, the other locks and the queues of `edges`, and all tasks of the kernel.
    pub fn assign<'e>(
        edges: impl Iterator<Item = &'e hang::Edge>,
        locks: impl Iterator<Item = u64>,
        kernel: Option<&KernelState>,
        resolver: &Resolver<'_>,
    ) -> Self {
        let mut used = BTreeSet::new();
        let mut named: BTreeMap<u64, String> = BTreeMap::new();
        let addresses = |edge: &hang::Edge| {
            [edge.from, edge.to].into_iter().filter_map(|node| match node {
                Node::Lock(address) | Node::Queue(address) => Some(address),
                Node::Cpu(_) | Node::Task(_) => None,
            })
        };
        for address in locks.chain(edges.flat_map(addresses)) {
            named.entry(address).or_insert_with(|| {
                let name = lock_name(address, resolver);
                unlike(&mut used, &name, &format!("@{address:016x}"))
            });
        }
        let all = (0..).zip(kernel.map_or(&[][..], |kernel| &kernel.tasks));
        let tasks = all.filter_map(|(number, task)| {
            let name = &task.as_ref()?.name;
            Some((number, unlike(&mut used, name, &format!("#{number}"))))
        });
        let tasks = tasks.collect();
        Self { tasks, locks: named }
    }

    /// Names the parties of all waits of a moment.
    pub fn of_waits(
        edges: &[hang::Edge],
        kernel: Option<&KernelState>,
        resolver: &Resolver<'_>,
    ) -> Self {
        let locks = edges.iter().filter_map(|edge| match edge.to {
            Node::Lock(address) => Some(address),
            _ => None,
        });
        Self::assign(edges.iter(), locks, kernel, resolver)
    }

    /// Returns the name of a party.
    pub fn id(&self, node: Node) -> String {
        match node {
            Node::Cpu(cpu) => format!("cpu{cpu}"),
            Node::Task(task) => {
                self.tasks.get(&task).cloned().unwrap_or_else(|| format!("task#{task}"))
            }
            Node::Lock(address) | Node::Queue(address) => {
                self.locks.get(&address).cloned().unwrap_or_else(|| format!("{address:016x}"))
            }
        }
    }
}

/// Makes a name that is neither used nor a CPU's: `name`, with `more` added as often as needed.
fn unlike(used: &mut BTreeSet<String>, name: &str, more: &str) -> String {
    let is_cpu = |name: &str| {
        let number = name.strip_prefix("cpu");
        number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    let mut name = name.to_owned();
    while name.is_empty() || is_cpu(&name) || used.contains(&name) {
        name.push_str(more);
    }
    used.insert(name.clone());
    name
}

/// Returns a lock's symbol without its path, or its address.
pub fn lock_name(address: u64, resolver: &Resolver<'_>) -> String {
    match lock_symbol(address, resolver) {
        Some(symbol) => short_name(&symbol).to_owned(),
        None => format!("{address:016x}"),
    }
}

/// Returns the symbol of the object that a lock is, or lies in, without what the compiler appended to it: that
/// differs between builds.
pub fn lock_object(address: u64, resolver: &Resolver<'_>) -> Option<String> {
    let found = resolver.symbols()?.symbol_containing(VirtualAddress(address))?;
    let name = demangle(&found.symbol.name);
    let mut name = name.as_str();
    while let Some((stem, number)) = name.rsplit_once('.')
        && !stem.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        name = stem;
    }
    Some(name.strip_suffix(".llvm").unwrap_or(name).to_owned())
}

/// Returns a lock's symbol. A lock inside a larger object has the object's symbol and an offset.
pub fn lock_symbol(address: u64, resolver: &Resolver<'_>) -> Option<String> {
    let found = resolver.symbols()?.symbol_containing(VirtualAddress(address))?;
    let name = demangle(&found.symbol.name);
    Some(if found.offset == 0 { name } else { format!("{name}+{:#x}", found.offset) })
}

/// Parties of a moment, with everything that describes them.
#[derive(Clone, Copy)]
pub struct Parties<'a> {
    /// The kernel's state; `None` if it is unknown.
    pub kernel: Option<&'a KernelState>,
    /// The ages of all observed values.
    pub ages: &'a Ages,
    /// The vCPUs, as in the report.
    pub cpus: &'a [Cpu],
    /// The resolver of the kernel's addresses.
    pub resolver: &'a Resolver<'a>,
    /// The names of all parties.
    pub names: &'a Names,
}

impl Parties<'_> {
    /// Returns a party as reports have it.
    pub fn node(&self, node: Node) -> WaitNode {
        WaitNode { id: self.names.id(node), kind: self.kind(node) }
    }

    fn kind(&self, node: Node) -> NodeKind {
        let kernel = self.kernel;
        match node {
            Node::Cpu(cpu) => NodeKind::Cpu {
                cpu,
                activity: self.activity(cpu),
                task: kernel
                    .and_then(|kernel| {
                        kernel.cpu(cpu)?.task.filter(|&task| kernel.task(task).is_some())
                    })
                    .map(|task| self.names.id(Node::Task(task))),
            },
            Node::Task(number) => {
                let task = kernel.and_then(|kernel| kernel.task(number));
                NodeKind::Task {
                    task: number,
                    name: task.map(|task| task.name.clone()).unwrap_or_default(),
                    cpu: task.map_or(0, |task| task.cpu),
                    state: task.map_or(report::TaskState::Absent, |task| task.state.into()),
                }
            }
            Node::Lock(address) => {
                let lock = kernel.and_then(|kernel| kernel.locks.get(&address));
                NodeKind::Lock {
                    symbol: lock_symbol(address, self.resolver),
                    address: format!("{address:016x}"),
                    lock: lock.map_or(LockKind::Unknown, |lock| lock.kind.into()),
                    held_by: lock.and_then(kernel::Lock::holder).map(|node| self.names.id(node)),
                    taken_at: lock.and_then(|lock| self.line(&lock.taken_at)),
                }
            }
            Node::Queue(address) => NodeKind::Queue {
                symbol: lock_symbol(address, self.resolver),
                address: format!("{address:016x}"),
            },
        }
    }

    fn activity(&self, cpu: u32) -> ActivityState {
        let online = self.kernel.and_then(|kernel| kernel.cpu(cpu));
        let Some(seen) = self.cpus.get(cpu as usize) else { return ActivityState::Absent };
        match (seen.state, seen.interrupts_enabled) {
            (CpuState::NotStarted | CpuState::InInit | CpuState::Reset, _) => {
                ActivityState::Offline
            }
            _ if online.is_some_and(|cpu| !cpu.online) => ActivityState::Offline,
            (CpuState::Running, _) => ActivityState::Running,
            (CpuState::Halted | CpuState::ProbablyHalted, Some(true)) => ActivityState::Idle,
            (CpuState::Halted | CpuState::ProbablyHalted, Some(false)) => ActivityState::Dead,
            _ => ActivityState::Unknown,
        }
    }

    /// Returns an edge as reports have it.
    pub fn edge(&self, edge: &hang::Edge) -> WaitEdge {
        let (kernel, ages) = (self.kernel, self.ages);
        let (wait, age) = match (edge.kind, edge.from) {
            (EdgeKind::RunsOn, _) => (None, None),
            (EdgeKind::HeldBy, Node::Lock(lock)) => {
                (None, ages.locks.get(&lock).map(hang::Unchanged::own))
            }
            (_, Node::Cpu(cpu)) => (
                kernel.and_then(|kernel| kernel.cpu(cpu)?.wait.as_ref()),
                ages.cpus.get(cpu as usize).map(|cpu| cpu.wait.own()),
            ),
            (_, Node::Task(task)) => (
                kernel.and_then(|kernel| kernel.task(task)?.wait.as_ref()),
                ages.tasks.get(task as usize).map(hang::Unchanged::own),
            ),
            (_, Node::Lock(_) | Node::Queue(_)) => (None, None),
        };
        WaitEdge {
            from: self.names.id(edge.from),
            to: self.names.id(edge.to),
            kind: match edge.kind {
                EdgeKind::WaitsFor => WaitKind::WaitsFor,
                EdgeKind::HeldBy => WaitKind::HeldBy,
                EdgeKind::Calls => WaitKind::CallsFunction,
                EdgeKind::BringsUp => WaitKind::BringsUp,
                EdgeKind::RunsOn => WaitKind::RunsOn,
                EdgeKind::SleepsOn => WaitKind::SleepsOn,
            },
            call_site: wait.and_then(|wait| self.line(&wait.at)),
            // A wait since this moment is one whose beginning is not known.
            lasted_ms: age.filter(|age| !age.is_zero()).map(milliseconds),
        }
    }

    /// Returns the source line of a call, as reports have it.
    pub fn line(&self, site: &Site) -> Option<SourceLine> {
        let (file, line) = site.line.as_ref()?;
        Some(SourceLine { file: self.resolver.show_path(file), line: *line })
    }
}

impl From<TaskRunState> for report::TaskState {
    fn from(state: TaskRunState) -> Self {
        match state {
            TaskRunState::Ready => Self::Ready,
            TaskRunState::Running => Self::Running,
            TaskRunState::Blocked => Self::Blocked,
            TaskRunState::Sleeping => Self::Sleeping,
            TaskRunState::Ended => Self::Ended,
            TaskRunState::Garbage(_) => Self::Unknown,
        }
    }
}

impl From<kernel::LockKind> for LockKind {
    fn from(kind: kernel::LockKind) -> Self {
        match kind {
            kernel::LockKind::Spin => Self::Spin,
            kernel::LockKind::Ticket => Self::Ticket,
            kernel::LockKind::Mutex => Self::Mutex,
            kernel::LockKind::RwSemaphore => Self::RwSemaphore,
            kernel::LockKind::Garbage(_) => Self::Unknown,
        }
    }
}
