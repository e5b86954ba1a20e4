//! Waits for locks and CPUs, and the parties to blame.

use std::time::Duration;

use super::scene::*;
use crate::hang::*;
use crate::kernel::{LockKind, Site, TaskRunState, Wait, WaitFor};

#[test]
fn a_waiter_for_a_starved_cpu_is_no_hang() {
    let mut scene = Scene::new(2);
    scene.lock(0x1000, LockKind::Spin, Some(1));
    scene.cpu_waits(0, WaitFor::Lock(0x1000));
    scene.spins(1, false);
    scene.hosted[1] = false;
    assert_eq!(scene.watch(10 * LONG, stalled(&[0, 1], NO_PROGRESS)), None);
}

#[test]
fn a_call_to_a_starved_cpu_is_no_hang() {
    for what in [WaitFor::Call(1), WaitFor::Online(1)] {
        let mut scene = Scene::new(2);
        scene.cpu_waits(0, what);
        scene.spins(1, true);
        scene.hosted[1] = false;
        assert_eq!(scene.watch(10 * LONG, stalled(&[0, 1], NO_PROGRESS)), None, "{what:?}");
    }
    let mut scene = Scene::new(2);
    let caller = scene.task("caller", 0, TaskRunState::Blocked);
    scene.task_waits(caller, WaitFor::Call(1));
    scene.spins(1, true);
    scene.hosted[1] = false;
    assert_eq!(scene.watch(10 * LONG, stalled(&[1], NO_PROGRESS)), None);
}

#[test]
fn a_cycle_of_waits_is_a_deadlock_with_its_waiters_as_victims() {
    let mut scene = Scene::new(4);
    scene.lock(0xa0, LockKind::Spin, Some(0));
    scene.lock(0xb0, LockKind::Spin, Some(1));
    scene.cpu_waits(0, WaitFor::Lock(0xb0));
    scene.cpu_waits(1, WaitFor::Lock(0xa0));
    scene.cpu_waits(3, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, stalled(&[0, 1, 3], NO_PROGRESS)));
    assert_eq!((hang.class, hang.blamed), (Class::Deadlock, cpus(&[0, 1])));
    assert_eq!((hang.locks, hang.victims), (vec![0xa0, 0xb0], cpus(&[3])));
}

#[test]
fn a_cpu_that_waits_for_its_own_lock_is_a_deadlock() {
    let mut scene = Scene::new(2);
    scene.lock(0xa0, LockKind::Spin, Some(1));
    scene.cpu_waits(1, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, stalled(&[1], NO_PROGRESS)));
    assert_eq!((hang.class, hang.blamed), (Class::Deadlock, cpus(&[1])));
    assert_eq!(hang.locks, [0xa0]);
}

#[test]
fn tasks_that_wait_for_each_other_deadlock_while_all_cpus_progress() {
    let mut scene = Scene::new(2);
    let (reader, writer) = (
        scene.task("reader", 0, TaskRunState::Blocked),
        scene.task("writer", 1, TaskRunState::Blocked),
    );
    scene.lock(0xa0, LockKind::Mutex, Some(reader));
    scene.lock(0xb0, LockKind::Mutex, Some(writer));
    scene.task_waits(reader, WaitFor::Lock(0xb0));
    scene.task_waits(writer, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, |_| ALL_MOVES));
    assert_eq!(hang.class, Class::Deadlock);
    assert_eq!(hang.blamed, [Node::Task(reader), Node::Task(writer)]);
}

#[test]
fn tasks_of_a_nonexistent_cpu_age_with_the_slowest_vcpu() {
    let mut scene = Scene::new(2);
    let task = scene.task("nowhere", 77, TaskRunState::Blocked);
    scene.lock(0xa0, LockKind::Mutex, Some(task));
    scene.task_waits(task, WaitFor::Lock(0xa0));
    scene.spins(1, false);
    scene.hosted[1] = false;
    assert_eq!(scene.watch(10 * LONG, stalled(&[1], NO_PROGRESS)), None);
    scene.hosted[1] = true;
    let hang = hangs(scene.watch(LONG, stalled(&[1], NO_PROGRESS))).remove(0);
    assert_eq!((hang.class, hang.blamed), (Class::Deadlock, vec![Node::Task(task)]));
}

