//! The rules, each with a guest in miniature: a healthy one, and what is different about this one.

use std::time::Duration;

use super::*;

const POLL: Duration = Duration::from_millis(100);
const BOUND: Duration = Duration::from_secs(1);
/// The polls of twice the bound.
const LONG: u32 = 20;

/// A guest whose CPUs idle and whose counters move, and its host.
struct Scene {
    now: Observation,
    /// By CPU number: whether the host runs it.
    hosted: Vec<bool>,
}

impl Scene {
    fn new(cpus: usize) -> Self {
        let idle = VcpuSample { halted: true, interrupts_on: true, started: true };
        let times = Times { asleep: true, delay: Some(Duration::ZERO), run: Duration::ZERO };
        let kernel = KernelState {
            cpus: vec![Some(CpuActivity { online: true, ..Default::default() }); cpus],
            ..Default::default()
        };
        Self {
            now: Observation {
                at: Duration::ZERO,
                vcpus: vec![
                    Vcpu { times: Some(times), sample: Some(idle), ..Vcpu::default() };
                    cpus
                ],
                console_bytes: 0,
                kernel: Some(kernel),
            },
            hosted: vec![true; cpus],
        }
    }

    fn kernel(&mut self) -> &mut KernelState {
        self.now.kernel.as_mut().expect("a kernel that is known")
    }

    fn cpu(&mut self, cpu: usize) -> &mut CpuActivity {
        self.kernel().cpus[cpu].as_mut().expect("a CPU that can be read")
    }

    fn task(&mut self, name: &str, cpu: u32, state: TaskState) -> u32 {
        let task = Task { name: name.into(), cpu, state, switches: 1, wait: None, registers: None };
        self.kernel().tasks.push(Some(task));
        self.kernel().tasks.len() as u32 - 1
    }

    fn lock(&mut self, address: u64, kind: LockKind, holder: Option<u32>) {
        let taken_at = Site::default();
        self.kernel().locks.insert(address, Lock { kind, holder, taken_at, taken_ns: 7 });
    }

    fn cpu_waits(&mut self, cpu: usize, what: WaitFor) {
        self.cpu(cpu).wait = Some(Wait { what, since_ns: 1, at: Site::default() });
        self.spins(cpu, false);
    }

    fn task_waits(&mut self, task: u32, what: WaitFor) {
        let task = self.kernel().tasks[task as usize].as_mut().expect("a task");
        task.wait = Some(Wait { what, since_ns: 1, at: Site::default() });
        task.state = TaskState::Blocked;
    }

    /// It runs, and its vCPU never sleeps.
    fn spins(&mut self, cpu: usize, interrupts_on: bool) {
        let vcpu = &mut self.now.vcpus[cpu];
        vcpu.sample = Some(VcpuSample { halted: false, interrupts_on, started: true });
        vcpu.times.as_mut().expect("times").asleep = false;
    }

    fn halts(&mut self, cpu: usize, interrupts_on: bool) {
        let sample = VcpuSample { halted: true, interrupts_on, started: true };
        self.now.vcpus[cpu].sample = Some(sample);
    }

    /// Lets the counters of `moving` advance for an interval, and the host's of those that it runs.
    fn pass(&mut self, interval: Duration, moving: impl Fn(usize) -> (bool, bool)) {
        self.now.at += interval;
        for cpu in 0..self.hosted.len() {
            let (tick, main_loop) = moving(cpu);
            let activity = self.cpu(cpu);
            activity.tick += u64::from(tick);
            activity.interrupts += u64::from(tick);
            activity.main_loop += u64::from(main_loop);
            let hosted = self.hosted[cpu];
            let times = self.now.vcpus[cpu].times.as_mut().expect("times");
            if hosted && !times.asleep {
                times.run += interval;
            }
        }
    }

    /// What a detector says that watches for `polls`, and when, if it says anything.
    fn watch(
        &mut self,
        polls: u32,
        moving: impl Fn(usize) -> (bool, bool),
    ) -> Option<(u32, Verdict)> {
        self.watch_with(Bounds::new(Some(BOUND)), polls, |scene, _| scene.pass(POLL, &moving))
    }

    fn watch_with(
        &mut self,
        bounds: Bounds,
        polls: u32,
        mut pass: impl FnMut(&mut Self, u32),
    ) -> Option<(u32, Verdict)> {
        let mut detector = Detector::new(bounds, POLL);
        detector.set_ready();
        detector.observe(self.now.clone());
        (1..=polls).find_map(|poll| {
            pass(self, poll);
            Some((poll, detector.judge(self.now.clone())?))
        })
    }
}

const ALL_MOVES: (bool, bool) = (true, true);
const NO_LOOP: (bool, bool) = (true, false);
const NO_TICK: (bool, bool) = (false, true);
const NOTHING: (bool, bool) = (false, false);

fn still(which: &[usize], how: (bool, bool)) -> impl Fn(usize) -> (bool, bool) {
    move |cpu| if which.contains(&cpu) { how } else { ALL_MOVES }
}

fn hangs(verdict: Option<(u32, Verdict)>) -> Vec<Hang> {
    match verdict {
        Some((_, Verdict::Hangs(found))) => found.hangs,
        other => panic!("no hang, but {other:?}"),
    }
}

fn only(verdict: Option<(u32, Verdict)>) -> Hang {
    let mut hangs = hangs(verdict);
    assert_eq!(hangs.len(), 1, "{hangs:#?}");
    hangs.remove(0)
}

fn sample(halted: bool, interrupts_on: bool) -> VcpuSample {
    VcpuSample { halted, interrupts_on, started: true }
}

fn cpus(numbers: &[u32]) -> Vec<Node> {
    numbers.iter().copied().map(Node::Cpu).collect()
}

#[test]
fn a_guest_that_gets_on_does_not_hang() {
    assert_eq!(Scene::new(4).watch(10 * LONG, |_| ALL_MOVES), None);
}

