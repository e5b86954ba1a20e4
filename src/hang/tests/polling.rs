//! Polling: the times at which a guest is stopped to be judged, and the results that are new after the
//! first.

use super::scene::*;
use crate::hang::*;
use crate::kernel::{LockKind, Reading, TaskRunState, WaitFor};

#[test]
fn time_spent_judging_does_not_count() {
    let mut scene = Scene::new(1);
    let mut detector = Detector::new(Bounds::new(Some(BOUND)), POLL);
    detector.set_ready();
    detector.observe(scene.now.clone());
    for _ in 0..9 {
        scene.pass(POLL, |_| NO_PROGRESS);
        assert_eq!(detector.judge(scene.now.clone()), None);
        scene.now.at += POLL;
        detector.resumed(scene.now.at);
    }
    scene.pass(POLL, |_| NO_PROGRESS);
    assert!(detector.judge(scene.now.clone()).is_some(), "the time between counts");
}

#[test]
fn time_without_observations_does_not_count() {
    let mut scene = Scene::new(1);
    scene.spins(0, false);
    let bounds = Bounds::new(Some(BOUND));
    // Ten seconds of SIGSTOP in the middle of half a second without progress.
    let verdict = scene.watch_with(bounds, 6, |scene, poll| {
        let interval = if poll == 3 { BOUND * 10 } else { POLL };
        scene.pass(interval, |_| NO_PROGRESS);
    });
    assert_eq!(verdict, None);
}

/// A requested backtrace is not progress.
#[test]
fn a_stop_for_a_backtrace_resets_no_age() {
    let mut scene = Scene::new(1);
    scene.spins(0, false);
    let mut detector = Detector::new(Bounds::new(Some(BOUND)), POLL);
    detector.set_ready();
    detector.observe(scene.now.clone());
    let verdict = (1..=LONG).find_map(|poll| {
        scene.pass(POLL, |_| NO_PROGRESS);
        if poll == 5 {
            detector.resumed(scene.now.at);
        }
        Some((poll, detector.judge(scene.now.clone())?))
    });
    // The interval in which it was stopped does not count.
    assert_eq!(verdict.map(|(poll, _)| poll), Some(11));
}

/// Samples reach the judge alone, and are valid until something moves.
#[test]
fn a_guest_is_not_stopped_again_before_its_class_is_due() {
    let mut scene = Scene::new(1);
    scene.halts(0, false);
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::DeadHalt, Some(BOUND * 5));
    let mut detector = Detector::new(bounds, POLL);
    detector.set_ready();
    let mut stops = Vec::new();
    let verdict = (0..=6 * LONG).find_map(|poll| {
        scene.pass(POLL, |_| NO_PROGRESS);
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

/// A guest that continues with its hangs: each is reported once, and its end too.
#[test]
fn each_hang_of_a_continued_guest_begins_and_ends_once() {
    let mut scene = Scene::new(4);
    let mut detector = Detector::new(Bounds::new(Some(BOUND)), POLL);
    detector.set_ready();
    let mut reported = Vec::new();
    for poll in 0..80 {
        // CPU 1 spins for 4 s, CPU 2 halts for good after 2 s, and after 3 s CPU 3 waits for CPU 1's
        // lock.
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
        scene.pass(POLL, stalled(&stuck, NO_PROGRESS));
        let result = detector.observe(scene.now.clone());
        reported.extend(result.ended.into_iter().map(|number| (poll, format!("{number} is over"))));
        if result.suspicious
            && let Some(Verdict::Hangs(found)) = detector.judge(scene.now.clone())
        {
            let hangs = found.hangs.iter();
            reported.extend(hangs.map(|hang| (poll, format!("{} {:?}", hang.class, hang.blamed))));
        }
    }
    let expected = [(10, "hard-lockup [Cpu(1)]"), (29, "dead-halt [Cpu(2)]"), (40, "0 is over")];
    assert_eq!(reported, expected.map(|(poll, what)| (poll, what.to_owned())));
}

/// Degree of knowledge of a guest.
#[derive(Clone, Copy, PartialEq)]
enum Knowledge {
    Booting,
    Ready,
    Unknown,
}

/// Returns in how many milliseconds the next value is due, for a guest of two CPUs observed for 400.
fn due_in(
    guest: Knowledge,
    bounds: &Bounds,
    set_up: fn(&mut Scene),
    pass: fn(&mut Scene),
) -> Option<u128> {
    let mut scene = Scene::new(2);
    set_up(&mut scene);
    let mut detector = Detector::new(bounds.clone(), POLL);
    if guest != Knowledge::Booting {
        detector.set_ready();
    }
    let seen = |scene: &Scene| {
        let kernel = match guest {
            Knowledge::Unknown => Reading::Unknown,
            _ => scene.now.kernel.clone(),
        };
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
fn the_next_look_is_when_the_first_stalled_value_is_due() {
    let row = |set_up, pass| due_in(Knowledge::Ready, &Bounds::new(Some(BOUND)), set_up, pass);
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
        let task = scene.task("waiter", 1, TaskRunState::Blocked);
        scene.task_waits(task, WaitFor::Lock(0xa0));
    };
    assert_eq!(row(task_waits, nothing), Some(600));

    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::SoftLockup, Some(BOUND / 2));
    let waits = |scene: &mut Scene| scene.cpu_waits(1, WaitFor::Lock(0xa0));
    assert_eq!(due_in(Knowledge::Ready, &bounds, waits, stops_loop), Some(100));
    // Over its bound.
    bounds.set(Class::SoftLockup, Some(BOUND / 4));
    assert_eq!(due_in(Knowledge::Ready, &bounds, waits, stops_loop), Some(600));

    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::BootStall, Some(BOUND * 2));
    assert_eq!(due_in(Knowledge::Booting, &bounds, nothing, stops_all), Some(1600));
    bounds.set(Class::Silent, Some(BOUND * 3));
    let unknown = |set_up, pass| due_in(Knowledge::Unknown, &bounds, set_up, pass);
    assert_eq!(unknown(|scene| scene.spins(1, false), nothing), Some(600));
    assert_eq!(unknown(|scene| scene.halts(1, false), nothing), Some(600));
    assert_eq!(unknown(|scene| scene.spins(1, true), nothing), Some(2600));
    assert_eq!(unknown(|scene| scene.spins(1, true), |scene| scene.now.console_bytes += 1), None);
}

#[test]
fn values_unchanged_for_a_good_reason_bring_no_look_forward() {
    let row = |set_up: fn(&mut Scene)| {
        due_in(Knowledge::Ready, &Bounds::new(Some(BOUND)), set_up, |_| {})
    };
    assert_eq!(row(|_| {}), None);
    let sleeps = |scene: &mut Scene| {
        let task = scene.task("sleeper", 0, TaskRunState::Blocked);
        scene.task_waits(task, WaitFor::Queue(0xcc));
    };
    assert_eq!(row(sleeps), None);
    let has_waited = |scene: &mut Scene| {
        let task = scene.task("runner", 0, TaskRunState::Blocked);
        scene.task_waits(task, WaitFor::Lock(0xa0));
        scene.kernel().tasks[task as usize].as_mut().expect("a task").state = TaskRunState::Ready;
    };
    assert_eq!(row(has_waited), None);
    let done = |scene: &mut Scene| {
        scene.cpu(0).work_queued = 7;
        scene.cpu(0).work_done = 7;
    };
    assert_eq!(row(done), None);
}
