//! Tests that the guest runs after the tool has ended in any way, and that a guest that was stopped before
//! stays stopped.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nmiscope_qemu::{Address, Deadlines, Qmp};
use rustix::process::{Signal, kill_process};

use super::vm::{PATIENCE, Vm};
use crate::common::*;

/// Number of moments at which each of the three signals is sent: 51 in all.
const MOMENTS: u64 = 17;

/// Waits until the tool has stopped the guest. Returns false if the tool ends first.
fn wait_for_the_pause(vm: &mut Vm, tool: &mut Running) -> bool {
    loop {
        if vm.run_state() == "paused" {
            return true;
        }
        if tool.child.try_wait().expect("a child").is_some() {
            return false;
        }
    }
}

/// Waits until neither the tool nor its guardian holds the tool's monitor.
fn wait_for_the_guardians_end(vm: &Vm) {
    let deadlines = Deadlines { connect: PATIENCE, greeting: PATIENCE, ..Deadlines::default() };
    Qmp::connect(&Address::Path(vm.path("qmp")), &deadlines).expect("a free monitor");
}

/// Measures the time of an attach on this machine, over which the moments are spread.
fn measure_attach(vm: &Vm) -> Duration {
    let start = Instant::now();
    vm.attach().run().expect_code(exit::CLEAN);
    start.elapsed()
}

fn assert_signal_leaves_the_guest_running(signal: Signal) {
    let mut vm = Vm::start("idle", 2);
    let whole = measure_attach(&vm);
    let mut paused = 0;
    for moment in 0..MOMENTS {
        let mut tool = vm.attach().start();
        // Half of the moments are within the pause, and half are anywhere.
        if moment % 2 == 0 {
            paused += u64::from(wait_for_the_pause(&mut vm, &mut tool));
            sleep(Duration::from_micros(moment * 300));
        } else {
            sleep(whole * moment as u32 / MOMENTS as u32);
        }
        // The tool may have ended; if so, it was reaped and its PID must not be used.
        if tool.child.try_wait().expect("a child").is_none() {
            kill_process(tool.pid(), signal).expect("a signal");
        }
        tool.wait();
        wait_for_the_guardians_end(&vm);
        assert_eq!(vm.run_state(), "running", "{signal:?}, moment {moment}");
    }
    assert!(paused > 0, "no signal came within a pause");
}

#[test]
#[ignore = "needs QEMU"]
fn attach_interrupted_at_any_moment_leaves_the_guest_running() {
    assert_signal_leaves_the_guest_running(Signal::INT);
}

#[test]
#[ignore = "needs QEMU"]
fn attach_terminated_at_any_moment_leaves_the_guest_running() {
    assert_signal_leaves_the_guest_running(Signal::TERM);
}

#[test]
#[ignore = "needs QEMU"]
fn attach_killed_at_any_moment_leaves_the_guest_running() {
    assert_signal_leaves_the_guest_running(Signal::KILL);
}

#[test]
#[ignore = "needs QEMU"]
fn guest_stopped_before_stays_stopped_and_is_reported_so() {
    let mut vm = Vm::start("idle", 2);
    measure_attach(&vm);
    vm.execute("stop", &serde_json::Value::Null);
    let attached = vm.attach().with_report().run().expect_code(exit::CLEAN);
    assert!(attached.stdout.contains("paused before, and left so"), "{}", attached.all());
    let visit = attached.report().visit.expect("a visit");
    assert_eq!((visit.run_state.as_str(), visit.stopped_ms, visit.torn), ("paused", None, false));
    wait_for_the_guardians_end(&vm);
    assert_eq!(vm.run_state(), "paused");
    // Killing the tool while the guest is stopped changes nothing either.
    let tool = vm.attach().start();
    sleep(Duration::from_millis(50));
    tool.kill();
    tool.wait();
    wait_for_the_guardians_end(&vm);
    assert_eq!(vm.run_state(), "paused");
}

#[test]
#[ignore = "needs QEMU"]
fn report_without_time_for_a_pause_is_torn() {
    let mut vm = Vm::hung("abba-deadlock", 2);
    let attached = vm.attach().with_report().args(["--max-pause", "0ms"]).run();
    let visit = attached.expect_code(exit::HANG).report().visit.expect("a visit");
    assert!(visit.torn && visit.stopped_ms.is_some(), "{visit:?}");
    assert_eq!(vm.run_state(), "running");
    let patient = vm.attach().with_report().args(["--max-pause", "30s"]).run();
    let visit = patient.expect_code(exit::HANG).report().visit.expect("a visit");
    assert!(!visit.torn && visit.stopped_ms.is_some(), "{visit:?}");
    assert_eq!((visit.run_state.as_str(), vm.run_state().as_str()), ("running", "running"));
}
