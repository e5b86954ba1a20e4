//! The tool killed at any moment leaves no guest stopped.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nmiscope_qemu::{Address, Qemu, RunState};

use crate::common::guardian;
use crate::vm::{Vm, patient, run_state, wait_until};

const TOOL: &str = "NMISCOPE_TEST_TOOL";
const MOMENTS: u64 = 50;

/// The tool that is killed: it stops and releases a VM for ever.
#[test]
fn tool_process() {
    let Some(path) = std::env::var_os(TOOL) else { return };
    let address = Address::Path(path.into());
    let mut qemu = Qemu::open(&address, patient()).expect("a monitor");
    loop {
        let mut command = guardian();
        command.env_remove(TOOL);
        let mut stopped = qemu.stop(command).expect("a stopped VM");
        stopped.qemu().states().expect("registers");
        // As a capture would: without it few kills fall into the pause.
        sleep(Duration::from_millis(4));
        stopped.release();
    }
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn a_tool_that_is_killed_at_any_moment_leaves_the_guest_running() {
    let vm = Vm::guest("idle", &["-M", "pc", "-m", "64M", "-cpu", "max"]);
    let mut second = vm.second();
    let mut stopped = 0;
    for moment in 0..MOMENTS {
        let mut tool = Command::new(std::env::current_exe().expect("a test program"));
        tool.args(["--exact", "kill::tool_process"]).env(TOOL, vm.path("qmp"));
        let mut tool = tool.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a tool");
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
        // The guardian of the last visit leaves the monitor to the next.
        wait_until("the monitor is free", || Qemu::open(&vm.address(), patient()).is_ok());
    }
    println!("{stopped} of {MOMENTS} kills found the guest stopped");
}