#[test]
fn a_cpu_that_spins_without_a_tick_is_a_hard_lockup_after_the_bound_and_not_before() {
    let mut scene = Scene::new(3);
    scene.spins(1, false);
    let verdict = scene.watch(LONG, still(&[1], NOTHING));
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(10));
    let hang = only(verdict);
    assert_eq!((hang.class, hang.blamed), (Class::HardLockup, cpus(&[1])));
    assert_eq!((hang.locks, hang.victims), (vec![], vec![]));
}

#[test]
fn a_tick_that_moves_makes_it_a_soft_lockup() {
    let mut scene = Scene::new(2);
    scene.spins(0, true);
    let hang = only(scene.watch(LONG, still(&[0], NO_LOOP)));
    assert_eq!((hang.class, hang.blamed), (Class::SoftLockup, cpus(&[0])));
}

/// It gets on, with its interrupts off nearly all the time: KVM may find no moment to inject one.
#[test]
fn a_cpu_that_gets_on_without_a_tick_does_not_hang() {
    let mut scene = Scene::new(2);
    scene.spins(0, false);
    assert_eq!(scene.watch(10 * LONG, still(&[0], NO_TICK)), None);
}

#[test]
fn a_halt_with_interrupts_off_is_a_dead_halt_and_one_with_them_on_a_lost_tick() {
    for (interrupts_on, class) in [(false, Class::DeadHalt), (true, Class::HardLockup)] {
        let mut scene = Scene::new(2);
        scene.halts(1, interrupts_on);
        let hang = only(scene.watch(LONG, still(&[1], NOTHING)));
        assert_eq!((hang.class, hang.blamed), (class, cpus(&[1])));
    }
}

#[test]
fn progress_starts_the_count_anew() {
    let mut scene = Scene::new(1);
    scene.spins(0, true);
    let bounds = Bounds::new(Some(BOUND));
    let verdict = scene.watch_with(bounds, 10 * LONG, |scene, poll| {
        // Every 0.9 s, just in time.
        scene.pass(POLL, |_| if poll % 9 == 0 { ALL_MOVES } else { NOTHING });
    });
    assert_eq!(verdict, None);
}

#[test]
fn a_cpu_that_the_host_does_not_run_does_not_hang() {
    let mut scene = Scene::new(2);
    scene.spins(1, false);
    scene.hosted[1] = false;
    assert_eq!(scene.watch(10 * LONG, still(&[1], NOTHING)), None);
}

#[test]
fn one_that_waits_for_a_cpu_that_the_host_does_not_run_does_not_hang_either() {
    let mut scene = Scene::new(2);
    scene.lock(0x1000, LockKind::Spin, Some(1));
    scene.cpu_waits(0, WaitFor::Lock(0x1000));
    scene.spins(1, false);
    scene.hosted[1] = false;
    assert_eq!(scene.watch(10 * LONG, still(&[0, 1], NOTHING)), None);
}

#[test]
fn nor_does_one_whose_call_such_a_cpu_does_not_answer() {
    for what in [WaitFor::Call(1), WaitFor::Online(1)] {
        let mut scene = Scene::new(2);
        scene.cpu_waits(0, what);
        scene.spins(1, true);
        scene.hosted[1] = false;
        assert_eq!(scene.watch(10 * LONG, still(&[0, 1], NOTHING)), None, "{what:?}");
    }
    let mut scene = Scene::new(2);
    let caller = scene.task("caller", 0, TaskState::Blocked);
    scene.task_waits(caller, WaitFor::Call(1));
    scene.spins(1, true);
    scene.hosted[1] = false;
    assert_eq!(scene.watch(10 * LONG, still(&[1], NOTHING)), None);
}

#[test]
fn the_time_in_which_a_guest_is_judged_does_not_count() {
    let mut scene = Scene::new(1);
    let mut detector = Detector::new(Bounds::new(Some(BOUND)), POLL);
    detector.set_ready();
    detector.observe(scene.now.clone());
    for _ in 0..9 {
        scene.pass(POLL, |_| NOTHING);
        assert_eq!(detector.judge(scene.now.clone()), None);
        scene.now.at += POLL;
        detector.resumed(scene.now.at);
    }
    scene.pass(POLL, |_| NOTHING);
    assert!(detector.judge(scene.now.clone()).is_some(), "and the time between does");
}

#[test]
fn a_cpu_that_the_host_has_not_run_for_long_is_starved() {
    let mut scene = Scene::new(2);
    scene.spins(1, false);
    scene.hosted[1] = false;
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.starved = Some(BOUND * 3);
    let verdict = scene.watch_with(bounds, 10 * LONG, |scene, _| {
        scene.pass(POLL, still(&[1], NOTHING));
    });
    let Some((30, Verdict::Starved(starved))) = verdict else { panic!("{verdict:?}") };
    assert_eq!((starved.cpus, starved.ran), (vec![1], Duration::ZERO));
}

#[test]
fn time_in_which_nobody_watched_does_not_count() {
    let mut scene = Scene::new(1);
    scene.spins(0, false);
    let bounds = Bounds::new(Some(BOUND));
    // Ten seconds of SIGSTOP in the middle of half a second without progress.
    let verdict = scene.watch_with(bounds, 6, |scene, poll| {
        let interval = if poll == 3 { BOUND * 10 } else { POLL };
        scene.pass(interval, |_| NOTHING);
    });
    assert_eq!(verdict, None);
}

#[test]
fn a_circle_of_waits_is_a_deadlock_and_who_waits_for_it_a_victim() {
    let mut scene = Scene::new(4);
    scene.lock(0xa0, LockKind::Spin, Some(0));
    scene.lock(0xb0, LockKind::Spin, Some(1));
    scene.cpu_waits(0, WaitFor::Lock(0xb0));
    scene.cpu_waits(1, WaitFor::Lock(0xa0));
    scene.cpu_waits(3, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, still(&[0, 1, 3], NOTHING)));
    assert_eq!((hang.class, hang.blamed), (Class::Deadlock, cpus(&[0, 1])));
    assert_eq!((hang.locks, hang.victims), (vec![0xa0, 0xb0], cpus(&[3])));
}