#[test]
fn a_waiter_for_a_party_that_does_not_exist_is_blamed() {
    let row = |holder: Option<(LockKind, u32)>, what: WaitFor| {
        let mut scene = Scene::new(2);
        if let Some((kind, holder)) = holder {
            scene.lock(0xa0, kind, Some(holder));
        }
        scene.cpu_waits(1, what);
        let hang = only(scene.watch(LONG, stalled(&[1], NO_LOOP)));
        assert_eq!((hang.class, hang.blamed), (Class::LockWait, cpus(&[1])), "{holder:?} {what:?}");
        hang.edges.len()
    };
    let lock = WaitFor::Lock(0xa0);
    assert_eq!(row(None, WaitFor::Call(77)), 1);
    assert_eq!(row(None, WaitFor::Online(u32::MAX)), 1);
    assert_eq!(row(None, lock), 1);
    assert_eq!(row(Some((LockKind::Spin, 77)), lock), 2);
    assert_eq!(row(Some((LockKind::Mutex, 77)), lock), 2);
    assert_eq!(row(Some((LockKind::Garbage(9), 0)), lock), 1, "garbage has no holder");
}

#[test]
fn a_spinning_holder_is_blamed_for_its_waiters() {
    let mut scene = Scene::new(4);
    scene.lock(0xa0, LockKind::Spin, Some(2));
    scene.spins(2, false);
    scene.cpu_waits(0, WaitFor::Lock(0xa0));
    scene.cpu_waits(3, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, stalled(&[0, 2, 3], NO_PROGRESS)));
    assert_eq!((hang.class, hang.blamed), (Class::HardLockup, cpus(&[2])));
    assert_eq!((hang.locks, hang.victims), (vec![0xa0], cpus(&[0, 3])));
}

#[test]
fn a_waiter_that_the_host_hardly_runs_is_a_victim() {
    let mut scene = Scene::new(2);
    scene.lock(0xa0, LockKind::Spin, Some(1));
    scene.halts(1, false);
    scene.cpu_waits(0, WaitFor::Lock(0xa0));
    scene.hosted[0] = false;
    let hang = only(scene.watch(LONG, stalled(&[0, 1], NO_PROGRESS)));
    assert_eq!((hang.class, hang.blamed), (Class::DeadHalt, cpus(&[1])));
    assert_eq!((hang.locks, hang.victims), (vec![0xa0], cpus(&[0])));
}

#[test]
fn a_cpu_that_does_not_answer_a_call_is_blamed() {
    let mut scene = Scene::new(4);
    scene.spins(3, false);
    scene.cpu_waits(0, WaitFor::Call(3));
    let hang = only(scene.watch(LONG, |cpu| match cpu {
        0 => NO_LOOP,
        3 => NO_PROGRESS,
        _ => ALL_MOVES,
    }));
    assert_eq!((hang.class, hang.blamed), (Class::HardLockup, cpus(&[3])));
    assert_eq!(hang.victims, cpus(&[0]));
}

#[test]
fn a_task_spinning_with_a_mutex_is_no_victim_of_its_cpu() {
    let mut scene = Scene::new(2);
    let holder = scene.task("holder", 1, TaskRunState::Running);
    let waiter = scene.task("waiter", 0, TaskRunState::Blocked);
    scene.cpu(1).task = Some(holder);
    scene.lock(0xa0, LockKind::Mutex, Some(holder));
    scene.task_waits(waiter, WaitFor::Lock(0xa0));
    scene.spins(1, false);
    let hang = only(scene.watch(LONG, stalled(&[1], NO_PROGRESS)));
    assert_eq!((hang.class, hang.blamed), (Class::HardLockup, cpus(&[1])));
    assert_eq!(hang.victims, [Node::Task(waiter)]);
}

#[test]
fn a_healthy_holder_is_blamed_for_a_lock_wait() {
    let mut scene = Scene::new(2);
    scene.lock(0xa0, LockKind::Spin, Some(1));
    scene.cpu_waits(0, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, stalled(&[0], NO_LOOP)));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, cpus(&[1])));
    assert_eq!(hang.victims, cpus(&[0]));
}

