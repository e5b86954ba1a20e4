//! Hangs as reports have them: parties with names, places with lines, and what the verdict rests on.
//! What the verdict is has been decided in `hang`.

use std::collections::{BTreeMap, BTreeSet};

use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{demangle, short_name};

use super::signature::{self, Moments};
use super::stable::Samples;
use super::{Resolver, milliseconds};
use crate::hang::{self, Ages, EdgeKind, Node};
use crate::kernel::{self, KernelState, Site, TaskState};
use crate::report::{
    self, Activity, Cpu, CpuState, Evidence, Fact, Hang, LockKind, NodeKind, SourceLine, Task,
    WaitEdge, WaitKind, WaitNode,
};

/// What the verdicts of one moment rest on.
#[derive(Debug, Clone, Copy)]
pub struct Grounds<'a> {
    /// What the kernel said of itself.
    pub kernel: Option<&'a KernelState>,
    /// For how long things had not changed.
    pub ages: &'a Ages,
    /// The stacks of those to blame who run on, shortly afterwards.
    pub samples: &'a Samples,
    /// The vCPUs, as the report has them.
    pub cpus: &'a [Cpu],
    /// The tasks that did not run, as the report has them.
    pub tasks: &'a [Task],
    /// When it was, in milliseconds since the tool's start.
    pub at_ms: f64,
    /// Which of the report's backtraces is of that moment.
    pub backtrace: Option<u32>,
}

/// Makes the report's hangs of those that were found.
pub fn hangs(found: &[hang::Hang], grounds: Grounds<'_>, resolver: &Resolver<'_>) -> Vec<Hang> {
    let names = Names::of(found, grounds, resolver);
    found.iter().map(|hang| Teller { hang, grounds, resolver, names: &names }.tell()).collect()
}

/// What the parties are called; no two alike.
struct Names {
    tasks: BTreeMap<u32, String>,
    /// And queues.
    locks: BTreeMap<u64, String>,
}

impl Names {
    fn of(found: &[hang::Hang], grounds: Grounds<'_>, resolver: &Resolver<'_>) -> Self {
        let mut used = BTreeSet::new();
        let mut locks: BTreeMap<u64, String> = BTreeMap::new();
        let queue = |edge: &hang::Edge| match edge.to {
            Node::Queue(address) => Some(address),
            _ => None,
        };
        let queues = found.iter().flat_map(|hang| &hang.edges).filter_map(queue);
        for address in found.iter().flat_map(|hang| hang.locks.iter().copied()).chain(queues) {
            locks.entry(address).or_insert_with(|| {
                let name = lock_name(address, resolver);
                unlike(&mut used, &name, &format!("@{address:016x}"))
            });
        }
        let all = (0..).zip(grounds.kernel.map_or(&[][..], |kernel| &kernel.tasks));
        let tasks = all.filter_map(|(number, task)| {
            let name = &task.as_ref()?.name;
            Some((number, unlike(&mut used, name, &format!("#{number}"))))
        });
        let tasks = tasks.collect();
        Self { tasks, locks }
    }

    fn id(&self, node: Node) -> String {
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

/// A name that is neither used nor a CPU's: `name`, and `more` as often as it takes.
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

/// A lock's symbol without the path to it, or its address.
pub(super) fn lock_name(address: u64, resolver: &Resolver<'_>) -> String {
    match lock_symbol(address, resolver) {
        Some(symbol) => short_name(&symbol).to_owned(),
        None => format!("{address:016x}"),
    }
}

/// A lock that is part of something has that one's symbol, and an offset.
fn lock_symbol(address: u64, resolver: &Resolver<'_>) -> Option<String> {
    let found = resolver.symbols()?.symbol_containing(VirtualAddress(address))?;
    let name = demangle(&found.symbol.name);
    Some(if found.offset == 0 { name } else { format!("{name}+{:#x}", found.offset) })
}

/// Tells of one hang.
struct Teller<'a> {
    hang: &'a hang::Hang,
    grounds: Grounds<'a>,
    resolver: &'a Resolver<'a>,
    names: &'a Names,
}

impl Teller<'_> {
    fn tell(&self) -> Hang {
        let hang = self.hang;
        let ids = |nodes: &[Node]| nodes.iter().map(|&node| self.names.id(node)).collect();
        Hang {
            class: hang.class,
            signature: signature::of(hang.class, &self.blamed_stacks(), self.resolver.words()),
            at_ms: self.grounds.at_ms,
            lasted_ms: milliseconds(hang.age),
            blamed: ids(&hang.blamed),
            locks: hang.locks.iter().map(|&lock| self.names.id(Node::Lock(lock))).collect(),
            victims: ids(&hang.victims),
            nodes: self.nodes(),
            edges: hang.edges.iter().map(|edge| self.edge(edge)).collect(),
            evidence: self.evidence(),
            backtrace: self.grounds.backtrace,
            resolved_after_ms: None,
        }
    }

