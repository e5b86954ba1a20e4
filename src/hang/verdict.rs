//! From what stands still, and who waits for whom, to a class and to the one to blame.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ages::{Age, Ages, CpuAges};
use super::bounds::{Bounds, Class};
use super::observation::{Observation, VcpuSample};
use super::sample::CpuSamples;
use super::wait_graph::{Edge, EdgeKind, Node, Root, WaitGraph};
use crate::kernel::{KernelState, Reading, Task, TaskState, Wait, WaitFor};

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The guest hangs.
    Hangs(Box<Found>),
    /// The host does not run the guest.
    Starved(Starved),
    /// The kernel has panicked on this CPU, and did not get as far as to leave.
    Panicked(u32),
}

/// Those that hang in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    /// In which.
    pub class: Class,
    /// For how long, in the own time of the one that has for longest.
    pub age: Duration,
    /// Whose fault it is: CPUs and tasks.
    pub blamed: Vec<Node>,
    /// The locks that have to do with it, by address.
    pub locks: Vec<u64>,
    /// Who waits for those who are to blame: CPUs and tasks.
    pub victims: Vec<Node>,
    /// Who waits for whom.
    pub edges: Vec<Edge>,
}

/// Hangs that were found at one moment, to be told of later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// One of each class, and of deadlocks one of each circle.
    pub hangs: Vec<Hang>,
    /// For how long everything had stood still.
    pub ages: Ages,
    /// Where those to blame stood shortly afterwards, if they run on: empty until somebody looks.
    #[serde(default)]
    pub samples: Vec<CpuSamples>,
}

/// vCPUs that the host does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starved {
    /// By number.
    pub cpus: Vec<u32>,
    /// Without progress for so long, by the wall clock.
    pub wall: Duration,
    /// Of which they ran, the one that ran most.
    pub ran: Duration,
}

impl Class {
    /// Whether those who hang in this way may be somewhere else a moment later. The others wait for
    /// each other, or for nothing.
    pub fn runs_on(self) -> bool {
        !matches!(self, Self::Deadlock | Self::DeadHalt)
    }
}

impl Hang {
    /// The CPUs that are to blame, or run a task that is, and may be somewhere else a moment later.
    pub fn cpus_to_sample(&self, kernel: Option<&KernelState>) -> BTreeSet<u32> {
        let cpu = |node: &Node| match *node {
            Node::Cpu(cpu) => Some(cpu),
            Node::Task(task) => {
                let task = kernel?.task(task)?;
                (task.state == TaskState::Running).then_some(task.cpu)
            }
            Node::Lock(_) | Node::Queue(_) => None,
        };
        let blamed = self.blamed.iter().filter(|_| self.class.runs_on());
        blamed.filter_map(cpu).collect()
    }
}

/// All that a verdict rests on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    pub bounds: &'a Bounds,
    pub ages: &'a Ages,
    pub now: &'a Observation,
    pub ready: bool,
    /// Hangs that have been told of and go on.
    pub told: &'a BTreeMap<usize, Hang>,
}

/// What hangs at one root of the graph.
#[derive(Debug, Default)]
struct Group {
    members: BTreeSet<Node>,
    edges: BTreeSet<Edge>,
}

impl Group {
    fn with(mut self, other: Self) -> Self {
        self.members.extend(other.members);
        self.edges.extend(other.edges);
        self
    }
}

