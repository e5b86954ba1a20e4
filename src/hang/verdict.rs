//! From what stands still, and who waits for whom, to a class and to the one to blame.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ages::{Age, Ages, CpuAges};
use super::bounds::{Bounds, Class};
use super::observation::{KernelState, Observation, TaskState, VcpuSample, Wait, WaitFor};
use super::sample::CpuSamples;
use super::wait_graph::{Edge, Node, Root, WaitGraph};

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The guest hangs.
    Hangs(Found),
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
    /// One of each class.
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

/// All that a verdict rests on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    pub bounds: &'a Bounds,
    pub ages: &'a Ages,
    pub now: &'a Observation,
    pub ready: bool,
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
    /// What is wrong, if anything is.
    pub fn verdict(&self) -> Option<Verdict> {
        if let Some(cpu) = self.now.kernel.as_ref().and_then(|kernel| kernel.panicking) {
            // It has a while to say why, and to leave.
            let bound = self.bounds.of(Class::HardLockup).unwrap_or(Bounds::DEFAULT);
            let quiet = self.ages.console.own() >= bound;
            return quiet.then_some(Verdict::Panicked(cpu));
        }
        let hangs = match &self.now.kernel {
            _ if !self.ready => self.boot_stall().into_iter().collect(),
            Some(kernel) => self.hangs(kernel),
            None => self.hangs_of_unknown(),
        };
        if !hangs.is_empty() {
            return Some(Verdict::Hangs(Found {
                hangs,
                ages: self.ages.clone(),
                samples: Vec::new(),
            }));
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
        let still = (0..kernel.cpus.len() as u32).filter(|&cpu| {
            let ages = self.ages.cpu(cpu);
            self.is_half_due(self.class_of_still(cpu), ages.nothing.own)
                || self.is_half_due(Class::SoftLockup, ages.main_loop.own())
        });
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
                let ages = self.ages.cpu(cpu);
                let still = self.class_of_still(cpu);
                if self.is_half_due(still, ages.nothing.own) {
                    Some((still, ages.nothing.own))
                } else if self.is_half_due(Class::SoftLockup, ages.main_loop.own()) {
                    Some((Class::SoftLockup, ages.main_loop.own()))
                } else {
                    self.kept_waiting(kernel, group)
                }
            }
            Root::One(Node::Task(_) | Node::Lock(_)) => self.kept_waiting(kernel, group),
        }
    }

    /// Those who wait for somebody who is not stuck: for as long as all of them have waited, and as
    /// the locks between them have had their holders. All, since one that the host does not run may
    /// be the one whose turn it is. Of a lock that goes from hand to hand past somebody, neither the
    /// holders matter nor those who get it soon.
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
        Some((Class::LockWait, members.map(|age| age.own).chain(locks).min()?))
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
            Node::Lock(_) => None,
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
            .filter_map(|cpu| {
                let ages = self.ages.cpu(cpu);
                let age = [ages.work.age, ages.ready.age].into_iter().max_by_key(|age| age.own)?;
                let class = if is_busy(&ages, age) { Class::Livelock } else { Class::LostWakeup };
                self.is_half_due(class, age.own).then(|| {
                    let root = Root::One(Node::Cpu(cpu));
                    self.hang_of(class, age.own, &root, Group::default())
                })
            })
            .collect()
    }

    /// One hang of each class that is due, with all that are on their way to it: CPUs that hang
    /// together do not stop in the same interval.
    fn merge(&self, found: Vec<Hang>) -> Vec<Hang> {
        let mut by_class = BTreeMap::<Class, Hang>::new();
        for hang in found.into_iter().filter(|hang| self.is_half_due(hang.class, hang.age)) {
            match by_class.get_mut(&hang.class) {
                Some(first) => first.absorb(hang),
                None => {
                    by_class.insert(hang.class, hang);
                }
            }
        }
        by_class.into_values().filter(|hang| self.bounds.is_due(hang.class, hang.age)).collect()
    }

    /// A guest that does not become ready: whoever its CPUs wait for, or the boot CPU.
    fn boot_stall(&self) -> Option<Hang> {
        let age = self.ages.watched.own;
        if !self.bounds.is_due(Class::BootStall, age) {
            return None;
        }
        let kernel = self.now.kernel.as_ref();
        let hang = |root: Root, group| self.hang_of(Class::BootStall, age, &root, group);
        let nobody = || hang(Root::One(Node::Cpu(0)), Group::default());
        let Some(kernel) = kernel else { return Some(nobody()) };
        let graph = WaitGraph::new(kernel, self.ages, self.lasting());
        let groups = self.groups(kernel, &graph).into_iter();
        let waiting = groups.filter(|(_, group)| !group.edges.is_empty());
        let largest = waiting.max_by_key(|(_, group)| group.edges.len());
        Some(largest.map_or_else(nobody, |(root, group)| hang(root, group)))
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
            let due = running.clone().filter(|&cpu| self.bounds.is_due(class, age(cpu)));
            let due: Vec<u32> = due.collect();
            Some(hang(class, due.iter().map(|&cpu| age(cpu)).max()?, due))
        };
        let locked = of_class(Class::HardLockup, &off);
        locked.or_else(|| of_class(Class::Silent, &awake)).into_iter().collect()
    }

    /// vCPUs that have got nowhere since the host has not let them.
    fn starved(&self) -> Option<Starved> {
        let bound = self.bounds.starved?;
        let is_starved = |age: &Age| age.wall >= bound && age.own < age.wall / 2;
        let starved: Vec<(u32, Age)> = if self.ready {
            let cpus = (0..).zip(self.ages.cpus.iter().map(|cpu| cpu.nothing));
            cpus.filter(|(_, age)| is_starved(age)).collect()
        } else {
            // It has had the time to become ready by the clock, and then that which it may starve.
            let late = bound.saturating_add(self.bounds.of(Class::BootStall)?);
            let boot = self.ages.watched;
            let starved = boot.wall >= late && boot.own < boot.wall / 2;
            starved.then_some((0, boot)).into_iter().collect()
        };
        Some(Starved {
            wall: starved.iter().map(|(_, age)| age.wall).max()?,
            ran: starved.iter().map(|(_, age)| age.ran).max()?,
            cpus: starved.into_iter().map(|(cpu, _)| cpu).collect(),
        })
    }

    /// What a CPU is of which nothing moves, neither its tick nor its main loop. As long as nobody has looked, what is due first.
    fn class_of_still(&self, cpu: u32) -> Class {
        match self.now.vcpus.get(cpu as usize).and_then(|vcpu| vcpu.sample) {
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
        let classes = [Class::Deadlock, Class::LockWait, Class::HardLockup, Class::SoftLockup];
        let bounds = classes.into_iter().filter_map(|class| self.bounds.of(class));
        bounds.min().unwrap_or(Duration::MAX) / 2
    }
}

