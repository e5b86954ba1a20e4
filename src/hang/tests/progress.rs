//! CPUs without progress: which class they are, and when.

use std::time::Duration;

use super::scene::*;
use crate::hang::*;
use crate::kernel::{Reading, TaskRunState, WaitFor};

#[test]
fn a_healthy_guest_does_not_hang() {
    assert_eq!(Scene::new(4).watch(10 * LONG, |_| ALL_MOVES), None);
}

#[test]
fn a_cpu_without_ticks_is_a_hard_lockup_after_the_bound() {
    let mut scene = Scene::new(3);
    scene.spins(1, false);
    let verdict = scene.watch(LONG, stalled(&[1], NO_PROGRESS));
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(10));
    let hang = only(verdict);
    assert_eq!((hang.class, hang.blamed), (Class::HardLockup, cpus(&[1])));
    assert_eq!((hang.locks, hang.victims), (vec![], vec![]));
}

#[test]
fn a_spinning_cpu_with_ticks_is_a_soft_lockup() {
    let mut scene = Scene::new(2);
    scene.spins(0, true);
    let hang = only(scene.watch(LONG, stalled(&[0], NO_LOOP)));
    assert_eq!((hang.class, hang.blamed), (Class::SoftLockup, cpus(&[0])));
}

/// The CPU has interrupts off nearly all the time: KVM may find no moment to inject a tick.
#[test]
fn a_cpu_with_a_main_loop_and_no_tick_does_not_hang() {
    let mut scene = Scene::new(2);
    scene.spins(0, false);
    assert_eq!(scene.watch(10 * LONG, stalled(&[0], NO_TICK)), None);
}

#[test]
fn a_halt_is_dead_only_with_interrupts_off() {
    for (interrupts_on, class) in [(false, Class::DeadHalt), (true, Class::HardLockup)] {
        let mut scene = Scene::new(2);
        scene.halts(1, interrupts_on);
        let hang = only(scene.watch(LONG, stalled(&[1], NO_PROGRESS)));
        assert_eq!((hang.class, hang.blamed), (class, cpus(&[1])));
    }
}

#[test]
fn progress_resets_the_age() {
    let mut scene = Scene::new(1);
    scene.spins(0, true);
    let bounds = Bounds::new(Some(BOUND));
    let verdict = scene.watch_with(bounds, 10 * LONG, |scene, poll| {
        // Every 0.9 s, just in time.
        scene.pass(POLL, |_| if poll % 9 == 0 { ALL_MOVES } else { NO_PROGRESS });
    });
    assert_eq!(verdict, None);
}

#[test]
fn a_cpu_that_the_host_does_not_run_does_not_hang() {
    let mut scene = Scene::new(2);
    scene.spins(1, false);
    scene.hosted[1] = false;
    assert_eq!(scene.watch(10 * LONG, stalled(&[1], NO_PROGRESS)), None);
}

#[test]
fn a_cpu_that_the_host_has_not_run_for_long_is_starved() {
    let mut scene = Scene::new(2);
    scene.spins(1, false);
    scene.hosted[1] = false;
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.starved = Some(BOUND * 3);
    let verdict = scene.watch_with(bounds, 10 * LONG, |scene, _| {
        scene.pass(POLL, stalled(&[1], NO_PROGRESS));
    });
    let Some((30, Verdict::Starved(starved))) = verdict else { panic!("{verdict:?}") };
    assert_eq!((starved.cpus, starved.ran), (vec![1], Duration::ZERO));
}

/// All vCPU threads are stopped: no pause is answered, and without registers no kernel state is found.
#[test]
fn an_unreadable_guest_is_starved_if_the_host_does_not_run_it() {
    let unreadable = || Reading::Unreadable { unreadable: "no vCPU has registers".into() };
    for hosted in [false, true] {
        let mut scene = Scene::new(2);
        scene.spins(0, true);
        scene.spins(1, true);
        scene.hosted = vec![hosted; 2];
        let mut bounds = Bounds::new(Some(BOUND));
        bounds.starved = Some(BOUND * 3);
        let mut detector = Detector::new(bounds, POLL);
        detector.set_ready();
        let looked = (0..40).find_map(|poll| {
            scene.pass(POLL, |_| ALL_MOVES);
            let now = Observation { kernel: unreadable(), ..scene.now.clone() };
            Some((poll, detector.judge(now)?))
        });
        match looked {
            Some((30, Verdict::Starved(starved))) if !hosted => assert_eq!(starved.cpus, [0, 1]),
            None if hosted => {}
            other => panic!("hosted: {hosted}, {other:?}"),
        }
    }
}

#[test]
fn a_guest_whose_vcpus_do_not_answer_is_starved() {
    let mut scene = Scene::new(2);
    for cpu in 0..2 {
        scene.spins(cpu, false);
        scene.hosted[cpu] = false;
    }
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.starved = Some(BOUND * 3);
    let mut detector = Detector::new(bounds, POLL);
    detector.set_ready();
    let unreadable = || Reading::Unreadable { unreadable: "no answer".into() };
    let verdict = (0..10 * LONG).find_map(|poll| {
        scene.pass(POLL, |_| NO_PROGRESS);
        let suspicious = detector.observe(scene.now.clone()).suspicious;
        let stopped = Observation { kernel: unreadable(), ..scene.now.clone() };
        suspicious.then(|| (poll, detector.judge(stopped)))
    });
    let Some((30, Some(Verdict::Starved(starved)))) = verdict else { panic!("{verdict:?}") };
    assert_eq!(starved.cpus, [0, 1]);
}

#[test]
fn ages_are_kept_while_a_kernel_cannot_be_read() {
    let mut scene = Scene::new(2);
    scene.spins(1, false);
    let mut detector = Detector::new(Bounds::new(Some(BOUND)), POLL);
    detector.set_ready();
    let verdict = (0..LONG).find_map(|poll| {
        scene.pass(POLL, stalled(&[1], NO_PROGRESS));
        let mut now = scene.now.clone();
        if (3..6).contains(&poll) {
            now.kernel = Reading::Unreadable { unreadable: "no answer".into() };
        }
        Some((poll, detector.judge(now)?))
    });
    // At most two of the four polls between two states that were read count.
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(12));
    assert_eq!(only(verdict).class, Class::HardLockup);
}

#[test]
fn pending_work_is_a_livelock_if_busy_else_a_lost_wakeup() {
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
fn a_lost_wakeup_blames_the_task_that_has_slept_long() {
    let mut scene = Scene::new(2);
    let worker = scene.task("worker", 1, TaskRunState::Blocked);
    let napper = scene.task("napper", 1, TaskRunState::Blocked);
    let elsewhere = scene.task("elsewhere", 0, TaskRunState::Blocked);
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
fn work_that_gets_done_is_never_a_hang() {
    let mut scene = Scene::new(1);
    scene.cpu(0).work_queued = 1_000_000;
    let verdict = scene.watch_with(Bounds::new(Some(BOUND)), 10 * LONG, |scene, poll| {
        scene.pass(POLL, |_| ALL_MOVES);
        scene.cpu(0).work_done += u64::from(poll % 5 == 0);
    });
    assert_eq!(verdict, None);
}

#[test]
fn a_disabled_class_is_not_reported() {
    let mut scene = Scene::new(2);
    scene.spins(0, true);
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::SoftLockup, None);
    let verdict = scene.watch_with(bounds, LONG, |scene, _| {
        scene.pass(POLL, stalled(&[0], NO_LOOP));
    });
    assert_eq!(verdict, None);
}