#[test]
fn a_task_that_sleeps_with_a_mutex_is_blamed_for_the_wait() {
    let mut scene = Scene::new(1);
    let sleeper = scene.task("sleeper", 0, TaskRunState::Blocked);
    let waiter = scene.task("waiter", 0, TaskRunState::Blocked);
    scene.lock(0xa0, LockKind::Mutex, Some(sleeper));
    scene.task_waits(sleeper, WaitFor::Queue(0xcc));
    scene.task_waits(waiter, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, |_| ALL_MOVES));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, vec![Node::Task(sleeper)]));
    assert_eq!(hang.victims, [Node::Task(waiter)]);
    let sleeps =
        Edge { from: Node::Task(sleeper), to: Node::Queue(0xcc), kind: EdgeKind::SleepsOn };
    assert!(hang.edges.contains(&sleeps), "the queue that it sleeps on: {:?}", hang.edges);
}

#[test]
fn a_task_that_sleeps_without_a_lock_is_no_hang() {
    let mut scene = Scene::new(1);
    let sleeper = scene.task("sleeper", 0, TaskRunState::Blocked);
    scene.task_waits(sleeper, WaitFor::Queue(0xcc));
    assert_eq!(scene.watch(10 * LONG, |_| ALL_MOVES), None);
}

#[test]
fn waiters_for_a_lock_without_a_holder_are_blamed() {
    let mut scene = Scene::new(3);
    scene.lock(0xa0, LockKind::Ticket, None);
    scene.cpu_waits(1, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, stalled(&[1], NO_LOOP)));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, cpus(&[1])));
    assert_eq!((hang.locks, hang.victims), (vec![0xa0], vec![]));
}

#[test]
fn a_lock_whose_next_holder_is_starved_is_no_hang() {
    let mut scene = Scene::new(3);
    scene.lock(0xa0, LockKind::Ticket, None);
    scene.cpu_waits(1, WaitFor::Lock(0xa0));
    scene.cpu_waits(2, WaitFor::Lock(0xa0));
    scene.hosted[2] = false;
    assert_eq!(scene.watch(10 * LONG, stalled(&[1, 2], NO_PROGRESS)), None);
}

#[test]
fn a_contended_lock_is_a_hang_if_it_bypasses_a_waiter() {
    let contended = |others_get_it: bool| {
        let mut scene = Scene::new(3);
        scene.lock(0xa0, LockKind::Spin, Some(0));
        scene.cpu_waits(1, WaitFor::Lock(0xa0));
        scene.watch_with(Bounds::new(Some(BOUND)), 2 * LONG, |scene, poll| {
            scene.pass(POLL, stalled(&[1], NO_LOOP));
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

/// The lock was contended, and then the host stopped running its holder.
#[test]
fn a_contended_lock_whose_holder_is_starved_is_no_hang() {
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
        scene.pass(POLL, |_| if contended { ALL_MOVES } else { NO_PROGRESS });
    });
    assert_eq!(verdict, None);
}

#[test]
fn the_class_does_not_depend_on_which_bound_is_due_first() {
    let nothing_moves = |class: Class, bound: Duration| {
        let mut scene = Scene::new(2);
        scene.spins(1, false);
        scene.lock(0xa0, LockKind::Spin, Some(1));
        scene.cpu_waits(0, WaitFor::Lock(0xa0));
        let mut bounds = Bounds::new(Some(BOUND));
        bounds.set(class, Some(bound));
        let verdict = scene.watch_with(bounds, 10 * LONG, |scene, _| {
            scene.pass(POLL, stalled(&[0, 1], NO_PROGRESS));
        });
        let polls = verdict.as_ref().map_or(0, |(polls, _)| *polls);
        (polls, only(verdict).class)
    };
    assert_eq!(nothing_moves(Class::HardLockup, BOUND * 5), (50, Class::HardLockup));
    assert_eq!(nothing_moves(Class::SoftLockup, BOUND / 5), (10, Class::HardLockup));
    assert_eq!(nothing_moves(Class::LockWait, BOUND / 5), (10, Class::HardLockup));
    assert_eq!(nothing_moves(Class::DeadHalt, BOUND * 5), (10, Class::HardLockup));
}

#[test]
fn a_verdict_waits_for_a_cpu_that_may_share_the_blame() {
    // Both spin, and the host runs the second one a third of the time.
    let mut scene = Scene::new(2);
    for cpu in [0, 1] {
        scene.spins(cpu, false);
    }
    let verdict = scene.watch_with(Bounds::new(Some(BOUND)), 2 * LONG, |scene, poll| {
        scene.hosted[1] = poll % 3 == 0;
        scene.pass(POLL, |_| NO_PROGRESS);
    });
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(15));
    assert_eq!(only(verdict).blamed, cpus(&[0, 1]));

    // Or never: the first one is reported all the same.
    let mut scene = Scene::new(2);
    for cpu in [0, 1] {
        scene.spins(cpu, false);
    }
    scene.hosted[1] = false;
    let verdict = scene.watch(2 * LONG, |_| NO_PROGRESS);
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(20));
    assert_eq!(only(verdict).blamed, cpus(&[0]));
}

