//! Graphs of the shapes that hangs have, made by hand.

use crate::wait_graph::Waits;
use crate::{ActivityState, LockKind, NodeKind, TaskState, WaitEdge, WaitKind, WaitNode};

/// A graph that a test builds.
#[derive(Debug, Default)]
pub struct Case {
    pub nodes: Vec<WaitNode>,
    pub edges: Vec<WaitEdge>,
    pub blamed: Vec<String>,
    pub victims: Vec<String>,
}

impl Case {
    pub fn waits(&self) -> Waits<'_> {
        let Self { nodes, edges, blamed, victims } = self;
        Waits { nodes, edges, blamed, victims }
    }

    pub fn cpu(mut self, cpu: u32, activity: ActivityState) -> Self {
        let kind = NodeKind::Cpu { cpu, activity, task: None };
        self.nodes.push(WaitNode { id: format!("cpu{cpu}"), kind });
        self
    }

    pub fn cpus(self, cpus: std::ops::Range<u32>, activity: ActivityState) -> Self {
        cpus.fold(self, |case, cpu| case.cpu(cpu, activity))
    }

    pub fn task(mut self, name: &str) -> Self {
        let number = self.nodes.len() as u32;
        let name = name.to_owned();
        let kind =
            NodeKind::Task { task: number, name: name.clone(), cpu: 1, state: TaskState::Blocked };
        self.nodes.push(WaitNode { id: name, kind });
        self
    }

    pub fn lock(mut self, name: &str, lock: LockKind, holder: Option<&str>) -> Self {
        self.nodes.push(WaitNode {
            id: name.into(),
            kind: NodeKind::Lock {
                symbol: Some(name.into()),
                address: "ffffffff81000000".into(),
                lock,
                held_by: holder.map(str::to_owned),
                taken_at: None,
            },
        });
        match holder {
            Some(holder) => self.edge(name, holder, WaitKind::HeldBy),
            None => self,
        }
    }

    pub fn queue(mut self, name: &str) -> Self {
        let kind = NodeKind::Queue { symbol: None, address: "ffffffff82000000".into() };
        self.nodes.push(WaitNode { id: name.into(), kind });
        self
    }

    pub fn edge(mut self, from: &str, to: &str, kind: WaitKind) -> Self {
        let lasted_ms = (kind != WaitKind::RunsOn).then_some(2_000.0);
        let (from, to) = (from.to_owned(), to.to_owned());
        self.edges.push(WaitEdge { from, to, kind, call_site: None, lasted_ms });
        self
    }

    pub fn waits_for(self, from: &str, to: &str) -> Self {
        self.edge(from, to, WaitKind::WaitsFor)
    }

    pub fn blamed(mut self, parties: &[&str]) -> Self {
        self.blamed.extend(parties.iter().map(|party| (*party).to_owned()));
        self
    }
}

/// Returns two CPUs, each of which holds the lock that the other one waits for.
pub fn abba() -> Case {
    Case::default()
        .cpus(0..2, ActivityState::Running)
        .lock("INODE_LOCK", LockKind::Spin, Some("cpu0"))
        .lock("JOURNAL_LOCK", LockKind::Spin, Some("cpu1"))
        .waits_for("cpu0", "JOURNAL_LOCK")
        .waits_for("cpu1", "INODE_LOCK")
        .blamed(&["cpu0", "cpu1"])
}

/// Returns a cycle of tasks and locks, with trees of `waiters` at each of them.
pub fn ring(tasks: usize, waiters: usize) -> Case {
    let mut case = Case::default();
    for number in 0..tasks {
        let (task, lock) = (format!("worker{number}"), format!("LOCK_{number}"));
        let next = format!("LOCK_{}", (number + 1) % tasks);
        case = case.task(&task).lock(&lock, LockKind::Mutex, Some(&task)).waits_for(&task, &next);
        case.blamed.push(task.clone());
        for waiter in 0..waiters {
            let (waiter, sub) = (format!("w{number}.{waiter}"), format!("SUB_{number}.{waiter}"));
            let deep = format!("deep{number}.{waiter}");
            case = case.task(&waiter).waits_for(&waiter, &lock);
            case = case.lock(&sub, LockKind::RwSemaphore, Some(&waiter));
            case = case.task(&deep).waits_for(&deep, &sub);
            case.victims.extend([waiter, deep]);
        }
    }
    case
}