    /// The stacks of everybody who is to blame.
    fn blamed_stacks(&self) -> Vec<Moments<'_>> {
        let stack = |node: &Node| match *node {
            Node::Cpu(cpu) => self.stack_of_cpu(cpu),
            Node::Task(number) => self.stack_of_task(number),
            Node::Lock(_) | Node::Queue(_) => None,
        };
        self.hang.blamed.iter().filter_map(stack).collect()
    }

    /// The host's look, and of a CPU that runs on the samples from after it.
    fn stack_of_cpu(&self, cpu: u32) -> Option<Moments<'_>> {
        let look = &self.cpu(cpu)?.look.as_ref()?.frames[..];
        let samples =
            self.grounds.samples.of(cpu).filter(|_| hang::conduct(self.hang.class).runs_on);
        Some([look].into_iter().chain(samples).collect())
    }

    fn stack_of_task(&self, number: u32) -> Option<Moments<'_>> {
        match self.grounds.tasks.iter().find(|task| task.task == number) {
            Some(task) => Some(vec![&task.look.as_ref()?.frames]),
            // One that runs has its CPU's stack.
            None => self.stack_of_cpu(self.grounds.kernel?.task(number)?.cpu),
        }
    }

    fn cpu(&self, number: u32) -> Option<&Cpu> {
        self.grounds.cpus.get(number as usize)
    }

    fn nodes(&self) -> Vec<WaitNode> {
        let hang = self.hang;
        let cpus = (0..self.grounds.cpus.len() as u32).map(Node::Cpu);
        let ends = hang.edges.iter().flat_map(|edge| [edge.from, edge.to]);
        let named = hang.blamed.iter().chain(&hang.victims).copied();
        let locks = hang.locks.iter().copied().map(Node::Lock);
        let mut nodes: Vec<Node> = cpus.chain(ends).chain(named).chain(locks).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let node = |node| WaitNode { id: self.names.id(node), kind: self.kind(node) };
        nodes.into_iter().map(node).collect()
    }

    fn kind(&self, node: Node) -> NodeKind {
        let kernel = self.grounds.kernel;
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

    fn activity(&self, cpu: u32) -> Activity {
        let online = self.grounds.kernel.and_then(|kernel| kernel.cpu(cpu));
        let Some(seen) = self.cpu(cpu) else { return Activity::Absent };
        match (seen.state, seen.interrupts_enabled) {
            (CpuState::NotStarted | CpuState::Reset, _) => Activity::Offline,
            _ if online.is_some_and(|cpu| !cpu.online) => Activity::Offline,
            (CpuState::Running, _) => Activity::Running,
            (CpuState::Halted | CpuState::ProbablyHalted, Some(true)) => Activity::Idle,
            (CpuState::Halted | CpuState::ProbablyHalted, Some(false)) => Activity::Dead,
            _ => Activity::Unknown,
        }
    }

    fn edge(&self, edge: &hang::Edge) -> WaitEdge {
        let (kernel, ages) = (self.grounds.kernel, self.grounds.ages);
        let (wait, age) = match (edge.kind, edge.from) {
            (EdgeKind::RunsOn, _) => (None, None),
            (EdgeKind::HeldBy, Node::Lock(lock)) => {
                (None, ages.locks.get(&lock).map(hang::Still::own))
            }
            (_, Node::Cpu(cpu)) => (
                kernel.and_then(|kernel| kernel.cpu(cpu)?.wait.as_ref()),
                ages.cpus.get(cpu as usize).map(|cpu| cpu.wait.own()),
            ),
            (_, Node::Task(task)) => (
                kernel.and_then(|kernel| kernel.task(task)?.wait.as_ref()),
                ages.tasks.get(task as usize).map(hang::Still::own),
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
            at: wait.and_then(|wait| self.line(&wait.at)),
            for_ms: age.map(milliseconds),
        }
    }

    fn line(&self, site: &Site) -> Option<SourceLine> {
        let (file, line) = site.line.as_ref()?;
        Some(SourceLine { file: self.resolver.show_path(file), line: *line })
    }

    fn evidence(&self) -> Vec<Evidence> {
        let hang = self.hang;
        let parties = hang.blamed.iter().chain(&hang.victims).copied();
        let parties = parties.chain(self.cpus_of_sleepers());
        let mut evidence = Vec::new();
        for party in parties {
            let facts = match party {
                Node::Cpu(cpu) => self.facts_of_cpu(cpu),
                Node::Task(task) => self.facts_of_task(task),
                Node::Lock(_) | Node::Queue(_) => Vec::new(),
            };
            let of = self.names.id(party);
            evidence.extend(facts.into_iter().map(|fact| Evidence { of: of.clone(), fact }));
        }
        evidence
    }

    /// The CPUs whose work those have who sleep and are to blame for that.
    fn cpus_of_sleepers(&self) -> BTreeSet<Node> {
        let cpu = |node: &Node| match *node {
            Node::Task(task) if hang::conduct(self.hang.class).has_work => {
                Some(Node::Cpu(self.grounds.kernel?.task(task)?.cpu))
            }
            _ => None,
        };
        self.hang.blamed.iter().filter_map(cpu).collect()
    }

    fn facts_of_cpu(&self, cpu: u32) -> Vec<Fact> {
        let mut facts = Vec::new();
        // Younger than half of the hang: it has nothing to do with it.
        let old = |age: std::time::Duration| (age >= self.hang.age / 2).then(|| milliseconds(age));
        let ages = self.grounds.ages.cpus.get(cpu as usize);
        let activity = self.grounds.kernel.and_then(|kernel| kernel.cpu(cpu));
        if let (Some(ages), Some(activity)) = (ages, activity) {
            let no_tick = old(ages.tick.own()).map(|ms| Fact::NoTick { ms });
            // Counters that go backwards count nothing.
            let interrupts = activity.interrupts.saturating_sub(ages.interrupts_before);
            let no_schedule =
                old(ages.main_loop.own()).map(|ms| Fact::NoSchedule { ms, interrupts });
            let waited = old(ages.wait.own()).map(|ms| Fact::Waited { ms });
            let items = activity.work_queued.saturating_sub(activity.work_done);
            let ran_ms = milliseconds(ages.work.age.ran);
            let undone = old(ages.work.own()).map(|ms| Fact::WorkUndone { ms, items, ran_ms });
            let tasks = activity.ready_tasks;
            let not_run = old(ages.ready.own()).map(|ms| Fact::TasksNotRun { ms, tasks });
            facts.extend([no_tick, no_schedule, waited, undone, not_run].into_iter().flatten());
        }
        if activity.is_none()
            && let Some(ages) = ages
        {
            let off = old(ages.interrupts_off.own());
            facts.extend(off.map(|ms| Fact::SeenWithInterruptsOff { ms }));
            let ms = milliseconds(self.grounds.ages.console.own());
            facts.push(Fact::NoOutput { ms });
        }
        if self.hang.class.is_before_ready() {
            facts.push(Fact::NotReady { ms: milliseconds(self.hang.age) });
        }
        facts.extend(self.stood(cpu));
        facts
    }

    fn facts_of_task(&self, task: u32) -> Vec<Fact> {
        let age = self.grounds.ages.tasks.get(task as usize).map(hang::Still::own);
        let waited = age.filter(|age| !age.is_zero());
        waited.map(|age| Fact::Waited { ms: milliseconds(age) }).into_iter().collect()
    }

    /// Where a CPU was stopped.
    fn stood(&self, number: u32) -> Option<Fact> {
        let cpu = self.cpu(number)?;
        let frames = &cpu.look.as_ref()?.frames;
        let frame = frames.first()?;
        let functions = || frames.iter().flat_map(|frame| &frame.functions);
        let name = self.stable_place(number);
        let words = self.resolver.words();
        let function = match name {
            Some(name) => functions().find(|function| function.name.as_deref() == Some(name)),
            // What tells more than that it spins, or halts.
            None => functions().find(|function| {
                function.name.as_deref().is_some_and(|name| !words.is_plumbing(name))
            }),
        };
        let function = function.or_else(|| frame.functions.first().filter(|_| name.is_none()));
        let line = function.and_then(|function| {
            Some(SourceLine { file: function.file.clone()?, line: function.line? })
        });
        let name = name.or_else(|| function?.name.as_deref());
        Some(Fact::Stood {
            halted: matches!(cpu.state, CpuState::Halted | CpuState::ProbablyHalted),
            interrupts_enabled: cpu.interrupts_enabled?,
            nmi_masked: cpu.in_nmi == Some(true),
            at: frame.address.clone(),
            function: name.map(str::to_owned),
            line,
        })
    }

    /// The function that a CPU is in that runs on, whatever that one calls.
    fn stable_place(&self, cpu: u32) -> Option<&str> {
        let moments = self.stack_of_cpu(cpu).filter(|moments| moments.len() > 1)?;
        signature::stable_place(self.hang.class, &moments, self.resolver.words())
    }
}

impl From<TaskState> for report::TaskState {
    fn from(state: TaskState) -> Self {
        match state {
            TaskState::Ready => Self::Ready,
            TaskState::Running => Self::Running,
            TaskState::Blocked => Self::Blocked,
            TaskState::Ended => Self::Ended,
            TaskState::Garbage(_) => Self::Unknown,
        }
    }
}

impl From<kernel::LockKind> for LockKind {
    fn from(kind: kernel::LockKind) -> Self {
        match kind {
            kernel::LockKind::Spin => Self::Spin,
            kernel::LockKind::Ticket => Self::Ticket,
            kernel::LockKind::Mutex => Self::Mutex,
            kernel::LockKind::Garbage(_) => Self::Unknown,
        }
    }
}
