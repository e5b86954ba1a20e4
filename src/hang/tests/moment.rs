//! Hangs of one moment: certain, suspected and healthy states.

use std::time::Duration;

use super::scene::*;
use crate::hang::*;
use crate::kernel::{EndsBy, LockKind, Reading, TaskRunState, WaitFor};

/// Returns the hangs of a scene that was seen once.
fn seen_once(scene: &Scene) -> Vec<DetectedHang> {
    judge_snapshot(&scene.now, &Bounds::new(Some(BOUND))).hangs
}

/// Returns the hangs of a scene that was observed for `polls` and is judged then.
fn asked_after(
    scene: &mut Scene,
    polls: u32,
    moving: impl Fn(usize) -> (bool, bool),
) -> Vec<DetectedHang> {
    let mut detector = Detector::new(Bounds::new(Some(BOUND * 10)), POLL);
    detector.set_ready();
    detector.observe(scene.now.clone());
    for _ in 0..polls {
        scene.pass(POLL, &moving);
        detector.observe(scene.now.clone());
    }
    detector.hangs_now(scene.now.clone()).expect("a kernel that can be read").hangs
}

/// Two CPUs with interrupts off that wait for each other's lock.
fn crossed() -> Scene {
    let mut scene = Scene::new(2);
    for cpu in [0, 1] {
        scene.lock(10 + cpu, LockKind::Spin, Some(cpu as u32));
    }
    scene.cpu_waits(0, WaitFor::Lock(11));
    scene.cpu_waits(1, WaitFor::Lock(10));
    scene
}

#[test]
fn a_cycle_of_locks_is_certain_at_once() {
    let [hang] = &seen_once(&crossed())[..] else { panic!("one hang") };
    assert_eq!(hang.class, Class::Deadlock);
    assert_eq!((&hang.blamed, &hang.certainty), (&cpus(&[0, 1]), &HangCertainty::Certain));
}

#[test]
fn a_cycle_with_a_wait_that_ends_by_itself_is_not_certain() {
    for ends_by in [EndsBy::Timeout, EndsBy::Signal, EndsBy::BackOff] {
        let mut scene = crossed();
        scene.cpu(1).wait.as_mut().expect("a wait").ends_by = Some(ends_by);
        assert!(seen_once(&scene).iter().all(|hang| hang.certainty != HangCertainty::Certain));
    }
}

#[test]
fn a_wait_for_ones_own_lock_may_just_be_over() {
    let mut scene = Scene::new(1);
    scene.lock(10, LockKind::Spin, Some(0));
    scene.cpu_waits(0, WaitFor::Lock(10));
    // The lock was taken after the wait began: the wait is over, and not yet taken back.
    scene.kernel().locks.get_mut(&10).expect("the lock").taken_ns = 5;
    assert_eq!(seen_once(&scene), []);
    // The wait began after that: it waits for itself.
    scene.cpu(0).wait.as_mut().expect("a wait").since_ns = 6;
    let [hang] = &seen_once(&scene)[..] else { panic!("one hang") };
    assert_eq!((hang.class, &hang.certainty), (Class::Deadlock, &HangCertainty::Certain));
}

/// CPU 0 holds a lock and waits for CPU 1's answer; CPU 1 waits for the lock. CPU 1 may be inside its
/// timer's handler, and answer afterwards.
#[test]
fn a_cycle_through_a_call_is_not_certain() {
    for interrupts_on in [false, true] {
        let mut scene = Scene::new(2);
        scene.lock(10, LockKind::Spin, Some(0));
        scene.cpu_waits(0, WaitFor::Call(1));
        scene.cpu_waits(1, WaitFor::Lock(10));
        scene.spins(1, interrupts_on);
        assert!(seen_once(&scene).iter().all(|hang| hang.certainty != HangCertainty::Certain));
    }
}

/// The lock changes hands: at this moment it has no holder, and no wait is for a party.
#[test]
fn waits_for_a_lock_without_a_holder_are_never_certain() {
    let mut scene = Scene::new(3);
    scene.lock(10, LockKind::Ticket, None);
    scene.cpu_waits(1, WaitFor::Lock(10));
    scene.cpu_waits(2, WaitFor::Lock(10));
    let verdict = scene.watch(10 * LONG, stalled(&[1, 2], NO_LOOP));
    assert!(hangs(verdict).iter().all(|hang| hang.certainty == HangCertainty::Likely));
    assert!(seen_once(&scene).iter().all(|hang| hang.certainty != HangCertainty::Certain));
}

