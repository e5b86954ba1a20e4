//! Tests that a killed or stopped tool leaves no guest stopped.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nmiscope_qemu::{Address, Deadlines, Qemu, RunState};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::guardian;
use crate::vm::{Vm, patient, run_state, wait_until};

const TOOL: &str = "NMISCOPE_TEST_TOOL";
const MOMENTS: u64 = 50;

/// The tool process to kill: it stops and releases a VM in an endless loop.
#[test]
fn tool_process() {
    let Some(path) = std::env::var_os(TOOL) else { return };
    let address = Address::Path(path.into());
    let deadlines = Deadlines { pause: Duration::from_secs(1), ..patient() };
    let mut qemu = Qemu::open(&address, deadlines).expect("a monitor");
    loop {
        let mut command = guardian();
        command.env_remove(TOOL);
        let mut stopped = qemu.stop(command).expect("a stopped VM");
        stopped.qemu().states().expect("registers");
        // The time of a capture: without it few kills would fall into the pause.
        sleep(Duration::from_millis(4));
        stopped.release();
    }
}

fn tool(vm: &Vm) -> Child {
    let mut tool = Command::new(std::env::current_exe().expect("a test program"));
    tool.args(["--exact", "kill::tool_process"]).env(TOOL, vm.path("qmp"));
    tool.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a tool")
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn stopped_tool_leaves_the_guest_running() {
    let vm = Vm::guest("idle", &["-M", "pc", "-m", "64M", "-cpu", "max"]);
    let mut second = vm.second();
    let mut tool = tool(&vm);
    let pid = Pid::from_child(&tool);
    // Repeats until the tool is stopped within a pause.
    wait_until("the tool is stopped within a pause", || {
        kill_process(pid, Signal::STOP).expect("a signal");
        let is_within = run_state(&mut second) == RunState::Paused;
        if !is_within {
            kill_process(pid, Signal::CONT).expect("a signal");
        }
        is_within
    });
    wait_until("the guest runs", || run_state(&mut second) == RunState::Running);
    // The tool continues its loop.
    second.take_events();
    kill_process(pid, Signal::CONT).expect("a signal");
    wait_until("the tool stops the VM again", || {
        run_state(&mut second);
        second.take_events().iter().any(|event| event.name == "STOP")
    });
    tool.kill().and_then(|()| tool.wait()).expect("the tool ends");
    wait_until("the guest runs", || run_state(&mut second) == RunState::Running);
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn tool_killed_at_any_moment_leaves_the_guest_running() {
    let vm = Vm::guest("idle", &["-M", "pc", "-m", "64M", "-cpu", "max"]);
    let mut second = vm.second();
    let mut stopped = 0;
    for moment in 0..MOMENTS {
        let mut tool = tool(&vm);
        // Half of the moments are within the pause, which takes some 6 ms, and half are anywhere.
        if moment % 2 == 0 {
            wait_until("the tool stops the VM", || run_state(&mut second) == RunState::Paused);
            sleep(Duration::from_micros(moment * 100));
        } else {
            sleep(Duration::from_micros(moment * 400));
        }
        tool.kill().expect("the tool ends");
        tool.wait().expect("the tool ends");
        stopped += u64::from(run_state(&mut second) == RunState::Paused);
        wait_until("the guest runs", || run_state(&mut second) == RunState::Running);
        // The guardian of this visit must release the monitor for the next.
        wait_until("the monitor is free", || Qemu::open(&vm.address(), patient()).is_ok());
    }
    println!("{stopped} of {MOMENTS} kills found the guest stopped");
}