/// Returns CPUs that wait for each other in a cycle without locks.
pub fn calls(cpus: u32) -> Case {
    (0..cpus).fold(Case::default().cpus(0..cpus, ActivityState::Running), |case, cpu| {
        let (from, to) = (format!("cpu{cpu}"), format!("cpu{}", (cpu + 1) % cpus));
        case.edge(&from, &to, WaitKind::CallsFunction)
    })
}

/// Returns a task that waits for a lock of a task that runs on a stuck CPU, and CPUs that idle.
pub fn chain() -> Case {
    Case::default()
        .cpu(0, ActivityState::Stuck)
        .cpus(1..16, ActivityState::Idle)
        .task("waiter")
        .task("holder")
        .lock("log_mutex", LockKind::Mutex, Some("holder"))
        .waits_for("waiter", "log_mutex")
        .edge("holder", "cpu0", WaitKind::RunsOn)
        .blamed(&["cpu0"])
}

/// Returns `count` tasks that wait for one lock.
pub fn waiters(count: usize) -> Case {
    let case = Case::default().task("holder").lock("tree", LockKind::RwSemaphore, Some("holder"));
    (0..count).fold(case.blamed(&["holder"]), |case, number| {
        let name = format!("reader{number}/{}", 110 + number);
        let mut case = case.task(&name).waits_for(&name, "tree");
        case.victims.push(name);
        case
    })
}

/// Returns CPUs that wait for the answers of others, one that is to come online, and a task on a queue.
pub fn answers() -> Case {
    Case::default()
        .cpus(0..8, ActivityState::Stuck)
        .task("sleeper")
        .queue("wait_queue")
        .edge("cpu0", "cpu2", WaitKind::CallsFunction)
        .edge("cpu1", "cpu2", WaitKind::CallsFunction)
        .edge("cpu5", "cpu6", WaitKind::BringsUp)
        .edge("sleeper", "wait_queue", WaitKind::SleepsOn)
        .blamed(&["cpu2"])
}

/// Returns a task that waits for a lock of its own.
pub fn alone() -> Case {
    Case::default()
        .task("self")
        .lock("OWN", LockKind::Mutex, Some("self"))
        .waits_for("self", "OWN")
        .blamed(&["self"])
}

/// Returns 200 parties: 64 CPUs, most of them idle; a cycle of two tasks; and trees of waiters of any depth.
pub fn large() -> Case {
    let mut case =
        Case::default().cpus(0..6, ActivityState::Running).cpus(6..64, ActivityState::Idle);
    for number in 0..116_usize {
        case = case.task(&format!("kworker/{number}:events_unbound/{}", 300 + number));
    }
    let name = |number: usize| format!("kworker/{number}:events_unbound/{}", 300 + number);
    for number in 0..20 {
        let lock = format!("lock_{number}_of_a_subsystem");
        case = case.lock(&lock, LockKind::Mutex, Some(&name(number)));
    }
    for number in 0..116 {
        // A lock of an earlier task, so that there is one cycle, of the first two.
        let lock = match number {
            0 => 1,
            1 => 0,
            number if number < 20 => number * 7 % number,
            number => number * number % 20,
        };
        case = case.waits_for(&name(number), &format!("lock_{lock}_of_a_subsystem"));
        if number < 2 {
            case.blamed.push(name(number));
        } else {
            case.victims.push(name(number));
        }
    }
    case
}

/// Returns all graphs of this file in which every party waits for one other at most.
pub fn all() -> Vec<(String, Case)> {
    let mut all = vec![
        ("ABBA".into(), abba()),
        ("chain".into(), chain()),
        ("answers".into(), answers()),
        ("own lock".into(), alone()),
        ("large".into(), large()),
    ];
    all.extend([2, 3, 8].map(|cpus| (format!("{cpus} calls"), calls(cpus))));
    all.extend([2, 3, 4, 8].map(|tasks| (format!("ring of {tasks}"), ring(tasks, 0))));
    all.extend([2, 3, 4, 8].map(|tasks| (format!("ring of {tasks} with trees"), ring(tasks, 2))));
    all.extend([1, 2, 8, 9, 100].map(|count| (format!("{count} waiters"), waiters(count))));
    all
}