#[test]
fn a_halt_derived_from_code_is_only_suspected_at_once() {
    let mut scene = Scene::new(2);
    scene.halts(1, false);
    scene.now.vcpus[1].sample.as_mut().expect("a sample").halt_is_derived = true;
    let [hang] = &seen_once(&scene)[..] else { panic!("one hang") };
    assert_eq!(hang.class, Class::DeadHalt);
    assert!(matches!(hang.certainty, HangCertainty::Suspected { .. }), "{hang:?}");
}

/// The VM was stopped for an hour, and one of its CPUs has ticked since.
#[test]
fn a_cpu_that_takes_interrupts_has_no_lockup_by_the_clock_alone() {
    let mut scene = Scene::new(2);
    scene.kernel().now_ns = Some(3_600_000_000_000);
    for cpu in [0, 1] {
        let last = Some(if cpu == 1 { 1 } else { 3_600_000_000_000 });
        scene.cpu(cpu).tick_ns = last;
        scene.cpu(cpu).main_loop_ns = last;
    }
    scene.spins(1, true);
    assert!(seen_once(&scene).iter().all(|hang| !hang.certainty.is_verdict()));
}

#[test]
fn a_cycle_of_mutexes_is_certain_while_all_cpus_idle() {
    let mut scene = Scene::new(2);
    let [reader, writer] = [0, 1].map(|cpu| scene.task("task", cpu, TaskRunState::Blocked));
    scene.lock(10, LockKind::Mutex, Some(reader));
    scene.lock(11, LockKind::Mutex, Some(writer));
    scene.task_waits(reader, WaitFor::Lock(11));
    scene.task_waits(writer, WaitFor::Lock(10));
    let [hang] = &seen_once(&scene)[..] else { panic!("one hang") };
    assert_eq!(hang.blamed, [Node::Task(reader), Node::Task(writer)]);
    assert_eq!(hang.certainty, HangCertainty::Certain);
}

#[test]
fn a_dead_halt_is_likely_at_once_and_has_its_victims() {
    let mut scene = Scene::new(2);
    scene.halts(1, false);
    scene.lock(10, LockKind::Spin, Some(1));
    scene.cpu_waits(0, WaitFor::Lock(10));
    let [hang] = &seen_once(&scene)[..] else { panic!("one hang") };
    assert_eq!((hang.class, &hang.certainty), (Class::DeadHalt, &HangCertainty::Likely));
    assert_eq!((&hang.blamed, &hang.victims), (&cpus(&[1]), &cpus(&[0])));
}

#[test]
fn offline_or_parked_cpus_are_not_dead_halts() {
    let mut scene = Scene::new(2);
    scene.halts(1, false);
    scene.cpu(1).online = false;
    assert_eq!(seen_once(&scene), []);
    scene.cpu(1).online = true;
    scene.kernel().panicking = Some(0);
    assert_eq!(seen_once(&scene), []);
}

#[test]
fn an_unknown_kernels_dead_halt_is_suspected_before_its_bound() {
    let mut scene = Scene::new(2);
    scene.halts(0, false);
    scene.halts(1, false);
    scene.now.kernel = Reading::Unknown;
    let mut detector = Detector::new(Bounds::new(Some(BOUND)), POLL);
    detector.set_ready();
    let mut certainties = Vec::new();
    for poll in 0..LONG {
        scene.now.at = POLL * poll;
        let found = detector.hangs_now(scene.now.clone()).expect("a guest that can be seen");
        certainties.extend(found.hangs.into_iter().map(|hang| (poll, hang.class, hang.certainty)));
    }
    assert!(certainties.len() > LONG as usize / 2, "{certainties:?}");
    for (poll, class, certainty) in certainties {
        assert_eq!(class, Class::DeadHalt);
        match POLL * poll >= BOUND {
            true => assert_eq!(certainty, HangCertainty::Likely),
            false => assert!(matches!(certainty, HangCertainty::Suspected { .. }), "{certainty:?}"),
        }
    }
}

