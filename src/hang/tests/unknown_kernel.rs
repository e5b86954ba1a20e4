//! Guests whose kernel is unknown: outside observation alone.

use nmiscope_machine::{HostCounts, HostTimes};

use super::scene::*;
use crate::hang::*;
use crate::kernel::{CpuActivity, KernelState, Reading};

/// Returns the class of a guest with one vCPU and an unknown kernel, observed for three times the longest
/// bound. `what` changes each observation.
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
        let cpus = vec![Some(CpuActivity::default())];
        scene.now.kernel = Reading::Known(KernelState { cpus, ..KernelState::default() });
        scene.pass(POLL, |_| ALL_MOVES);
        scene.now.kernel = Reading::Unknown;
        what(&mut scene.now, poll);
    });
    verdict.map(|verdict| hangs(Some(verdict))[0].class)
}

#[test]
fn interrupt_flag_and_console_decide_the_class_of_an_unknown_kernel() {
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

/// The kernel may take a while before it enables interrupts.
#[test]
fn a_booting_unknown_kernel_may_have_interrupts_off_for_longer() {
    let mut scene = Scene::new(1);
    scene.spins(0, false);
    scene.now.kernel = Reading::Unknown;
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

/// Samples by chance never show interrupts on, or never HLT.
#[test]
fn the_hosts_counts_outweigh_samples_of_an_unknown_kernel() {
    /// Interrupts and HLTs that each poll adds.
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
            now.vcpus[0].counts = HostCounts { interrupts: sum(interrupts), halts: sum(halts) };
        });
        assert_eq!(found, class, "{interrupts:?} interrupts, {halts:?} HLTs, {sample:?}");
    }
}

#[test]
fn a_state_follows_from_the_hosts_counts_where_possible() {
    let vcpu = |sample, interrupts, halts, asleep| ObservedVcpu {
        times: Some(HostTimes { asleep, ..HostTimes::default() }),
        sample,
        counts: HostCounts { interrupts, halts },
    };
    let (idle, dead) = (Some(sample(true, true)), Some(sample(true, false)));
    let (spins, new) = (Some(sample(false, false)), Some(VcpuSample::default()));
    let before = |sample| vcpu(sample, Some(7), Some(7), false);
    let rows = [
        // It has taken interrupts.
        (before(dead), vcpu(None, Some(8), Some(7), false), Some(sample(false, true))),
        (before(spins), vcpu(None, Some(8), Some(8), true), idle),
        // It has slept since.
        (before(dead), vcpu(None, Some(7), Some(7), true), dead),
        (before(idle), vcpu(None, Some(7), Some(7), true), idle),
        (before(new), vcpu(None, Some(7), Some(7), true), new),
        // It has halted again, woken up, or never halted.
        (before(dead), vcpu(None, Some(7), Some(8), true), None),
        (before(idle), vcpu(None, Some(7), Some(7), false), None),
        (before(new), vcpu(None, Some(7), Some(8), true), None),
        (before(spins), vcpu(None, Some(7), Some(7), true), None),
        // The host does not count.
        (vcpu(idle, None, None, true), vcpu(None, None, None, true), None),
        (before(idle), ObservedVcpu::default(), None),
        (ObservedVcpu::default(), vcpu(None, Some(7), Some(7), true), None),
    ];
    for (before, now, sample) in rows {
        assert_eq!(now.derived_sample(&before), sample, "{before:?}, then {now:?}");
    }
}

#[test]
fn an_unknown_kernel_that_halts_now_and_then_is_not_silent() {
    let found = class_of_unknown(sample(false, true), |now, poll| {
        now.vcpus[0].sample = Some(sample(poll % 7 == 0, true));
    });
    assert_eq!(found, None);
}