#[test]
fn pending_work_that_waits_for_a_mutex_blames_the_holder() {
    let mut scene = Scene::new(2);
    let worker = scene.task("worker", 0, TaskRunState::Blocked);
    scene.cpu(0).work_queued = 1;
    let sleeper = scene.task("sleeper", 1, TaskRunState::Blocked);
    scene.lock(0xa0, LockKind::Mutex, Some(sleeper));
    scene.task_waits(worker, WaitFor::Lock(0xa0));
    let hang = only(scene.watch(LONG, |_| ALL_MOVES));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, vec![Node::Task(sleeper)]));
}

/// The CPU made no progress while another had the lock, and has had no time of its own since.
#[test]
fn a_cpu_that_has_just_got_its_lock_does_not_hang() {
    let waits_for = |scene: &mut Scene, lock: Option<u64>| {
        let wait = lock.map(|lock| Wait {
            what: WaitFor::Lock(lock),
            since_ns: lock,
            at: Site::default(),
            ends_by: None,
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
            // The holder releases it now and then, and takes it again.
            scene.kernel().locks.get_mut(&0xa0).expect("a lock").taken_ns +=
                u64::from(poll % 4 == 0);
            scene.pass(POLL, stalled(&[1], NO_PROGRESS));
        })
    };
    assert_eq!(verdict_of(9, 15), None);
    // Its time after that is its own fault, and so is a short wait.
    let (poll, verdict) = verdict_of(9, 30).expect("a hang");
    assert!((17..=20).contains(&poll), "{poll}");
    let hang = only(Some((poll, verdict)));
    assert_eq!((hang.class, hang.blamed), (Class::HardLockup, cpus(&[1])));
    assert_eq!(verdict_of(3, 30).map(|(poll, _)| poll), Some(10));
}

#[test]
fn independent_cycles_are_two_hangs() {
    let mut scene = Scene::new(4);
    let cycles = [(0, 1, 0xa0, 0xb0), (2, 3, 0xc0, 0xd0)];
    for (one, other, first, second) in cycles {
        scene.lock(first, LockKind::Spin, Some(one));
        scene.lock(second, LockKind::Spin, Some(other));
        scene.cpu_waits(one as usize, WaitFor::Lock(second));
        scene.cpu_waits(other as usize, WaitFor::Lock(first));
    }
    let found = hangs(scene.watch(LONG, |_| NO_PROGRESS));
    let blamed: Vec<&[Node]> = found.iter().map(|hang| &hang.blamed[..]).collect();
    assert_eq!(blamed, [&cpus(&[0, 1])[..], &cpus(&[2, 3])[..]]);
    assert!(found.iter().all(|hang| hang.class == Class::Deadlock && hang.locks.len() == 2));
}

#[test]
fn all_tasks_of_a_cpu_that_hold_contended_locks_are_blamed() {
    let mut scene = Scene::new(1);
    let holders = ["one", "other"].map(|name| scene.task(name, 0, TaskRunState::Ready));
    for (lock, holder) in [0xa0, 0xb0].into_iter().zip(holders) {
        let waiter = scene.task("waiter", 0, TaskRunState::Blocked);
        scene.lock(lock, LockKind::Mutex, Some(holder));
        scene.task_waits(waiter, WaitFor::Lock(lock));
    }
    let hang = only(scene.watch(LONG, |_| ALL_MOVES));
    assert_eq!((hang.class, hang.blamed), (Class::LockWait, holders.map(Node::Task).to_vec()));
    assert_eq!(hang.victims, [2, 3].map(Node::Task));
}
