//! Guests that are not ready yet, and guests that panic.

use super::scene::*;
use crate::hang::*;
use crate::kernel::WaitFor;

#[test]
fn a_boot_stall_blames_the_cpu_that_the_boot_cpu_waits_for() {
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
            scene.pass(POLL, |_| NO_PROGRESS);
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
fn a_panic_with_a_silent_console_is_not_a_hang() {
    let mut scene = Scene::new(2);
    scene.kernel().panicking = Some(1);
    let verdict = scene.watch(LONG, |_| NO_PROGRESS);
    assert!(matches!(verdict, Some((10, Verdict::Panicked(1)))), "{verdict:?}");
}

#[test]
fn a_panic_that_keeps_printing_is_reported_later() {
    let mut scene = Scene::new(2);
    scene.kernel().panicking = Some(1);
    let verdict = scene.watch_with(Bounds::new(Some(BOUND)), 20 * LONG, |scene, _| {
        scene.now.console_bytes += 1;
        scene.pass(POLL, |_| ALL_MOVES);
    });
    assert!(matches!(verdict, Some((300, Verdict::Panicked(1)))), "{verdict:?}");
}

#[test]
fn a_panic_of_a_cpu_that_does_not_exist_is_ignored() {
    let mut scene = Scene::new(2);
    scene.kernel().panicking = Some(2);
    assert_eq!(scene.watch(10 * LONG, |_| ALL_MOVES), None);
    scene.spins(0, false);
    assert_eq!(only(scene.watch(LONG, stalled(&[0], NO_PROGRESS))).class, Class::HardLockup);
}

#[test]
fn a_boot_that_waits_for_a_starved_cpu_is_starved() {
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
        scene.pass(POLL, |_| NO_PROGRESS);
        Some((poll, detector.judge(scene.now.clone())?))
    });
    let Some((50, Verdict::Starved(starved))) = verdict else { panic!("{verdict:?}") };
    assert_eq!(starved.cpus, [1]);
}