#[test]
fn a_cpu_that_wants_its_own_lock_is_a_circle_of_one() {
    let mut scene = Scene::new(2);
    scene.lock(0xa0, LockKind::Spin, Some(1));
    scene.cpu_waits(1, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, still(&[1], NOTHING)));
    assert_eq!((hang.class, hang.blamed), (Class::Deadlock, cpus(&[1])));
    assert_eq!(hang.locks, [0xa0]);
}

#[test]
fn tasks_that_wait_for_each_other_are_a_deadlock_although_all_cpus_are_fine() {
    let mut scene = Scene::new(2);
    let (reader, writer) =
        (scene.task("reader", 0, TaskState::Blocked), scene.task("writer", 1, TaskState::Blocked));
    scene.lock(0xa0, LockKind::Mutex, Some(reader));
    scene.lock(0xb0, LockKind::Mutex, Some(writer));
    scene.task_waits(reader, WaitFor::Lock(0xb0));
    scene.task_waits(writer, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, |_| ALL_MOVES));
    assert_eq!(hang.class, Class::Deadlock);
    assert_eq!(hang.blamed, [Node::Task(reader), Node::Task(writer)]);
}

#[test]
fn tasks_of_a_cpu_that_does_not_exist_get_no_older_than_those_that_the_host_runs() {
    let mut scene = Scene::new(2);
    let task = scene.task("nowhere", 77, TaskState::Blocked);
    scene.lock(0xa0, LockKind::Mutex, Some(task));
    scene.task_waits(task, WaitFor::Lock(0xa0));
    scene.spins(1, false);
    scene.hosted[1] = false;
    assert_eq!(scene.watch(10 * LONG, still(&[1], NOTHING)), None);
    scene.hosted[1] = true;
    let hang = hangs(scene.watch(LONG, still(&[1], NOTHING))).remove(0);
    assert_eq!((hang.class, hang.blamed), (Class::Deadlock, vec![Node::Task(task)]));
}

#[test]
fn one_who_waits_for_somebody_who_does_not_exist_is_to_blame_himself() {
    let row = |holder: Option<(LockKind, u32)>, what: WaitFor| {
        let mut scene = Scene::new(2);
        if let Some((kind, holder)) = holder {
            scene.lock(0xa0, kind, Some(holder));
        }
        scene.cpu_waits(1, what);
        let hang = only(scene.watch(LONG, still(&[1], NO_LOOP)));
        assert_eq!((hang.class, hang.blamed), (Class::LockWait, cpus(&[1])), "{holder:?} {what:?}");
        hang.edges.len()
    };
    let lock = WaitFor::Lock(0xa0);
    assert_eq!(row(None, WaitFor::Call(77)), 1);
    assert_eq!(row(None, WaitFor::Online(u32::MAX)), 1);
    assert_eq!(row(None, lock), 1);
    assert_eq!(row(Some((LockKind::Spin, 77)), lock), 2);
    assert_eq!(row(Some((LockKind::Mutex, 77)), lock), 2);
    assert_eq!(row(Some((LockKind::Garbage(9), 0)), lock), 1, "what is no lock has no holder");
}

#[test]
fn a_holder_that_spins_is_to_blame_and_not_those_who_wait_for_it() {
    let mut scene = Scene::new(4);
    scene.lock(0xa0, LockKind::Spin, Some(2));
    scene.spins(2, false);
    scene.cpu_waits(0, WaitFor::Lock(0xa0));
    scene.cpu_waits(3, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, still(&[0, 2, 3], NOTHING)));
    assert_eq!((hang.class, hang.blamed), (Class::HardLockup, cpus(&[2])));
    assert_eq!((hang.locks, hang.victims), (vec![0xa0], cpus(&[0, 3])));
}

#[test]
fn a_victim_is_one_too_if_the_host_hardly_runs_it() {
    let mut scene = Scene::new(2);
    scene.lock(0xa0, LockKind::Spin, Some(1));
    scene.halts(1, false);
    scene.cpu_waits(0, WaitFor::Lock(0xa0));
    scene.hosted[0] = false;
    let hang = only(scene.watch(LONG, still(&[0, 1], NOTHING)));
    assert_eq!((hang.class, hang.blamed), (Class::DeadHalt, cpus(&[1])));
    assert_eq!((hang.locks, hang.victims), (vec![0xa0], cpus(&[0])));
}

#[test]
fn the_one_that_does_not_answer_a_call_is_to_blame() {
    let mut scene = Scene::new(4);
    scene.spins(3, false);
    scene.cpu_waits(0, WaitFor::Call(3));
    let hang = only(scene.watch(LONG, |cpu| match cpu {
        0 => NO_LOOP,
        3 => NOTHING,
        _ => ALL_MOVES,
    }));
    assert_eq!((hang.class, hang.blamed), (Class::HardLockup, cpus(&[3])));
    assert_eq!(hang.victims, cpus(&[0]));
}

#[test]
fn a_task_that_spins_with_a_mutex_is_its_cpus_fault_and_no_victim_of_it() {
    let mut scene = Scene::new(2);
    let holder = scene.task("holder", 1, TaskState::Running);
    let waiter = scene.task("waiter", 0, TaskState::Blocked);
    scene.cpu(1).task = Some(holder);
    scene.lock(0xa0, LockKind::Mutex, Some(holder));
    scene.task_waits(waiter, WaitFor::Lock(0xa0));
    scene.spins(1, false);
    let hang = only(scene.watch(LONG, still(&[1], NOTHING)));
    assert_eq!((hang.class, hang.blamed), (Class::HardLockup, cpus(&[1])));
    assert_eq!(hang.victims, [Node::Task(waiter)]);
}

#[test]
fn a_healthy_holder_that_keeps_its_lock_is_a_lock_wait() {
    let mut scene = Scene::new(2);
    scene.lock(0xa0, LockKind::Spin, Some(1));
    scene.cpu_waits(0, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, still(&[0], NO_LOOP)));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, cpus(&[1])));
    assert_eq!(hang.victims, cpus(&[0]));
}

