//! Parties that sleep: their own bound, tasks that sleep beside others that compute, and tasks that are
//! never run.

use std::time::Duration;

use super::scene::*;
use crate::hang::*;
use crate::kernel::{LockKind, TaskRunState, WaitFor};

/// Bounds with which sleepers have four times as long as parties that run.
fn patient() -> Bounds {
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set_sleepers(Some(BOUND * 4));
    bounds
}

/// Observes a scene in which all CPUs go on, and returns the poll and the hang of a verdict.
fn watch_patiently(scene: &mut Scene, polls: u32) -> Option<(u32, DetectedHang)> {
    let verdict = scene.watch_with(patient(), polls, |scene, _| scene.pass(POLL, |_| ALL_MOVES));
    let poll = verdict.as_ref().map(|(poll, _)| *poll)?;
    Some((poll, only(verdict)))
}

#[test]
fn tasks_that_sleep_for_a_mutex_have_the_bound_of_sleepers() {
    let mut scene = Scene::new(1);
    let holder = scene.task("holder", 0, TaskRunState::Blocked);
    let waiter = scene.task("waiter", 0, TaskRunState::Blocked);
    scene.lock(0xa0, LockKind::Mutex, Some(holder));
    scene.task_waits(holder, WaitFor::Queue(0xcc));
    scene.task_waits(waiter, WaitFor::Lock(0xa0));
    let (poll, hang) = watch_patiently(&mut scene, 50).expect("a hang");
    assert_eq!((poll, hang.class), (40, Class::LockWait));
}

#[test]
fn a_spinning_waiter_ends_the_patience_for_sleepers() {
    let mut scene = Scene::new(2);
    let holder = scene.task("holder", 1, TaskRunState::Running);
    scene.cpu(1).task = Some(holder);
    let waiter = scene.task("waiter", 0, TaskRunState::Blocked);
    scene.lock(0xa0, LockKind::Mutex, Some(holder));
    scene.lock(0xb0, LockKind::Spin, Some(1));
    scene.task_waits(waiter, WaitFor::Lock(0xa0));
    scene.cpu_waits(0, WaitFor::Lock(0xb0));
    let (poll, hang) = watch_patiently(&mut scene, 50).expect("a hang");
    assert_eq!((poll, hang.class, hang.asleep), (10, Class::LockWait, false));
}

#[test]
fn a_cycle_of_mutexes_does_not_wait_for_the_bound_of_sleepers() {
    let mut scene = Scene::new(1);
    let tasks = ["one", "other"].map(|name| scene.task(name, 0, TaskRunState::Blocked));
    scene.lock(0xa0, LockKind::Mutex, Some(tasks[0]));
    scene.lock(0xb0, LockKind::Mutex, Some(tasks[1]));
    scene.task_waits(tasks[0], WaitFor::Lock(0xb0));
    scene.task_waits(tasks[1], WaitFor::Lock(0xa0));
    let (poll, hang) = watch_patiently(&mut scene, 50).expect("a hang");
    assert_eq!((poll, hang.class), (10, Class::Deadlock));
    assert_eq!(hang.certainty, HangCertainty::Certain);
}

#[test]
fn a_sleeping_worker_is_blamed_before_a_task_that_computes_beside_it() {
    let mut scene = Scene::new(1);
    let worker = scene.task("worker", 0, TaskRunState::Blocked);
    let cruncher = scene.task("cruncher", 0, TaskRunState::Ready);
    scene.task_waits(worker, WaitFor::Queue(0xcc));
    scene.spins(0, true);
    scene.cpu(0).work_queued = 1;
    let verdict = scene.watch_with(patient(), 50, |scene, _| {
        scene.pass(POLL, |_| ALL_MOVES);
        scene.kernel().tasks[cruncher as usize].as_mut().expect("a task").switches += 50;
    });
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(40));
    let hang = only(verdict);
    assert_eq!((hang.class, hang.blamed), (Class::LostWakeup, vec![Node::Task(worker)]));
}

#[test]
fn a_sleeping_task_that_is_no_worker_is_not_blamed() {
    let mut scene = Scene::new(1);
    let helper = scene.task("helper", 0, TaskRunState::Blocked);
    let mover = scene.task("mover", 0, TaskRunState::Ready);
    scene.task_waits(helper, WaitFor::Queue(0xcc));
    scene.spins(0, true);
    scene.cpu(0).work_queued = 9;
    let verdict = scene.watch_with(patient(), 50, |scene, poll| {
        scene.pass(POLL, |_| ALL_MOVES);
        scene.cpu(0).work_done += u64::from(poll <= 3);
        scene.kernel().tasks[mover as usize].as_mut().expect("a task").switches += 50;
    });
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(13));
    let hang = only(verdict);
    assert_eq!((hang.class, hang.blamed), (Class::Livelock, cpus(&[0])));
}

