//! Histories on a real `/dev/kvm`: the minute before a backtrace has the ticks of a guest that makes progress,
//! none of a vCPU that hangs, and no own time while the host does not run the VM.
//!
//! Times are compared with each other alone: the host may be slow.

use std::thread;
use std::time::Duration;

use crate::common::*;
use nmiscope_report::{Class, CpuHistory, History, Report, strips};
use rustix::process::Signal;

#[track_caller]
fn history(report: &Report) -> &History {
    let backtrace = report.backtraces.last().expect("a backtrace");
    let history = backtrace.history.as_ref().expect("a history");
    let slots = history.wall_ms.0.len();
    for cpu in &history.cpus {
        let CpuHistory { cpu: _, own_ms, ran_ms, ticks, schedules, interrupts, halts } = cpu;
        for series in [own_ms, ran_ms, ticks, schedules, interrupts, halts].into_iter().flatten() {
            assert_eq!(series.0.len(), slots, "{cpu:?}");
        }
    }
    history
}

/// Returns the number that a series of a known kernel has for a slot.
fn ticks(cpu: &CpuHistory, slot: usize) -> Option<u32> {
    cpu.ticks.as_ref().expect("ticks of a known kernel").get(slot)
}

fn own(cpu: &CpuHistory, slot: usize) -> u32 {
    cpu.own_ms.as_ref().and_then(|own| own.get(slot)).unwrap_or(0)
}

#[test]
fn vcpu_that_hangs_has_no_ticks_after_its_suspicion_began() {
    let arguments = ["--hang-after", "2s", "--hang-after", "starved=10m", "--core", "hang.core"];
    let run = run_workload("spin-irqs-off", 4).args(arguments).run().expect_code(exit::HANG);
    let report = run.report();
    let history = history(&report);
    let core = run.directory.path().join("hang.core");
    let of_core = nmiscope(["report".as_ref(), core.as_os_str()]).with_report().run().report();
    assert_eq!(of_core.backtraces[0].history.as_ref(), Some(history));
    let suspicion = history.suspicions.iter().find(|past| past.class == Class::HardLockup);
    let suspicion = suspicion.expect("a suspicion of the hang");
    assert_eq!((&suspicion.parties[..], suspicion.ended_at_ms), (&["cpu2".to_owned()][..], None));
    let [nmis] = &history.nmis[..] else { panic!("{:?}", history.nmis) };
    assert_eq!((nmis.at_ms, &nmis.cpus[..]), (report.backtraces[0].at_ms, &[0, 1, 2, 3][..]));
    let first_after = (0..history.wall_ms.0.len())
        .find(|&slot| {
            let start = history.starts_at_ms + (slot as f64) * f64::from(history.slot_ms);
            start >= suspicion.began_at_ms
        })
        .expect("a slot after the beginning: the bound is longer than a slot");
    let all = first_after..history.wall_ms.0.len();
    assert!(
        all.clone().all(|slot| ticks(&history.cpus[2], slot).unwrap_or(0) == 0),
        "{history:#?}"
    );
    let others = history.cpus.iter().filter(|cpu| cpu.cpu != 2);
    for cpu in others {
        assert!(all.clone().any(|slot| ticks(cpu, slot) > Some(0)), "{cpu:?}");
    }
}

#[test]
fn healthy_guest_ticks_in_every_slot_in_which_the_host_runs_it() {
    let running = run_workload("busy", 2).args(["--hang-after", "30s"]).start();
    running.wait_for("guest ready", 1);
    thread::sleep(Duration::from_secs(3));
    running.signal(Signal::QUIT);
    running.wait_for("backtrace requested by SIGQUIT", 1);
    running.signal(Signal::INT);
    let report = running.wait().expect_code(exit::CLEAN).report();
    let history = history(&report);
    for cpu in &history.cpus {
        // The first slots may lie before the kernel's structures were found.
        let known = (0..history.wall_ms.0.len()).filter(|&slot| ticks(cpu, slot).is_some());
        let mut had_time = known.skip(1).filter(|&slot| own(cpu, slot) * 2 > history.slot_ms);
        assert!(had_time.all(|slot| ticks(cpu, slot) > Some(0)), "{cpu:?}");
    }
    assert_eq!(strips::sentences(&report.backtraces[0]).len(), 2);
}

#[test]
fn stopped_process_gives_its_vcpus_no_own_time() {
    let running = run_workload("busy", 2).args(["--hang-after", "10m"]).start();
    running.wait_for("guest ready", 1);
    thread::sleep(Duration::from_secs(1));
    running.signal(Signal::STOP);
    thread::sleep(Duration::from_secs(4));
    running.signal(Signal::CONT);
    thread::sleep(Duration::from_secs(1));
    running.signal(Signal::QUIT);
    running.wait_for("backtrace requested by SIGQUIT", 1);
    running.signal(Signal::INT);
    let report = running.wait().expect_code(exit::CLEAN).report();
    let history = history(&report);
    for cpu in &history.cpus {
        let slots = 0..history.wall_ms.0.len();
        let last = slots.clone().rfind(|&slot| ticks(cpu, slot) > Some(0)).expect("ticks");
        let first = slots.clone().find(|&slot| ticks(cpu, slot) > Some(0)).expect("ticks");
        let missing: Vec<usize> =
            (first..last).filter(|&slot| ticks(cpu, slot).is_none()).collect();
        // Four seconds have seven whole slots.
        assert!(missing.len() >= 7, "{cpu:?}");
        let sum = |time: &dyn Fn(usize) -> u32| missing.iter().map(|&slot| time(slot)).sum::<u32>();
        let (own, wall) =
            (sum(&|slot| own(cpu, slot)), sum(&|slot| history.wall_ms.get(slot).unwrap_or(0)));
        assert!(wall >= 3_500 && own < wall / 4, "{own} of {wall} ms: {cpu:?}");
    }
}