#[test]
fn a_task_that_sleeps_with_a_mutex_is_to_blame_for_the_wait() {
    let mut scene = Scene::new(1);
    let sleeper = scene.task("sleeper", 0, TaskState::Blocked);
    let waiter = scene.task("waiter", 0, TaskState::Blocked);
    scene.lock(0xa0, LockKind::Mutex, Some(sleeper));
    scene.task_waits(sleeper, WaitFor::Queue(0xcc));
    scene.task_waits(waiter, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, |_| ALL_MOVES));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, vec![Node::Task(sleeper)]));
    assert_eq!(hang.victims, [Node::Task(waiter)]);
    let sleeps =
        Edge { from: Node::Task(sleeper), to: Node::Queue(0xcc), kind: EdgeKind::SleepsOn };
    assert!(hang.edges.contains(&sleeps), "what it sleeps for: {:?}", hang.edges);
}

#[test]
fn a_task_that_sleeps_for_nothing_in_particular_is_no_hang() {
    let mut scene = Scene::new(1);
    let sleeper = scene.task("sleeper", 0, TaskState::Blocked);
    scene.task_waits(sleeper, WaitFor::Queue(0xcc));
    assert_eq!(scene.watch(10 * LONG, |_| ALL_MOVES), None);
}

#[test]
fn a_lock_that_is_given_to_nobody_is_a_lock_wait_of_those_who_want_it() {
    let mut scene = Scene::new(3);
    scene.lock(0xa0, LockKind::Ticket, None);
    scene.cpu_waits(1, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, still(&[1], NO_LOOP)));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, cpus(&[1])));
    assert_eq!((hang.locks, hang.victims), (vec![0xa0], vec![]));
}

#[test]
fn a_lock_whose_next_holder_the_host_does_not_run_is_no_hang() {
    let mut scene = Scene::new(3);
    scene.lock(0xa0, LockKind::Ticket, None);
    scene.cpu_waits(1, WaitFor::Lock(0xa0));
    scene.cpu_waits(2, WaitFor::Lock(0xa0));
    scene.hosted[2] = false;
    assert_eq!(scene.watch(10 * LONG, still(&[1, 2], NOTHING)), None);
}

#[test]
fn a_contended_lock_is_no_hang_and_one_that_passes_somebody_by_is() {
    let contended = |others_get_it: bool| {
        let mut scene = Scene::new(3);
        scene.lock(0xa0, LockKind::Spin, Some(0));
        scene.cpu_waits(1, WaitFor::Lock(0xa0));
        scene.watch_with(Bounds::new(Some(BOUND)), 2 * LONG, |scene, poll| {
            scene.pass(POLL, still(&[1], NO_LOOP));
            let lock = scene.kernel().locks.get_mut(&0xa0).expect("the lock");
            lock.taken_ns = poll.into();
            if !others_get_it && poll % 4 == 0 {
                let wait = scene.cpu(1).wait.as_mut().expect("a wait");
                wait.since_ns = poll.into();
                scene.cpu(1).main_loop += 1;
            }
        })
    };
    assert_eq!(contended(false), None);
    let hang = only(contended(true));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, cpus(&[1])));
}

/// It was fought for, and then the host stopped running the one that has it.
#[test]
fn a_contended_lock_whose_holder_the_host_does_not_run_is_no_hang() {
    let mut scene = Scene::new(2);
    scene.lock(0xa0, LockKind::Spin, Some(0));
    scene.cpu_waits(1, WaitFor::Lock(0xa0));
    let verdict = scene.watch_with(Bounds::new(Some(BOUND)), 4 * LONG, |scene, poll| {
        let contended = poll <= 10;
        if contended {
            scene.kernel().locks.get_mut(&0xa0).expect("the lock").taken_ns = poll.into();
            scene.cpu(1).wait.as_mut().expect("a wait").since_ns = poll.into();
        } else {
            scene.spins(0, true);
            scene.hosted[0] = false;
        }
        scene.pass(POLL, |_| if contended { ALL_MOVES } else { NOTHING });
    });
    assert_eq!(verdict, None);
}

/// A backtrace that somebody has asked for is no progress.
#[test]
fn being_stopped_on_purpose_changes_nothing() {
    let mut scene = Scene::new(1);
    scene.spins(0, false);
    let mut detector = Detector::new(Bounds::new(Some(BOUND)), POLL);
    detector.set_ready();
    detector.observe(scene.now.clone());
    let verdict = (1..=LONG).find_map(|poll| {
        scene.pass(POLL, |_| NOTHING);
        if poll == 5 {
            detector.resumed(scene.now.at);
        }
        Some((poll, detector.judge(scene.now.clone())?))
    });
    // The interval in which it was stopped does not count.
    assert_eq!(verdict.map(|(poll, _)| poll), Some(11));
}

#[test]
fn undone_work_is_a_lost_wakeup_where_the_cpu_idles_and_a_livelock_where_it_runs() {
    for (runs, class) in [(false, Class::LostWakeup), (true, Class::Livelock)] {
        let mut scene = Scene::new(2);
        scene.cpu(1).work_queued = 3;
        scene.cpu(1).work_done = 2;
        if runs {
            scene.spins(1, true);
        }
        let hang = only(scene.watch(LONG, |_| ALL_MOVES));
        assert_eq!((hang.class, hang.blamed), (class, cpus(&[1])));
    }
}

#[test]
fn undone_work_is_the_fault_of_the_task_that_sleeps_and_not_of_one_that_has_just_begun_to() {
    let mut scene = Scene::new(2);
    let worker = scene.task("worker", 1, TaskState::Blocked);
    let napper = scene.task("napper", 1, TaskState::Blocked);
    let elsewhere = scene.task("elsewhere", 0, TaskState::Blocked);
    for task in [worker, napper, elsewhere] {
        scene.task_waits(task, WaitFor::Queue(0xcc));
    }
    scene.cpu(1).work_queued = 1;
    let hang = only(scene.watch_with(Bounds::new(Some(BOUND)), LONG, |scene, poll| {
        let napper = scene.kernel().tasks[napper as usize].as_mut().expect("a task");
        napper.wait.as_mut().expect("a wait").since_ns = (poll / 3).into();
        scene.pass(POLL, |_| ALL_MOVES);
    }));
    assert_eq!((hang.class, hang.blamed), (Class::LostWakeup, vec![Node::Task(worker)]));
}

