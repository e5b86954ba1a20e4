//! Hangs that are reported together, and guests that make no progress for a good reason.

use super::scene::*;
use crate::hang::*;
use crate::kernel::Reading;

/// Returns the class, the blamed parties and the verdict's weight of each hang.
fn found(verdict: Option<(u32, Verdict)>) -> Vec<(Class, Vec<Node>, bool)> {
    let row = |hang: DetectedHang| (hang.class, hang.blamed, hang.certainty.is_verdict());
    hangs(verdict).into_iter().map(row).collect()
}

#[test]
fn independent_hangs_of_two_classes_are_reported_together() {
    let mut scene = Scene::new(4);
    scene.halts(1, false);
    scene.spins(2, false);
    scene.spins(3, true);
    let verdict = scene.watch(LONG, |cpu| match cpu {
        1 | 2 => NO_PROGRESS,
        3 => NO_LOOP,
        _ => ALL_MOVES,
    });
    let wanted = [
        (Class::DeadHalt, cpus(&[1]), true),
        (Class::HardLockup, cpus(&[2]), true),
        (Class::SoftLockup, cpus(&[3]), true),
    ];
    assert_eq!(found(verdict), wanted);
}

#[test]
fn a_hang_far_from_its_bound_is_suspected_beside_another() {
    let mut scene = Scene::new(3);
    scene.halts(1, false);
    scene.spins(2, true);
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::SoftLockup, Some(BOUND * 30));
    let mut detector = Detector::new(bounds, POLL);
    detector.set_ready();
    let mut verdicts = (1..=400).filter_map(|poll| {
        scene.pass(POLL, |cpu| [ALL_MOVES, NO_PROGRESS, NO_LOOP][cpu]);
        Some((poll, detector.judge(scene.now.clone())?))
    });
    let first = verdicts.next();
    assert_eq!(first.as_ref().map(|(poll, _)| *poll), Some(11));
    let wanted = [(Class::DeadHalt, cpus(&[1]), true), (Class::SoftLockup, cpus(&[2]), false)];
    assert_eq!(found(first), wanted);
    // It is reported again once it is due, and only then.
    let second = verdicts.next();
    assert_eq!(second.as_ref().map(|(poll, _)| *poll), Some(301));
    assert_eq!(found(second), [(Class::SoftLockup, cpus(&[2]), true)]);
    assert_eq!(verdicts.next(), None);
}

#[test]
fn a_cpu_that_has_stopped_lately_does_not_join_a_hang() {
    let mut scene = Scene::new(3);
    scene.halts(1, false);
    scene.spins(2, true);
    let bounds = Bounds::new(Some(BOUND * 2));
    let verdict = scene.watch_with(bounds, LONG * 2, |scene, poll| {
        let late = if poll > 12 { NO_LOOP } else { ALL_MOVES };
        scene.pass(POLL, |cpu| [ALL_MOVES, NO_PROGRESS, late][cpu]);
    });
    assert_eq!(found(verdict), [(Class::DeadHalt, cpus(&[1]), true)]);
}

/// A CPU near its bound may be in a section that ends in time, or the second half of what has happened.
#[test]
fn a_hang_waits_for_a_cpu_near_its_bound() {
    let two_roots = |ends: bool| {
        let mut scene = Scene::new(3);
        scene.halts(1, false);
        scene.spins(2, true);
        let bounds = Bounds::new(Some(BOUND * 2));
        let verdict = scene.watch_with(bounds, LONG * 3, |scene, poll| {
            let late = if poll > 9 && !(ends && poll > 21) { NO_LOOP } else { ALL_MOVES };
            scene.pass(POLL, |cpu| [ALL_MOVES, NO_PROGRESS, late][cpu]);
        });
        (verdict.as_ref().map(|(poll, _)| *poll), found(verdict))
    };
    let (poll, hangs) = two_roots(true);
    assert_eq!((poll, hangs), (Some(22), vec![(Class::DeadHalt, cpus(&[1]), true)]));
    let (poll, hangs) = two_roots(false);
    let both = [(Class::DeadHalt, cpus(&[1]), true), (Class::SoftLockup, cpus(&[2]), true)];
    assert_eq!((poll, hangs), (Some(24), both.to_vec()));
}

fn halted(timer_armed: Option<bool>) -> Option<VcpuSample> {
    Some(VcpuSample { timer_armed, ..sample(true, true) })
}