impl Evidence<'_> {
    /// What is wrong, if anything is that has not been told of.
    pub fn verdict(&self) -> Option<Verdict> {
        let panicking = self.now.kernel.known().and_then(|kernel| kernel.panicking);
        if let Some(cpu) = panicking.filter(|&cpu| self.exists(Node::Cpu(cpu))) {
            // It has a while to say why, and to leave; not for ever, however much it has to say.
            let bound = self.bounds.of(Class::HardLockup).unwrap_or(Bounds::DEFAULT);
            let over = self.ages.console.own() >= bound
                || self.ages.panicking.own() >= bound.max(Bounds::DEFAULT_PATIENT);
            return over.then_some(Verdict::Panicked(cpu));
        }
        let mut hangs = match &self.now.kernel {
            _ if !self.ready => self.boot_stall().into_iter().collect(),
            Reading::Known(kernel) => self.hangs(kernel),
            Reading::Unknown => self.hangs_of_unknown(),
            // It is judged when it can be read.
            Reading::Unreadable { .. } => Vec::new(),
        };
        hangs.retain(|hang| !self.is_told(hang));
        if !hangs.is_empty() {
            let found = Found { hangs, ages: self.ages.clone(), samples: Vec::new() };
            return Some(Verdict::Hangs(Box::new(found)));
        }
        self.starved().map(Verdict::Starved)
    }

    /// Of a kernel whose structures are known.
    fn hangs(&self, kernel: &KernelState) -> Vec<Hang> {
        let graph = WaitGraph::new(kernel, self.ages, self.lasting());
        let groups = self.groups(kernel, &graph);
        // Of a guest that gets on, and so at nearly every look, there is nobody to suffer.
        let mut suffering = if groups.is_empty() {
            BTreeMap::new()
        } else {
            self.groups(kernel, &graph.by_the_clock())
        };
        let explained: BTreeSet<Node> =
            groups.values().flat_map(|group| group.members.iter().copied()).collect();
        let mut found: Vec<Hang> = groups
            .into_iter()
            .filter_map(|(root, group)| {
                let (class, age) = self.classify(kernel, &root, &group)?;
                let group = group.with(suffering.remove(&root).unwrap_or_default());
                Some(self.hang_of(class, age, &root, group))
            })
            .collect();
        found.extend(self.undone(kernel, &explained));
        found.retain(|hang| !self.is_told(hang));
        let hangs = self.merge(found);
        let known: BTreeSet<Node> = hangs
            .iter()
            .flat_map(|hang| hang.blamed.iter().chain(&hang.victims).copied())
            .collect();
        let cpus = 0..kernel.cpus.len() as u32;
        let mut others = cpus.filter(|&cpu| !known.contains(&Node::Cpu(cpu)));
        // It may be as much to blame. Not forever: it may also be one that the host never runs.
        let early =
            |hang: &Hang| self.bounds.of(hang.class).is_some_and(|bound| hang.age < bound * 2);
        if hangs.iter().all(early) && others.any(|cpu| self.is_undecided(cpu)) {
            return Vec::new();
        }
        hangs
    }

    /// Whether all that it blames are parties to hangs that have been told of.
    fn is_told(&self, hang: &Hang) -> bool {
        let told = |node| {
            self.told.values().any(|told| told.blamed.contains(node) || told.victims.contains(node))
        };
        hang.blamed.iter().all(told)
    }

    /// Whether a hang that was told of goes on: somebody of whom it was has not moved since.
    pub fn lasts(&self, hang: &Hang) -> bool {
        let kernel = self.now.kernel.known();
        let waits = |node| kernel.and_then(|kernel| self.waited(kernel, node));
        let still = |&node: &Node| -> Option<Duration> {
            let age = match (hang.class, node) {
                (Class::Deadlock | Class::LockWait, _) => waits(node)?.own,
                (Class::BootStall, _) => return (!self.ready).then_some(Duration::MAX),
                (_, Node::Task(task)) => self.ages.task(task).own,
                (_, Node::Lock(_) | Node::Queue(_)) => return None,
                (class, Node::Cpu(cpu)) => {
                    let ages = self.ages.cpu(cpu);
                    match class {
                        Class::SoftLockup => ages.main_loop.own(),
                        Class::Livelock | Class::LostWakeup => undone_for(ages).own,
                        Class::Silent => ages.awake.own().min(self.ages.console.own()),
                        _ if kernel.is_none() => ages.interrupts_off.own(),
                        _ => ages.nothing.own,
                    }
                }
            };
            Some(age)
        };
        // Whoever keeps a lock may get on with everything else: it is those who want it that count.
        let of_waiters = hang.class == Class::LockWait && !hang.victims.is_empty();
        let parties = if of_waiters { &hang.victims } else { &hang.blamed };
        parties.iter().filter_map(still).any(|age| self.is_half_due(hang.class, age))
    }

    /// Whether a CPU stands still by the clock, and has not been run for long enough to tell.
    fn is_undecided(&self, cpu: u32) -> bool {
        let ages = self.ages.cpu(cpu);
        let rows = [
            (self.class_of_still(cpu), ages.nothing),
            (Class::SoftLockup, ages.main_loop.age),
            (Class::Livelock, ages.work.age),
        ];
        let undecided = |(class, age): (Class, Age)| {
            self.is_half_due(class, age.wall) && !self.is_half_due(class, age.own)
        };
        rows.into_iter().any(undecided)
    }

    /// Everybody who stands still or waits, by whom they wait for in the end.
    fn groups(&self, kernel: &KernelState, graph: &WaitGraph<'_>) -> BTreeMap<Root, Group> {
        let still = (0..kernel.cpus.len() as u32).filter(|&cpu| self.class_of_cpu(cpu).is_some());
        let mut groups = BTreeMap::<Root, Group>::new();
        for node in graph.waiters().chain(still.map(Node::Cpu)) {
            let (way, root) = graph.follow(node);
            let group = groups.entry(root).or_default();
            group.members.insert(node);
            group.members.extend(way.iter().flat_map(|edge| [edge.from, edge.to]));
            group.edges.extend(way);
        }
        groups
    }

    /// The class of a group, and for how long it has been of it.
    fn classify(
        &self,
        kernel: &KernelState,
        root: &Root,
        group: &Group,
    ) -> Option<(Class, Duration)> {
        match root {
            Root::Cycle(nodes) => {
                let waits = nodes.iter().filter_map(|&node| self.waited(kernel, node));
                Some((Class::Deadlock, waits.map(|age| age.own).min()?))
            }
            &Root::One(Node::Cpu(cpu)) => {
                self.class_of_cpu(cpu).or_else(|| self.kept_waiting(kernel, group))
            }
            Root::One(_) => self.kept_waiting(kernel, group),
        }
    }

    /// In which way a CPU stands still that waits for nobody, and for how long. What it is does not
    /// depend on which class is due first.
    fn class_of_cpu(&self, cpu: u32) -> Option<(Class, Duration)> {
        let ages = self.ages.cpu(cpu);
        let own = |age: Age| age.own.saturating_sub(self.excused(ages));
        let (nothing, main_loop) = (own(ages.nothing), own(ages.main_loop.age));
        let still = self.class_of_still(cpu);
        // The tick stopped when the main loop did, or so long ago that it does not matter.
        let together = nothing >= self.lasting() && nothing >= main_loop * 3 / 4;
        if together || self.is_half_due(still, nothing) {
            Some((still, nothing))
        } else {
            (main_loop >= self.lasting()).then_some((Class::SoftLockup, main_loop))
        }
    }

    /// For how long a CPU stood still because it waited for somebody, who has let it go on: that it has
    /// not yet come back to its main loop since is no fault of its own. A short wait excuses nothing, or
    /// a loop that keeps taking a lock would never be one.
    fn excused(&self, ages: &CpuAges) -> Duration {
        Some(ages.waited.own).filter(|&waited| waited >= self.lasting()).unwrap_or_default()
    }

    /// Those who wait for somebody who is not stuck: for as long as all of them have waited, as who is to
    /// answer them could have, and as the locks between them have had their holders. All, since one
    /// that the host does not run may be the one whose turn it is. Of a lock that goes from hand to hand
    /// past somebody, neither the holders matter nor those who get it soon.
    fn kept_waiting(&self, kernel: &KernelState, group: &Group) -> Option<(Class, Duration)> {
        let members = group.members.iter().filter_map(|&node| self.waited(kernel, node));
        let waited = members.clone().map(|age| age.wall).min()?;
        let locks = group.members.iter().filter_map(|&node| match node {
            Node::Lock(address) if !self.ages.passes_by(address, waited) => {
                let holder = kernel.locks.get(&address)?.holder;
                let held = holder.map(|_| self.ages.lock(address));
                self.waited_for(kernel, address).chain(held).map(|age| age.own).min()
            }
            _ => None,
        });
        let answers = group.members.iter().filter_map(|&node| match node {
            Node::Cpu(cpu) => self.ages.cpu(cpu).answer.lasting(),
            Node::Task(task) => self.ages.answer(task),
            Node::Lock(_) | Node::Queue(_) => None,
        });
        let ages = members.chain(answers).map(|age| age.own);
        Some((Class::LockWait, ages.chain(locks).min()?))
    }

    /// How long each has waited who waits for a lock.
    fn waited_for(&self, kernel: &KernelState, lock: u64) -> impl Iterator<Item = Age> {
        let wants = move |wait: &Option<Wait>| {
            wait.as_ref().is_some_and(|wait| wait.what == WaitFor::Lock(lock))
        };
        let cpus = (0..)
            .zip(&kernel.cpus)
            .filter(move |(_, cpu)| cpu.as_ref().is_some_and(|cpu| wants(&cpu.wait)));
        let tasks = (0..)
            .zip(&kernel.tasks)
            .filter(move |(_, task)| task.as_ref().is_some_and(|task| wants(&task.wait)));
        let cpus = cpus.map(|(cpu, _)| self.ages.cpu(cpu).wait.age);
        cpus.chain(tasks.map(|(task, _)| self.ages.task(task)))
    }

    /// How long somebody who waits has waited.
    fn waited(&self, kernel: &KernelState, node: Node) -> Option<Age> {
        match node {
            Node::Cpu(cpu) => {
                kernel.cpu(cpu)?.wait.as_ref()?;
                Some(self.ages.cpu(cpu).wait.age)
            }
            Node::Task(number) => {
                let task = kernel.task(number)?;
                let waits = |what| matches!(what, WaitFor::Lock(_) | WaitFor::Call(_));
                let waits = task.wait.as_ref().is_some_and(|wait| waits(wait.what));
                (waits && task.state == TaskState::Blocked).then(|| self.ages.task(number))
            }
            Node::Lock(_) | Node::Queue(_) => None,
        }
    }

    /// CPUs that get on with everything but their work, unless it is known what their work waits for.
    fn undone(&self, kernel: &KernelState, explained: &BTreeSet<Node>) -> Vec<Hang> {
        let is_explained = |cpu: u32| {
            let tasks = (0..)
                .zip(&kernel.tasks)
                .filter(|(_, task)| task.as_ref().is_some_and(|task| task.cpu == cpu));
            explained.contains(&Node::Cpu(cpu))
                || tasks.map(|(task, _)| Node::Task(task)).any(|task| explained.contains(&task))
        };
        (0..kernel.cpus.len() as u32)
            .filter(|&cpu| !is_explained(cpu))
            .flat_map(|cpu| {
                let ages = self.ages.cpu(cpu);
                let age = undone_for(ages);
                let age = Age { own: age.own.saturating_sub(self.excused(ages)), ..age };
                let class = if is_busy(ages, age) { Class::Livelock } else { Class::LostWakeup };
                let mut to_blame = Vec::new();
                if self.is_half_due(class, age.own) {
                    // Where no task could run, the one that should have done it is asleep.
                    if class == Class::LostWakeup && ages.ready.own().is_zero() {
                        to_blame.extend(self.asleep_on(kernel, cpu));
                    }
                    if to_blame.is_empty() {
                        to_blame.push(Node::Cpu(cpu));
                    }
                }
                let hang =
                    move |node| self.hang_of(class, age.own, &Root::One(node), Group::default());
                to_blame.into_iter().map(hang)
            })
            .collect()
    }

    /// The tasks of a CPU that have slept on a queue for as long as work may be undone.
    fn asleep_on(&self, kernel: &KernelState, cpu: u32) -> impl Iterator<Item = Node> {
        let sleeps = move |(number, task): &(u32, &Option<Task>)| {
            task.as_ref().is_some_and(|task| {
                let long = self.is_half_due(Class::LostWakeup, self.ages.task(*number).own);
                long && task.cpu == cpu && sleeps_on(task).is_some()
            })
        };
        (0..).zip(&kernel.tasks).filter(sleeps).map(|(number, _)| Node::Task(number))
    }

    /// One hang of each class that is due, and one of each circle, with all that are on their way to it:
    /// CPUs that hang together do not stop in the same interval.
    fn merge(&self, found: Vec<Hang>) -> Vec<Hang> {
        let is_due = |hang: &&Hang| self.bounds.is_due(hang.class, hang.age);
        let due: BTreeSet<Class> = found.iter().filter(is_due).map(|hang| hang.class).collect();
        let mut merged = BTreeMap::<(Class, Vec<Node>), Hang>::new();
        let found = found.into_iter().filter(|hang| due.contains(&hang.class));
        for hang in found.filter(|hang| self.is_half_due(hang.class, hang.age)) {
            // Circles have nothing to do with each other, or they were one.
            let circle = hang.blamed.iter().copied().filter(|_| hang.class == Class::Deadlock);
            match merged.entry((hang.class, circle.collect())) {
                Entry::Occupied(mut first) => first.get_mut().absorb(hang),
                Entry::Vacant(first) => {
                    first.insert(hang);
                }
            }
        }
        merged.into_values().collect()
    }

    /// A guest that does not become ready: whoever its CPUs wait for, or the boot CPU.
    fn boot_stall(&self) -> Option<Hang> {
        let age = self.ages.cpu(0).watched.own;
        if !self.bounds.is_due(Class::BootStall, age) {
            return None;
        }
        let (root, group) = self.boot_waits_for().unwrap_or_else(|| {
            let boot_cpu = Root::One(Node::Cpu(0));
            (boot_cpu, Group::default())
        });
        let hang = self.hang_of(Class::BootStall, age, &root, group);
        // The host may have run the boot CPU and not the one that it waits for.
        let had = |node: &Node| match node {
            Node::Cpu(cpu) => self.ages.cpu(*cpu).watched.own,
            _ => age,
        };
        let age = hang.blamed.iter().map(had).min().unwrap_or(age);
        Some(Hang { age, ..hang }).filter(|hang| self.bounds.is_due(Class::BootStall, hang.age))
    }

    /// Whom most of those wait for who wait before the guest is ready.
    fn boot_waits_for(&self) -> Option<(Root, Group)> {
        let kernel = self.now.kernel.known()?;
        let graph = WaitGraph::new(kernel, self.ages, self.lasting());
        let groups = self.groups(kernel, &graph).into_iter();
        let waiting = groups.filter(|(_, group)| !group.edges.is_empty());
        waiting.max_by_key(|(_, group)| group.edges.len())
    }

    /// Of a guest of which nothing is known but its vCPUs and its console.
    fn hangs_of_unknown(&self) -> Vec<Hang> {
        let started: Vec<(u32, VcpuSample)> = (0..)
            .zip(&self.now.vcpus)
            .filter_map(|(cpu, vcpu)| {
                Some((cpu, vcpu.sample?)).filter(|(_, sample)| sample.started)
            })
            .collect();
        let silent = self.ages.console.own();
        // One that boots has its interrupts off, and for how long is not known: it is given what one of
        // which more is known has to become ready.
        let booting = |class| {
            let patience = self.bounds.of(Class::BootStall).filter(|_| class == Class::HardLockup);
            patience.filter(|_| !self.ages.took_interrupts).unwrap_or_default()
        };
        // Each has been off for as long as it has, and the console has been silent for as long.
        let off = |cpu: u32| self.ages.cpu(cpu).interrupts_off.own().min(silent);
        // One that halts now and then has nothing to say because it has little to do.
        let awake = |cpu: u32| self.ages.cpu(cpu).awake.own().min(silent);
        let hang = |class, age, cpus: Vec<u32>| Hang {
            class,
            age,
            blamed: cpus.into_iter().map(Node::Cpu).collect(),
            locks: Vec::new(),
            victims: Vec::new(),
            edges: Vec::new(),
        };
        let all_halted = started.iter().all(|(_, sample)| sample.halted);
        let dead = started.iter().map(|&(cpu, _)| off(cpu)).min();
        if let Some(age) = dead.filter(|_| all_halted)
            && self.bounds.is_due(Class::DeadHalt, age)
        {
            let cpus = started.iter().map(|&(cpu, _)| cpu).collect();
            return vec![hang(Class::DeadHalt, age, cpus)];
        }
        let running = started.iter().filter(|(_, sample)| !sample.halted).map(|&(cpu, _)| cpu);
        let of_class = |class, age: &dyn Fn(u32) -> Duration| {
            let is_due = |age| self.bounds.is_due(class, age) && age >= booting(class);
            let due = running.clone().filter(|&cpu| is_due(age(cpu)));
            let due: Vec<u32> = due.collect();
            Some(hang(class, due.iter().map(|&cpu| age(cpu)).max()?, due))
        };
        let locked = of_class(Class::HardLockup, &off);
        locked.or_else(|| of_class(Class::Silent, &awake)).into_iter().collect()
    }

    /// vCPUs that have got nowhere since the host has not let them.
    pub fn starved(&self) -> Option<Starved> {
        let bound = self.bounds.starved?;
        // One that boots has had the time to become ready by the clock, and then that which it may starve.
        let (bound, age): (_, fn(&CpuAges) -> Age) = if self.ready {
            (bound, |cpu| cpu.nothing)
        } else {
            (bound.saturating_add(self.bounds.of(Class::BootStall)?), |cpu| cpu.watched)
        };
        let is_starved = |age: &Age| age.wall >= bound && age.own < age.wall / 2;
        let cpus = (0..).zip(self.ages.cpus.iter().map(age));
        let starved: Vec<(u32, Age)> = cpus.filter(|(_, age)| is_starved(age)).collect();
        Some(Starved {
            wall: starved.iter().map(|(_, age)| age.wall).max()?,
            ran: starved.iter().map(|(_, age)| age.ran).max()?,
            cpus: starved.into_iter().map(|(cpu, _)| cpu).collect(),
        })
    }

    /// What a CPU is of which nothing moves, neither its tick nor its main loop. As long as nobody has
    /// looked, what is due first.
    fn class_of_still(&self, cpu: u32) -> Class {
        match self.ages.cpu(cpu).seen {
            Some(sample) if sample.halted && !sample.interrupts_on => Class::DeadHalt,
            Some(_) => Class::HardLockup,
            None => {
                let bound = |class: &Class| self.bounds.of(*class).unwrap_or(Duration::MAX);
                let classes = [Class::HardLockup, Class::DeadHalt];
                classes.into_iter().min_by_key(bound).unwrap_or(Class::HardLockup)
            }
        }
    }

    fn is_half_due(&self, class: Class, age: Duration) -> bool {
        self.bounds.of(class).is_some_and(|bound| age >= bound / 2)
    }

    /// How long a wait has to last before it is looked at.
    fn lasting(&self) -> Duration {
        let classes = [
            Class::Deadlock,
            Class::DeadHalt,
            Class::LockWait,
            Class::HardLockup,
            Class::SoftLockup,
        ];
        let bounds = classes.into_iter().filter_map(|class| self.bounds.of(class));
        bounds.min().unwrap_or(Duration::MAX) / 2
    }
}