#[test]
fn what_a_hang_is_does_not_depend_on_which_class_is_due_first() {
    let nothing_moves = |class: Class, bound: Duration| {
        let mut scene = Scene::new(2);
        scene.spins(1, false);
        scene.lock(0xa0, LockKind::Spin, Some(1));
        scene.cpu_waits(0, WaitFor::Lock(0xa0));
        let mut bounds = Bounds::new(Some(BOUND));
        bounds.set(class, Some(bound));
        let verdict = scene.watch_with(bounds, 10 * LONG, |scene, _| {
            scene.pass(POLL, still(&[0, 1], NOTHING));
        });
        let polls = verdict.as_ref().map_or(0, |(polls, _)| *polls);
        (polls, only(verdict).class)
    };
    assert_eq!(nothing_moves(Class::HardLockup, BOUND * 5), (50, Class::HardLockup));
    assert_eq!(nothing_moves(Class::SoftLockup, BOUND / 5), (10, Class::HardLockup));
    assert_eq!(nothing_moves(Class::LockWait, BOUND / 5), (10, Class::HardLockup));
    assert_eq!(nothing_moves(Class::DeadHalt, BOUND * 5), (10, Class::HardLockup));
}

/// Nobody but the judge sees a vCPU's state, and what it has seen holds while nothing moves.
#[test]
fn a_guest_is_not_stopped_again_for_what_a_look_has_shown_not_to_be_due() {
    let mut scene = Scene::new(1);
    scene.halts(0, false);
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::DeadHalt, Some(BOUND * 5));
    let mut detector = Detector::new(bounds, POLL);
    detector.set_ready();
    let mut stops = Vec::new();
    let verdict = (0..=6 * LONG).find_map(|poll| {
        scene.pass(POLL, |_| NOTHING);
        let mut running = scene.now.clone();
        running.vcpus[0].sample = None;
        if !detector.observe(running).suspicious {
            return None;
        }
        stops.push(poll);
        detector.judge(scene.now.clone())
    });
    assert_eq!(stops, [10, 50]);
    let Some(Verdict::Hangs(found)) = verdict else { panic!("{verdict:?}") };
    assert_eq!(found.hangs[0].class, Class::DeadHalt);
}

/// A guest that is let go on with its hangs: each is told of once, and its end too.
#[test]
fn hangs_of_a_guest_that_goes_on_begin_and_end_one_by_one() {
    let mut scene = Scene::new(4);
    let mut detector = Detector::new(Bounds::new(Some(BOUND)), POLL);
    detector.set_ready();
    let mut told = Vec::new();
    for poll in 0..80 {
        // CPU 1 spins for 4 s, CPU 2 halts for good after 2, and CPU 3 after 3 wants what CPU 1 has.
        match poll {
            1 => {
                scene.spins(1, false);
                scene.lock(0xa0, LockKind::Spin, Some(1));
            }
            20 => scene.halts(2, false),
            30 => scene.cpu_waits(3, WaitFor::Lock(0xa0)),
            40 => {
                scene.kernel().locks.clear();
                scene.cpu(3).wait = None;
            }
            _ => {}
        }
        let stuck = [(1, 1..40), (2, 20..80), (3, 30..40)];
        let stuck = stuck.into_iter().filter(|(_, when)| when.contains(&poll));
        let stuck: Vec<usize> = stuck.map(|(cpu, _)| cpu).collect();
        scene.pass(POLL, still(&stuck, NOTHING));
        let noticed = detector.observe(scene.now.clone());
        told.extend(noticed.over.into_iter().map(|number| (poll, format!("{number} is over"))));
        if noticed.suspicious
            && let Some(Verdict::Hangs(found)) = detector.judge(scene.now.clone())
        {
            let hangs = found.hangs.iter();
            told.extend(hangs.map(|hang| (poll, format!("{} {:?}", hang.class, hang.blamed))));
        }
    }
    let expected = [(10, "hard-lockup [Cpu(1)]"), (29, "dead-halt [Cpu(2)]"), (40, "0 is over")];
    assert_eq!(told, expected.map(|(poll, what)| (poll, what.to_owned())));
}

#[test]
fn a_verdict_waits_a_while_for_one_that_may_be_as_much_to_blame() {
    // Both spin, and the host runs the second one a third of the time.
    let mut scene = Scene::new(2);
    for cpu in [0, 1] {
        scene.spins(cpu, false);
    }
    let verdict = scene.watch_with(Bounds::new(Some(BOUND)), 2 * LONG, |scene, poll| {
        scene.hosted[1] = poll % 3 == 0;
        scene.pass(POLL, |_| NOTHING);
    });
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(15));
    assert_eq!(only(verdict).blamed, cpus(&[0, 1]));

    // Or never: that is no reason to say nothing of the first one.
    let mut scene = Scene::new(2);
    for cpu in [0, 1] {
        scene.spins(cpu, false);
    }
    scene.hosted[1] = false;
    let verdict = scene.watch(2 * LONG, |_| NOTHING);
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(20));
    assert_eq!(only(verdict).blamed, cpus(&[0]));
}

#[test]
fn work_that_gets_done_is_no_hang_however_much_there_is() {
    let mut scene = Scene::new(1);
    scene.cpu(0).work_queued = 1_000_000;
    let verdict = scene.watch_with(Bounds::new(Some(BOUND)), 10 * LONG, |scene, poll| {
        scene.pass(POLL, |_| ALL_MOVES);
        scene.cpu(0).work_done += u64::from(poll % 5 == 0);
    });
    assert_eq!(verdict, None);
}

