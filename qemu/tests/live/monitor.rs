//! Tests of the search for monitors, and of monitors that are held or stuck.

use std::process::Command;
use std::time::Duration;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory as _};
use nmiscope_qemu::{
    Accelerator, Deadlines, FindError, ProcessHandle, ProcessMemoryError, Qemu, QemuError,
    QmpError, Readiness, ReleaseOutcome, RunState,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::guardian;
use crate::vm::{Vm, is_no_answer, patient, run_state, wait_until};

fn hasty() -> Deadlines {
    let short = Duration::from_millis(300);
    Deadlines {
        connect: short,
        greeting: short,
        command: short,
        stop: short,
        guardian: patient().guardian,
        pause: short,
    }
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn qemu_is_found_by_socket_and_by_pid() {
    let vm = Vm::start(&["-M", "pc", "-m", "64M", "-S"]);
    assert_eq!(vm.open().process().map(ProcessHandle::pid), Some(vm.pid()));
    let mut qemu = Qemu::open_pid(vm.pid(), patient()).expect("a monitor");
    assert_eq!(qemu.readiness().expect("ready"), Readiness::Stopped(RunState::PreLaunch));
    assert_eq!(qemu.accelerator().expect("an accelerator"), Accelerator::Other);
    assert_eq!(qemu.vcpus().expect("a number"), 1);
    drop(qemu);
    Qemu::open_with_pid(&vm.address(), vm.pid(), patient()).expect("a monitor");
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn monitor_and_process_of_different_vms_are_refused() {
    let [one, other] = [(); 2].map(|()| Vm::start(&["-M", "pc", "-m", "64M", "-S"]));
    let mut qemu = Qemu::open_with_pid(&one.address(), other.pid(), patient()).expect("a monitor");
    let error = qemu.memory().expect_err("another's memory");
    assert!(matches!(error, QemuError::Memory(ProcessMemoryError::Elsewhere { .. })), "{error}");
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn monitor_at_a_relative_path_or_abstract_name_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let name = format!("nmiscope-test-{}", std::process::id());
    for monitor in [
        "unix:a.qmp,server=on,wait=off".to_owned(),
        format!("unix:{name},server=on,wait=off,abstract=on"),
    ] {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-display", "none", "-nodefaults", "-S", "-qmp", &monitor]);
        let mut child = qemu.current_dir(&directory).spawn().expect("QEMU starts");
        let pid = child.id().try_into().expect("a number");
        wait_until("the monitor is found", || Qemu::open_pid(pid, hasty()).is_ok());
        child.kill().expect("QEMU ends");
        child.wait().expect("QEMU ends");
    }
}

#[test]
#[ignore = "needs qemu-system-x86_64 and root"]
fn monitor_in_another_mount_namespace_is_found() {
    let script = "mount -t tmpfs none /mnt && exec qemu-system-x86_64 -display none -nodefaults -S \
                  -qmp unix:/mnt/nmiscope.qmp,server=on,wait=off";
    let mut unshare = Command::new("unshare");
    let mut child = unshare.args(["-m", "sh", "-c", script]).spawn().expect("QEMU starts");
    let pid = child.id().try_into().expect("a number");
    wait_until("the monitor is found", || Qemu::open_pid(pid, hasty()).is_ok());
    child.kill().and_then(|()| child.wait()).expect("QEMU ends");
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn process_without_a_monitor_is_refused_with_the_option_to_add() {
    let mut child = Command::new("sleep").arg("60").spawn().expect("a process");
    let error = Qemu::open_pid(child.id() as i32, hasty()).expect_err("no QEMU");
    assert!(matches!(error, QemuError::Find(FindError::NotQemu { .. })), "{error}");
    child.kill().and_then(|()| child.wait()).expect("the process ends");
    let mut qemu = Command::new("qemu-system-x86_64");
    let mut child = qemu.args(["-display", "none", "-S"]).spawn().expect("QEMU starts");
    let error = Qemu::open_pid(child.id() as i32, hasty()).expect_err("no monitor");
    assert!(error.to_string().contains("-qmp unix:PATH"), "{error}");
    child.kill().and_then(|()| child.wait()).expect("QEMU ends");
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn second_client_of_a_held_monitor_gets_no_greeting() {
    let vm = Vm::start(&["-M", "pc", "-m", "64M", "-S"]);
    let first = vm.open();
    // The backlog takes two more clients; later ones are not even accepted.
    for _ in 0..4 {
        let error = Qemu::open(&vm.address(), hasty()).expect_err("held");
        assert!(matches!(error, QemuError::Qmp(QmpError::NoGreeting { .. })), "{error}");
    }
    // The search by PID finds the second monitor.
    let second = Qemu::open_pid(vm.pid(), hasty()).expect("a free monitor");
    let error = Qemu::open_pid(vm.pid(), hasty()).expect_err("both are held");
    assert!(matches!(error, QemuError::Qmp(QmpError::NoGreeting { .. })), "{error}");
    drop((first, second));
    vm.open();
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn stopped_qemu_process_is_left_running_after_sigcont() {
    let vm = Vm::guest("idle", &["-M", "pc", "-m", "64M", "-cpu", "max"]);
    let mut qemu = Qemu::open(&vm.address(), hasty()).expect("a monitor");
    let memory = qemu.memory().expect("memory");
    let pid = Pid::from_raw(vm.pid()).expect("a number");
    kill_process(pid, Signal::STOP).expect("a signal");
    // Memory can still be read from the process.
    memory.read(PhysicalAddress(1 << 20), &mut [0; 4096]).expect("memory");
    let error = qemu.run_state().expect_err("no answer");
    assert!(matches!(&error, QemuError::Qmp(error) if is_no_answer(error)), "{error}");
    let error = qemu.stop(guardian()).expect_err("no answer");
    assert!(
        matches!(error, QemuError::Status(_) | QemuError::Qmp(_)),
        "nothing was stopped: {error}"
    );
    kill_process(pid, Signal::CONT).expect("a signal");
    let mut second = vm.second();
    assert_eq!(run_state(&mut second), RunState::Running);
    // The late answers are dropped.
    wait_until("QEMU answers again", || qemu.run_state().is_ok());
    let stopped = qemu.stop(guardian()).expect("a stopped VM");
    assert_eq!(run_state(&mut second), RunState::Paused);
    assert!(matches!(stopped.release(), ReleaseOutcome::Resumed { .. }));
    assert_eq!(run_state(&mut second), RunState::Running);
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn guest_stopped_before_stays_stopped() {
    let vm = Vm::guest("idle", &["-M", "pc", "-m", "64M", "-cpu", "max"]);
    let mut second = vm.second();
    second.execute("stop", crate::common::PATIENCE).expect("a stop");
    let mut qemu = vm.open();
    let stopped = qemu.stop(guardian()).expect("a stopped VM");
    assert!(!stopped.must_resume());
    assert!(matches!(stopped.release(), ReleaseOutcome::LeftStopped));
    drop(qemu);
    assert_eq!(run_state(&mut second), RunState::Paused);
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn stop_that_waits_for_a_hung_disk_is_undone() {
    // A disk that takes 5 s per request, and firmware that reads its first sector.
    let disk = "driver=null-co,node-name=slow,latency-ns=5000000000,read-zeroes=on";
    let device = ["-blockdev", disk, "-device", "virtio-blk,drive=slow"];
    let vm = Vm::start(&[&["-M", "pc", "-m", "64M", "-cpu", "max"][..], &device].concat());
    let mut second = vm.second();
    let deadlines = Deadlines { stop: hasty().stop, ..patient() };
    let mut qemu = Qemu::open(&vm.address(), deadlines).expect("a monitor");
    let mut error = None;
    wait_until("a stop meets a request in flight", || {
        error = qemu.stop(guardian()).err();
        error.is_some()
    });
    assert!(matches!(error, Some(QemuError::StopUnanswered { .. })), "{error:?}");
    drop(qemu);
    second.take_events();
    // QEMU answers no client until the request is done.
    let mut events = Vec::new();
    wait_until("the guest is resumed", || {
        let runs = run_state(&mut second) == RunState::Running;
        events.extend(second.take_events());
        runs && events.last().is_some_and(|event| event.name == "RESUME")
    });
}