#[test]
fn a_halted_cpu_whose_timer_is_armed_idles_however_long() {
    for (timer_armed, hangs) in [(Some(true), false), (Some(false), true), (None, true)] {
        let mut scene = Scene::new(2);
        scene.now.vcpus[1].sample = halted(timer_armed);
        let verdict = scene.watch(10 * LONG, stalled(&[1], NO_PROGRESS));
        assert_eq!(verdict.is_some(), hangs, "{timer_armed:?}");
    }
}

/// A wait in HLT somewhere else than in the main loop. Its tick goes on, but not at the moment of the stop.
#[test]
fn a_loop_around_hlt_that_takes_ticks_is_a_soft_lockup() {
    let mut scene = Scene::new(2);
    scene.now.vcpus[1].sample = halted(Some(true));
    let verdict = scene.watch_with(Bounds::new(Some(BOUND)), LONG, |scene, poll| {
        let how = if poll % 2 == 0 { NO_PROGRESS } else { NO_LOOP };
        scene.pass(POLL, stalled(&[1], how));
    });
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(10));
    let hang = only(verdict);
    assert_eq!((hang.class, hang.blamed), (Class::SoftLockup, cpus(&[1])));
}

#[test]
fn an_armed_timer_is_read_again_after_the_halt() {
    let mut scene = Scene::new(1);
    scene.now.vcpus[0].sample = halted(Some(true));
    let mut detector = Detector::new(Bounds::new(Some(BOUND)), POLL);
    detector.set_ready();
    let mut suspicions = Vec::new();
    for poll in 1..=40 {
        scene.pass(POLL, |_| NO_PROGRESS);
        scene.now.vcpus[0].counts.halts = Some(u64::from(poll > 30));
        // A running guest is observed without samples.
        let mut seen = scene.now.clone();
        seen.vcpus[0].sample = None;
        if detector.observe(seen).suspicious {
            suspicions.push(poll);
            assert_eq!(detector.judge(scene.now.clone()), None);
        }
    }
    assert_eq!(suspicions, [11, 31]);
}

/// Sleep until now is no time in which the CPU executed something else.
#[test]
fn a_cpu_that_has_just_been_woken_does_not_hang() {
    let mut scene = Scene::new(1);
    let verdict = scene.watch_with(Bounds::new(Some(BOUND)), 3 * LONG, |scene, poll| {
        scene.now.vcpus[0].sample = halted(Some(true));
        if poll == 2 * LONG {
            scene.now.vcpus[0].sample = Some(sample(false, true));
        }
        scene.pass(POLL, |_| NO_PROGRESS);
    });
    assert_eq!(verdict, None);
}

#[test]
fn a_kernel_stopped_by_its_debugger_does_not_age() {
    let mut scene = Scene::new(2);
    scene.spins(0, false);
    scene.spins(1, false);
    scene.kernel().in_debugger = Some(0);
    let mut detector = Detector::new(Bounds::new(Some(BOUND)), POLL);
    detector.set_ready();
    let verdict = (1..=100).find_map(|poll| {
        scene.kernel().in_debugger = (poll <= 40).then_some(0);
        scene.pass(POLL, |_| NO_PROGRESS);
        Some((poll, detector.judge(scene.now.clone())?))
    });
    assert_eq!(verdict.as_ref().map(|(poll, _)| *poll), Some(51));
}

/// The other CPU has long had its interrupts on.
#[test]
fn the_grace_before_the_first_interrupt_is_per_cpu() {
    let mut scene = Scene::new(2);
    scene.spins(1, false);
    let mut bounds = Bounds::new(Some(BOUND));
    bounds.set(Class::BootStall, Some(BOUND * 3));
    bounds.set(Class::Silent, None);
    let mut at_work = |bounds: &Bounds, interrupt_at: u32| {
        let verdict = scene.watch_with(bounds.clone(), 100, |scene, poll| {
            scene.pass_unknown(POLL);
            scene.now.vcpus[1].sample = Some(sample(false, poll == interrupt_at));
        });
        (verdict.as_ref().map(|(poll, _)| *poll), only(verdict).blamed)
    };
    assert_eq!(at_work(&bounds, 0), (Some(30), cpus(&[1])));
    assert_eq!(at_work(&bounds, 3), (Some(14), cpus(&[1])));
}

impl Scene {
    /// Advances the host's clocks alone: the kernel is unknown.
    fn pass_unknown(&mut self, interval: std::time::Duration) {
        self.now.kernel = Reading::Unknown;
        self.now.at += interval;
        for vcpu in &mut self.now.vcpus {
            let times = vcpu.times.as_mut().expect("times");
            if !times.asleep {
                times.run += interval;
            }
        }
    }
}