#[test]
fn work_that_waits_for_a_mutex_is_explained_by_who_holds_it() {
    let mut scene = Scene::new(2);
    let worker = scene.task("worker", 0, TaskState::Blocked);
    scene.cpu(0).work_queued = 1;
    let sleeper = scene.task("sleeper", 1, TaskState::Blocked);
    scene.lock(0xa0, LockKind::Mutex, Some(sleeper));
    scene.task_waits(worker, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, |_| ALL_MOVES));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, vec![Node::Task(sleeper)]));
}

#[test]
fn a_guest_that_is_not_ready_in_time_stalls_where_its_boot_cpu_waits() {
    let watch = |waits: bool| {
        let mut scene = Scene::new(2);
        if waits {
            scene.cpu_waits(0, WaitFor::Online(1));
        }
        let mut bounds = Bounds::new(Some(BOUND));
        bounds.set(Class::BootStall, Some(BOUND * 2));
        let mut detector = Detector::new(bounds, POLL);
        detector.observe(scene.now.clone());
        let verdict = (1..=40).find_map(|poll| {
            scene.pass(POLL, |_| NOTHING);
            Some((poll, detector.judge(scene.now.clone())?))
        });
        assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(20));
        only(verdict)
    };
    let hang = watch(false);
    assert_eq!((hang.class, hang.blamed), (Class::BootStall, cpus(&[0])));
    let hang = watch(true);
    assert_eq!((hang.class, hang.blamed), (Class::BootStall, cpus(&[1])));
    assert_eq!(hang.victims, cpus(&[0]));
}

#[test]
fn a_panic_that_says_nothing_more_is_a_panic_and_no_hang() {
    let mut scene = Scene::new(2);
    scene.kernel().panicking = Some(1);
    let verdict = scene.watch(LONG, |_| NOTHING);
    assert!(matches!(verdict, Some((10, Verdict::Panicked(1)))), "{verdict:?}");
}

#[test]
fn a_panic_that_goes_on_printing_is_one_too() {
    let mut scene = Scene::new(2);
    scene.kernel().panicking = Some(1);
    let verdict = scene.watch_with(Bounds::new(Some(BOUND)), 20 * LONG, |scene, _| {
        scene.now.console_bytes += 1;
        scene.pass(POLL, |_| ALL_MOVES);
    });
    assert!(matches!(verdict, Some((300, Verdict::Panicked(1)))), "{verdict:?}");
}

#[test]
fn a_panic_of_a_cpu_that_does_not_exist_is_none() {
    let mut scene = Scene::new(2);
    scene.kernel().panicking = Some(2);
    assert_eq!(scene.watch(10 * LONG, |_| ALL_MOVES), None);
    scene.spins(0, false);
    assert_eq!(only(scene.watch(LONG, still(&[0], NOTHING))).class, Class::HardLockup);
}

/// A guest with one vCPU whose kernel is not known, watched for three times the longest bound. What
/// happens to it at each poll is `what`'s.
fn class_of_unknown(
    sample: VcpuSample,
    mut what: impl FnMut(&mut Observation, u32),
) -> Option<Class> {
    let mut scene = Scene::new(1);
    scene.now.vcpus[0].sample = Some(sample);
    scene.now.vcpus[0].times.as_mut().expect("times").asleep = sample.halted;
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::Silent, Some(BOUND * 2));
    bounds.set(Class::BootStall, Some(BOUND));
    let verdict = scene.watch_with(bounds, 3 * LONG, |scene, poll| {
        scene.now.kernel.get_or_insert_default().cpus.resize(1, Some(CpuActivity::default()));
        scene.pass(POLL, |_| ALL_MOVES);
        scene.now.kernel = None;
        what(&mut scene.now, poll);
    });
    verdict.map(|verdict| hangs(Some(verdict))[0].class)
}

#[test]
fn of_an_unknown_kernel_it_is_the_interrupt_flag_and_the_console_that_tell() {
    let row = |sample: VcpuSample, prints: bool| {
        class_of_unknown(sample, |now, poll| {
            now.console_bytes += u64::from(prints && poll % 5 == 0);
        })
    };
    assert_eq!(row(sample(true, true), false), None, "it idles");
    assert_eq!(row(sample(true, false), false), Some(Class::DeadHalt));
    assert_eq!(row(sample(false, false), false), Some(Class::HardLockup));
    assert_eq!(row(sample(false, false), true), None, "it polls, and prints");
    assert_eq!(row(sample(false, true), false), Some(Class::Silent));
    assert_eq!(row(sample(false, true), true), None);
}

/// Its kernel may take a while before it lets the first interrupt in.
#[test]
fn of_an_unknown_kernel_the_interrupts_may_be_off_for_long_only_while_it_boots() {
    let mut scene = Scene::new(1);
    scene.spins(0, false);
    scene.now.kernel = None;
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::BootStall, Some(BOUND * 3));
    let pass = |scene: &mut Scene, on: bool| {
        scene.now.at += POLL;
        scene.now.vcpus[0].times.as_mut().expect("times").run += POLL;
        scene.now.vcpus[0].sample = Some(sample(false, on));
    };
    let verdict = scene.watch_with(bounds.clone(), 100, |scene, _| pass(scene, false));
    assert_eq!(verdict.map(|(poll, _)| poll), Some(30));
    let verdict = scene.watch_with(bounds, 100, |scene, poll| pass(scene, poll == 3));
    assert_eq!(verdict.map(|(poll, _)| poll), Some(14));
}