/// Observes a task with this state on an idle CPU whose run queue has that many tasks.
fn watch_unrun(state: TaskRunState, queued: u32, others_run: bool) -> Option<(u32, DetectedHang)> {
    let mut scene = Scene::new(1);
    let orphan = scene.task("orphan", 0, state);
    let other = scene.task("other", 0, TaskRunState::Blocked);
    scene.task_waits(other, WaitFor::Queue(0xcc));
    scene.cpu(0).ready_tasks = queued;
    let verdict = scene.watch_with(patient(), 50, |scene, _| {
        scene.pass(POLL, |_| ALL_MOVES);
        let other = scene.kernel().tasks[other as usize].as_mut().expect("a task");
        other.switches += u64::from(others_run);
    });
    let poll = verdict.as_ref().map(|(poll, _)| *poll)?;
    let hang = only(verdict);
    assert_eq!(hang.blamed, [Node::Task(orphan)]);
    Some((poll, hang))
}

#[test]
fn a_runnable_task_in_no_queue_is_a_lost_wakeup() {
    for state in [TaskRunState::Ready, TaskRunState::Running] {
        let (poll, hang) = watch_unrun(state, 0, false).expect("a hang");
        assert_eq!((poll, hang.class), (10, Class::LostWakeup), "{state:?}");
    }
}

/// The patience for the one that sleeps is none for the one that could run.
#[test]
fn a_sleeper_does_not_hide_a_task_that_is_not_run() {
    let mut scene = Scene::new(1);
    let orphan = scene.task("orphan", 0, TaskRunState::Ready);
    let sleeper = scene.task("sleeper", 0, TaskRunState::Blocked);
    scene.lock(0xaa, LockKind::Mutex, Some(orphan));
    scene.task_waits(sleeper, WaitFor::Lock(0xaa));
    let verdict = scene.watch_with(patient(), 50, |scene, _| scene.pass(POLL, |_| ALL_MOVES));
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(10));
    let found = hangs(verdict);
    let is_it = |hang: &DetectedHang| {
        (hang.class, &hang.blamed[..]) == (Class::LostWakeup, &[Node::Task(orphan)])
    };
    assert!(found.iter().any(is_it), "{found:?}");
}

#[test]
fn a_queued_task_that_is_passed_over_has_two_turns() {
    let (poll, hang) = watch_unrun(TaskRunState::Ready, 1, true).expect("a hang");
    assert_eq!((poll, hang.class), (20, Class::Livelock));
}

#[test]
fn a_task_that_gets_its_turn_does_not_hang() {
    let mut scene = Scene::new(1);
    let task = scene.task("task", 0, TaskRunState::Ready);
    let verdict = scene.watch_with(patient(), 50, |scene, poll| {
        scene.pass(POLL, |_| ALL_MOVES);
        let task = scene.kernel().tasks[task as usize].as_mut().expect("a task");
        task.switches += u64::from(poll % 9 == 0);
    });
    assert_eq!(verdict, None);
}

/// Observes a worker with pending work that sleeps again and again, each time for less than an observation.
/// The worker's CPU runs for `ran` of each interval, and is halted for the rest.
fn watch_polling(ran: Duration) -> Option<(u32, DetectedHang)> {
    let mut scene = Scene::new(1);
    let worker = scene.task("poller", 0, TaskRunState::Blocked);
    scene.task_waits(worker, WaitFor::Queue(0xcc));
    scene.cpu(0).work_queued = 1;
    let verdict = scene.watch_with(patient(), 50, |scene, poll| {
        scene.pass(POLL, |_| ALL_MOVES);
        scene.now.vcpus[0].times.as_mut().expect("times").run += ran;
        let task = scene.kernel().tasks[worker as usize].as_mut().expect("a task");
        task.switches += 10;
        task.wait.as_mut().expect("a wait").since_ns = u64::from(poll);
    });
    let poll = verdict.as_ref().map(|(poll, _)| *poll)?;
    Some((poll, only(verdict)))
}

#[test]
fn a_worker_that_polls_a_slow_device_has_the_bound_of_sleepers() {
    let (poll, hang) = watch_polling(POLL / 20).expect("a hang");
    assert_eq!((poll, hang.class, hang.blamed), (40, Class::LostWakeup, cpus(&[0])));
    assert!(hang.asleep);
}