/// For how long a CPU has not done what it has to do.
fn undone_for(ages: &CpuAges) -> Age {
    let (work, ready) = (ages.work.age, ages.ready.age);
    if ready.own > work.own { ready } else { work }
}

/// The queue that a task sleeps on.
fn sleeps_on(task: &Task) -> Option<u64> {
    match task.wait.as_ref()?.what {
        WaitFor::Queue(queue) if task.state == TaskState::Blocked => Some(queue),
        _ => None,
    }
}

/// Whether a CPU with undone work is at it: it runs most of the time, or switches between tasks.
fn is_busy(ages: &CpuAges, age: Age) -> bool {
    age.ran >= age.own / 2 || ages.switches.own() < age.own / 2
}

impl Evidence<'_> {
    /// Tells of those that `root` keeps from going on.
    fn hang_of(&self, class: Class, age: Duration, root: &Root, group: Group) -> Hang {
        let Group { members, mut edges } = group;
        let blamed = self.blamed(class, root, &edges);
        edges.extend(blamed.iter().filter_map(|&node| self.sleep_of(node)));
        let in_root: BTreeSet<Node> = match root {
            Root::Cycle(nodes) => nodes.iter().copied().collect(),
            Root::One(node) => BTreeSet::from([*node]),
        };
        // Of a circle, its own locks; else all that lead to the one.
        let locks = members.iter().filter_map(|node| match (node, root) {
            (Node::Lock(_), Root::Cycle(_)) if !in_root.contains(node) => None,
            (Node::Lock(address), _) => Some(*address),
            _ => None,
        });
        let locks = locks.collect();
        // What a CPU runs that is to blame is no victim of it.
        let runs_on_blamed = |node: &Node| match (node, self.now.kernel.known()) {
            (Node::Task(task), Some(kernel)) => blamed.iter().any(|blamed| {
                matches!(blamed, Node::Cpu(cpu)
                    if kernel.cpu(*cpu).is_some_and(|cpu| cpu.task == Some(*task)))
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
        Hang { class, age, blamed, locks, victims, edges: edges.into_iter().collect() }
    }

    /// What a party sleeps on. That leads nowhere: whoever is to wake it is not known.
    fn sleep_of(&self, node: Node) -> Option<Edge> {
        let Node::Task(task) = node else { return None };
        let queue = sleeps_on(self.now.kernel.known()?.task(task)?)?;
        Some(Edge { from: node, to: Node::Queue(queue), kind: EdgeKind::SleepsOn })
    }

    /// Whose fault it is that those whose `edges` lead to `root` cannot go on.
    fn blamed(&self, class: Class, root: &Root, edges: &BTreeSet<Edge>) -> Vec<Node> {
        let waiters = |of: Node| edges.iter().filter(move |edge| edge.to == of);
        match *root {
            Root::Cycle(ref nodes) => {
                nodes.iter().copied().filter(|node| !is_lock(*node)).collect()
            }
            // A lock that nobody holds: whose fault it is that it was given to nobody is not known.
            // Those who wait for it are where to look. Of one whose holder does not exist, too.
            Root::One(node) if is_lock(node) || !self.exists(node) => {
                let direct = waiters(node).map(|edge| edge.from);
                let all = direct.flat_map(|node| match node {
                    Node::Lock(_) => waiters(node).map(|edge| edge.from).collect(),
                    node => vec![node],
                });
                all.collect()
            }
            Root::One(node) => {
                // Tasks that hold a lock and could run: it is the tasks that do not let go.
                let run = waiters(node).filter(|edge| edge.kind == EdgeKind::RunsOn);
                let run: Vec<Node> = run.map(|edge| edge.from).collect();
                if class == Class::LockWait && !run.is_empty() { run } else { vec![node] }
            }
        }
    }

    /// Whether there is such a one, whatever the guest has written down.
    fn exists(&self, node: Node) -> bool {
        match node {
            Node::Cpu(cpu) => (cpu as usize) < self.now.vcpus.len(),
            Node::Task(task) => {
                self.now.kernel.known().is_some_and(|kernel| kernel.task(task).is_some())
            }
            Node::Lock(_) | Node::Queue(_) => true,
        }
    }
}

fn is_lock(node: Node) -> bool {
    matches!(node, Node::Lock(_))
}

impl Hang {
    fn absorb(&mut self, other: Self) {
        fn add<T: Ord + Copy>(to: &mut Vec<T>, from: Vec<T>) {
            to.extend(from);
            to.sort_unstable();
            to.dedup();
        }
        self.age = self.age.max(other.age);
        add(&mut self.blamed, other.blamed);
        add(&mut self.locks, other.locks);
        add(&mut self.victims, other.victims);
        add(&mut self.edges, other.edges);
        let blamed = &self.blamed;
        self.victims.retain(|node| !blamed.contains(node));
    }
}