/// By bad luck it is never seen with interrupts on, or never in HLT.
#[test]
fn of_an_unknown_kernel_what_the_host_counts_says_more_than_what_it_happens_to_see() {
    /// At each poll: interrupts and HLTs more.
    type Counted = (Option<u64>, Option<u64>);
    let rows: [(Counted, VcpuSample, Option<Class>); 8] = [
        ((None, None), sample(false, false), Some(Class::HardLockup)),
        ((Some(0), Some(0)), sample(false, false), Some(Class::HardLockup)),
        ((Some(1), Some(0)), sample(false, false), Some(Class::Silent)),
        ((Some(1), Some(1)), sample(false, false), None),
        ((Some(0), Some(0)), sample(false, true), Some(Class::Silent)),
        ((Some(9), Some(1)), sample(false, true), None),
        ((Some(0), Some(0)), sample(true, false), Some(Class::DeadHalt)),
        ((Some(1), Some(1)), sample(true, false), None),
    ];
    for ((interrupts, halts), sample, class) in rows {
        let found = class_of_unknown(sample, |now, poll| {
            let sum = |each: Option<u64>| each.map(|each| each * u64::from(poll));
            now.vcpus[0].counts = Counts { interrupts: sum(interrupts), halts: sum(halts) };
        });
        assert_eq!(found, class, "{interrupts:?} interrupts, {halts:?} HLTs, {sample:?}");
    }
}

#[test]
fn a_vcpu_is_asked_only_where_its_state_does_not_follow_from_what_the_host_counts() {
    let vcpu = |sample, interrupts, halts, asleep| Vcpu {
        times: Some(Times { asleep, ..Times::default() }),
        sample,
        counts: Counts { interrupts, halts },
    };
    let (idle, dead) = (Some(sample(true, true)), Some(sample(true, false)));
    let (spins, new) = (Some(sample(false, false)), Some(VcpuSample::default()));
    let before = |sample| vcpu(sample, Some(7), Some(7), false);
    let rows = [
        // It has taken interrupts.
        (before(dead), vcpu(None, Some(8), Some(7), false), Some(sample(false, true))),
        (before(spins), vcpu(None, Some(8), Some(8), true), idle),
        // It has slept all along.
        (before(dead), vcpu(None, Some(7), Some(7), true), dead),
        (before(idle), vcpu(None, Some(7), Some(7), true), idle),
        (before(new), vcpu(None, Some(7), Some(7), true), new),
        // It has halted anew, woken up, or never halted.
        (before(dead), vcpu(None, Some(7), Some(8), true), None),
        (before(idle), vcpu(None, Some(7), Some(7), false), None),
        (before(new), vcpu(None, Some(7), Some(8), true), None),
        (before(spins), vcpu(None, Some(7), Some(7), true), None),
        // Nobody counts.
        (vcpu(idle, None, None, true), vcpu(None, None, None, true), None),
        (before(idle), Vcpu::default(), None),
        (Vcpu::default(), vcpu(None, Some(7), Some(7), true), None),
    ];
    for (before, now, sample) in rows {
        assert_eq!(now.sample_without_asking(&before), sample, "{before:?}, then {now:?}");
    }
}

#[test]
fn a_vcpu_of_an_unknown_kernel_that_halts_now_and_then_is_not_silent() {
    let found = class_of_unknown(sample(false, true), |now, poll| {
        now.vcpus[0].sample = Some(sample(poll % 7 == 0, true));
    });
    assert_eq!(found, None);
}

#[test]
fn a_class_that_is_not_looked_for_is_not_found() {
    let mut scene = Scene::new(2);
    scene.spins(0, true);
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::SoftLockup, None);
    let verdict = scene.watch_with(bounds, LONG, |scene, _| {
        scene.pass(POLL, still(&[0], NO_LOOP));
    });
    assert_eq!(verdict, None);
}

/// How much is known of a guest.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    Booting,
    Ready,
    Unknown,
}

/// In how many milliseconds a detector wants to look again that has seen a guest of two CPUs for 400.
fn due_in(
    guest: Is,
    bounds: &Bounds,
    set_up: fn(&mut Scene),
    pass: fn(&mut Scene),
) -> Option<u128> {
    let mut scene = Scene::new(2);
    set_up(&mut scene);
    let mut detector = Detector::new(bounds.clone(), POLL);
    if guest != Is::Booting {
        detector.set_ready();
    }
    let seen = |scene: &Scene| {
        let kernel = scene.now.kernel.clone().filter(|_| guest != Is::Unknown);
        Observation { kernel, ..scene.now.clone() }
    };
    detector.observe(seen(&scene));
    for _ in 0..4 {
        scene.pass(POLL, |_| ALL_MOVES);
        pass(&mut scene);
        detector.observe(seen(&scene));
    }
    detector.due_in().map(|due| due.as_millis())
}

#[test]
fn the_next_look_is_when_the_first_of_all_that_stands_still_is_due() {
    let row = |set_up, pass| due_in(Is::Ready, &Bounds::new(Some(BOUND)), set_up, pass);
    let nothing: fn(&mut Scene) = |_| {};
    let stops_loop: fn(&mut Scene) = |scene| scene.cpu(1).main_loop = 0;
    let stops_all: fn(&mut Scene) = |scene| {
        scene.cpu(1).main_loop = 0;
        scene.cpu(1).tick = 0;
    };
    assert_eq!(row(|scene| scene.spins(1, false), stops_all), Some(600));
    assert_eq!(row(|scene| scene.spins(1, true), stops_loop), Some(600));
    assert_eq!(row(|scene| scene.cpu_waits(1, WaitFor::Lock(0xa0)), nothing), Some(600));
    assert_eq!(row(|scene| scene.lock(0xa0, LockKind::Spin, Some(1)), nothing), Some(600));
    assert_eq!(row(|scene| scene.cpu(1).work_queued = 1, nothing), Some(600));
    assert_eq!(row(|scene| scene.cpu(1).ready_tasks = 1, nothing), Some(600));
    assert_eq!(row(|scene| scene.kernel().panicking = Some(1), nothing), Some(600));
    let task_waits: fn(&mut Scene) = |scene| {
        let task = scene.task("waiter", 1, TaskState::Blocked);
        scene.task_waits(task, WaitFor::Lock(0xa0));
    };
    assert_eq!(row(task_waits, nothing), Some(600));

    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::SoftLockup, Some(BOUND / 2));
    let waits = |scene: &mut Scene| scene.cpu_waits(1, WaitFor::Lock(0xa0));
    assert_eq!(due_in(Is::Ready, &bounds, waits, stops_loop), Some(100));
    // Over its bound.
    bounds.set(Class::SoftLockup, Some(BOUND / 4));
    assert_eq!(due_in(Is::Ready, &bounds, waits, stops_loop), Some(600));

    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::BootStall, Some(BOUND * 2));
    assert_eq!(due_in(Is::Booting, &bounds, nothing, stops_all), Some(1600));
    bounds.set(Class::Silent, Some(BOUND * 3));
    let stranger = |set_up, pass| due_in(Is::Unknown, &bounds, set_up, pass);
    assert_eq!(stranger(|scene| scene.spins(1, false), nothing), Some(600));
    assert_eq!(stranger(|scene| scene.halts(1, false), nothing), Some(600));
    assert_eq!(stranger(|scene| scene.spins(1, true), nothing), Some(2600));
    assert_eq!(stranger(|scene| scene.spins(1, true), |scene| scene.now.console_bytes += 1), None);
}