#[test]
fn a_worker_that_computes_between_short_sleeps_is_a_livelock() {
    let (poll, hang) = watch_polling(POLL * 19 / 20).expect("a hang");
    assert!(poll <= 12, "{poll}");
    assert_eq!((hang.class, hang.blamed), (Class::Livelock, cpus(&[0])));
}

#[test]
fn a_ready_task_of_an_offline_cpu_is_a_lost_wakeup() {
    let mut scene = Scene::new(2);
    let left = scene.task("left", 1, TaskRunState::Ready);
    scene.cpu(1).ready_tasks = 1;
    scene.cpu(1).online = false;
    let verdict = scene.watch_with(patient(), 50, |scene, _| scene.pass(POLL, |_| ALL_MOVES));
    let poll = verdict.as_ref().map(|(poll, _)| *poll);
    let hang = only(verdict);
    assert_eq!((poll, hang.class), (Some(10), Class::LostWakeup));
    assert_eq!(hang.blamed, [Node::Task(left)]);
}

/// The kernel's clock is at 130 s. One task waits for a mutex since 125 s, another for a second one since 9
/// s: with 120 s for a sleeper, the wait of 5 s is a suspicion and that of 121 s is a hang.
#[test]
fn sleepers_of_a_dump_have_the_bound_of_sleepers() {
    const SECOND: u64 = 1_000_000_000;
    for (since, certainty) in [
        (
            125,
            HangCertainty::Suspected {
                lasted: Duration::from_secs(5),
                bound: Duration::from_secs(120),
            },
        ),
        (9, HangCertainty::Likely),
    ] {
        let mut scene = Scene::new(1);
        let holder = scene.task("holder", 0, TaskRunState::Blocked);
        let waiter = scene.task("waiter", 0, TaskRunState::Blocked);
        scene.lock(0xa0, LockKind::Mutex, Some(holder));
        scene.task_waits(holder, WaitFor::Queue(0xcc));
        scene.task_waits(waiter, WaitFor::Lock(0xa0));
        scene.kernel().now_ns = Some(130 * SECOND);
        scene.cpu(0).tick_ns = Some(130 * SECOND);
        scene.cpu(0).main_loop_ns = Some(130 * SECOND);
        for task in [holder, waiter] {
            let task = scene.kernel().tasks[task as usize].as_mut().expect("a task");
            task.wait.as_mut().expect("a wait").since_ns = since * SECOND;
        }
        let found = judge_snapshot(&scene.now, &Bounds::default()).hangs;
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!((found[0].class, &found[0].certainty), (Class::LockWait, &certainty));
    }
}

/// A worker of a busy CPU sleeps for less than a sleeper may. It is awake in one observation before its work is
/// done, or stays awake and does not do it.
#[test]
fn a_woken_worker_does_not_hang_for_its_sleep() {
    for does_it in [true, false] {
        let mut scene = Scene::new(1);
        scene.spins(0, true);
        let worker = scene.task("worker", 0, TaskRunState::Blocked);
        scene.task_waits(worker, WaitFor::Queue(0xcc));
        scene.cpu(0).work_queued = 1;
        let verdict = scene.watch_with(patient(), 60, |scene, poll| {
            scene.pass(POLL, |_| ALL_MOVES);
            let task = scene.kernel().tasks[worker as usize].as_mut().expect("a task");
            if poll >= 30 {
                (task.state, task.wait) = (TaskRunState::Running, None);
                task.switches += 1;
                scene.cpu(0).task = Some(worker);
            }
            if poll == 31 {
                scene.cpu(0).work_done = u64::from(does_it);
            }
        });
        if does_it {
            assert_eq!(verdict, None);
        } else {
            // The bound of ten observations counts from the one before it was seen awake.
            let poll = verdict.as_ref().map(|(poll, _)| *poll);
            assert_eq!((poll, only(verdict).class), (Some(39), Class::Livelock));
        }
    }
}

#[test]
fn suspicions_do_not_need_the_patience_for_sleepers() {
    let mut bounds = Bounds::default();
    assert_eq!(bounds.get_for(Class::LostWakeup, true), Some(Bounds::DEFAULT_SLEEPERS));
    bounds.set(Class::LockWait, Some(Duration::from_millis(300)));
    let tight = bounds.tightened(|bound| bound / 10);
    let asleep = |class| tight.get_for(class, true).expect("a bound");
    assert_eq!(asleep(Class::LostWakeup), Bounds::DEFAULT / 10);
    assert_eq!(asleep(Class::LockWait), Duration::from_millis(30));
}