/// Whether a CPU with undone work is at it: it runs most of the time, or switches between tasks.
fn is_busy(ages: &CpuAges, age: Age) -> bool {
    age.ran >= age.own / 2 || ages.switches.own() < age.own / 2
}

impl Evidence<'_> {
    /// Tells of those that `root` keeps from going on.
    fn hang_of(&self, class: Class, age: Duration, root: &Root, group: Group) -> Hang {
        let Group { members, edges } = group;
        let blamed = self.blamed(class, root, &edges);
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
        let runs_on_blamed = |node: &Node| match (node, &self.now.kernel) {
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
                // A task that holds a lock and could run: it is the task that does not let go.
                let task = waiters(node).find(|edge| !is_lock(edge.from));
                match task.map(|edge| edge.from) {
                    Some(task @ Node::Task(_)) if class == Class::LockWait => vec![task],
                    _ => vec![node],
                }
            }
        }
    }

    /// Whether there is such a one, whatever the guest has written down.
    fn exists(&self, node: Node) -> bool {
        match node {
            Node::Cpu(cpu) => (cpu as usize) < self.now.vcpus.len(),
            Node::Task(task) => {
                self.now.kernel.as_ref().is_some_and(|kernel| kernel.task(task).is_some())
            }
            Node::Lock(_) => true,
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