#[test]
fn what_stands_still_for_a_good_reason_makes_nobody_look_sooner() {
    let row = |set_up: fn(&mut Scene)| due_in(Is::Ready, &Bounds::new(Some(BOUND)), set_up, |_| {});
    assert_eq!(row(|_| {}), None);
    let sleeps = |scene: &mut Scene| {
        let task = scene.task("sleeper", 0, TaskState::Blocked);
        scene.task_waits(task, WaitFor::Queue(0xcc));
    };
    assert_eq!(row(sleeps), None);
    let has_waited = |scene: &mut Scene| {
        let task = scene.task("runner", 0, TaskState::Blocked);
        scene.task_waits(task, WaitFor::Lock(0xa0));
        scene.kernel().tasks[task as usize].as_mut().expect("a task").state = TaskState::Ready;
    };
    assert_eq!(row(has_waited), None);
    let done = |scene: &mut Scene| {
        scene.cpu(0).work_queued = 7;
        scene.cpu(0).work_done = 7;
    };
    assert_eq!(row(done), None);
}

/// It held still because somebody else had the lock, and has had no time of its own since.
#[test]
fn one_that_has_just_got_what_it_waited_for_does_not_hang() {
    let waits_for = |scene: &mut Scene, lock: Option<u64>| {
        let wait = lock.map(|lock| Wait {
            what: WaitFor::Lock(lock),
            since_ns: lock,
            at: Site::default(),
        });
        scene.cpu(1).wait = wait;
    };
    let verdict_of = |waited: u32, polls: u32| {
        let mut scene = Scene::new(2);
        scene.spins(1, false);
        scene.lock(0xa0, LockKind::Spin, Some(0));
        let bounds = Bounds::new(Some(BOUND));
        scene.watch_with(bounds, polls, |scene, poll| {
            waits_for(scene, (poll <= waited).then_some(0xa0));
            // The holder lets it go now and then, and takes it again.
            scene.kernel().locks.get_mut(&0xa0).expect("a lock").taken_ns +=
                u64::from(poll % 4 == 0);
            scene.pass(POLL, still(&[1], NOTHING));
        })
    };
    assert_eq!(verdict_of(9, 15), None);
    // What it does then is its own fault, and so is what came of a short wait.
    let (poll, verdict) = verdict_of(9, 30).expect("a hang");
    assert!((17..=20).contains(&poll), "{poll}");
    let hang = only(Some((poll, verdict)));
    assert_eq!((hang.class, hang.blamed), (Class::HardLockup, cpus(&[1])));
    assert_eq!(verdict_of(3, 30).map(|(poll, _)| poll), Some(10));
}

#[test]
fn a_boot_whose_next_cpu_the_host_does_not_run_does_not_stall_but_starve() {
    let mut scene = Scene::new(2);
    scene.cpu_waits(0, WaitFor::Online(1));
    scene.spins(1, true);
    scene.hosted[1] = false;
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::BootStall, Some(BOUND * 2));
    bounds.starved = Some(BOUND * 3);
    let mut detector = Detector::new(bounds, POLL);
    detector.observe(scene.now.clone());
    let verdict = (1..=60).find_map(|poll| {
        scene.pass(POLL, |_| NOTHING);
        Some((poll, detector.judge(scene.now.clone())?))
    });
    let Some((50, Verdict::Starved(starved))) = verdict else { panic!("{verdict:?}") };
    assert_eq!(starved.cpus, [1]);
}

#[test]
fn circles_that_have_nothing_to_do_with_each_other_are_two_hangs() {
    let mut scene = Scene::new(4);
    let circles = [(0, 1, 0xa0, 0xb0), (2, 3, 0xc0, 0xd0)];
    for (one, other, first, second) in circles {
        scene.lock(first, LockKind::Spin, Some(one));
        scene.lock(second, LockKind::Spin, Some(other));
        scene.cpu_waits(one as usize, WaitFor::Lock(second));
        scene.cpu_waits(other as usize, WaitFor::Lock(first));
    }
    let found = hangs(scene.watch(LONG, |_| NOTHING));
    let blamed: Vec<&[Node]> = found.iter().map(|hang| &hang.blamed[..]).collect();
    assert_eq!(blamed, [&cpus(&[0, 1])[..], &cpus(&[2, 3])[..]]);
    assert!(found.iter().all(|hang| hang.class == Class::Deadlock && hang.locks.len() == 2));
}

#[test]
fn all_tasks_of_a_cpu_that_keep_others_waiting_are_to_blame() {
    let mut scene = Scene::new(1);
    let holders = ["one", "other"].map(|name| scene.task(name, 0, TaskState::Ready));
    for (lock, holder) in [0xa0, 0xb0].into_iter().zip(holders) {
        let waiter = scene.task("waiter", 0, TaskState::Blocked);
        scene.lock(lock, LockKind::Mutex, Some(holder));
        scene.task_waits(waiter, WaitFor::Lock(lock));
    }
    let hang = only(scene.watch(LONG, |_| ALL_MOVES));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, holders.map(Node::Task).to_vec()));
    assert_eq!(hang.victims, [2, 3].map(Node::Task));
}