/// A kernel that has taken no interrupt may be booting: it has as long as a known one to become ready.
#[test]
fn a_booting_unknown_kernels_lockup_is_suspected_until_ready_within() {
    let mut scene = Scene::new(1);
    scene.spins(0, false);
    scene.now.kernel = Reading::Unknown;
    let ready_within = BOUND * 30;
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::BootStall, Some(ready_within));
    let mut detector = Detector::new(bounds, POLL);
    detector.set_ready();
    let mut certainties = Vec::new();
    for poll in 0..20 * LONG {
        let found = detector.hangs_now(scene.now.clone()).expect("a guest that can be seen");
        certainties.extend(found.hangs.into_iter().map(|hang| (poll, hang.class, hang.certainty)));
        scene.now.at += POLL;
        scene.now.vcpus[0].times.as_mut().expect("times").run += POLL;
    }
    let (first, ..) = certainties.first().expect("a hang");
    assert_eq!(POLL * *first, ready_within / 10);
    for (poll, class, certainty) in certainties {
        assert_eq!(class, Class::HardLockup);
        let lasted = POLL * poll;
        match lasted >= ready_within {
            true => assert_eq!(certainty, HangCertainty::Likely),
            false => {
                assert_eq!(certainty, HangCertainty::Suspected { lasted, bound: ready_within });
            }
        }
    }
}

#[test]
fn a_lockup_is_suspected_until_it_has_lasted() {
    let mut scene = Scene::new(2);
    scene.spins(1, false);
    let [hang] = &asked_after(&mut scene, 50, stalled(&[1], NO_PROGRESS))[..] else {
        panic!("one hang")
    };
    assert_eq!((hang.class, &hang.blamed), (Class::HardLockup, &cpus(&[1])));
    let (lasted, bound) = (POLL * 50, BOUND * 10);
    assert_eq!(hang.certainty, HangCertainty::Suspected { lasted, bound });
    // A tenth of the bound is the least: a younger stall may be anything.
    let mut scene = Scene::new(2);
    scene.spins(1, false);
    assert_eq!(asked_after(&mut scene, 9, stalled(&[1], NO_PROGRESS)), []);
}

#[test]
fn a_healthy_guest_has_no_hang_at_any_moment() {
    let mut scene = Scene::new(2);
    scene.lock(10, LockKind::Spin, Some(0));
    scene.cpu_waits(1, WaitFor::Lock(10));
    assert_eq!(asked_after(&mut scene, 1, |_| ALL_MOVES), []);
    assert_eq!(seen_once(&Scene::new(4)), []);
}

/// The kernel's own clock is the only past that a dump has.
#[test]
fn a_dump_dates_a_lockup_by_the_kernels_records() {
    const SECOND: u64 = 1_000_000_000;
    for (ago, wanted) in [(5 * SECOND, Some(HangCertainty::Likely)), (SECOND / 20, None)] {
        let mut scene = Scene::new(2);
        scene.spins(1, false);
        let now = 100 * SECOND;
        scene.kernel().now_ns = Some(now);
        for cpu in [0, 1] {
            let last = if cpu == 1 { now - ago } else { now };
            scene.cpu(cpu).tick_ns = Some(last);
            scene.cpu(cpu).main_loop_ns = Some(last);
        }
        let found = seen_once(&scene);
        let found = found.first().map(|hang| (hang.class, hang.certainty.clone()));
        assert_eq!(found, wanted.map(|certainty| (Class::HardLockup, certainty)));
    }
}

#[test]
fn an_undated_wait_is_reported_with_its_doubt() {
    let mut scene = Scene::new(2);
    scene.lock(10, LockKind::Spin, Some(0));
    scene.cpu_waits(1, WaitFor::Lock(10));
    let [hang] = &seen_once(&scene)[..] else { panic!("one wait") };
    assert_eq!(hang.class, Class::LockWait);
    assert_eq!(hang.certainty, HangCertainty::Unknown { why: Doubt::NoPast });
    assert_eq!(hang.age, Duration::ZERO);
}
