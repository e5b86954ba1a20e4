//! Tests of the tool's own process during an attach: its standard output, a core that fails, and a signal.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use rustix::process::Signal;

use super::vm::{Vm, wait_until};
use crate::common::*;

#[test]
#[ignore = "needs QEMU"]
fn full_standard_output_and_a_failed_core_of_an_attach_are_errors() {
    let vm = Vm::hung("abba-deadlock", 2);
    let mut attach = vm.attach().with_report();
    attach.command.stdout(File::options().write(true).open("/dev/full").expect("/dev/full"));
    let attached = attach.run().expect_code(exit::TOOL_FAILED);
    let full = "error: failed to write to standard output: No space left on device";
    assert_eq!(attached.stderr.matches(full).count(), 1, "{}", attached.all());
    assert_eq!(attached.report().hangs.len(), 1);

    // Files of at most 64 KiB.
    let socket = vm.path("qmp").display().to_string();
    let limited = program(Command::new("sh"), ["-c", "ulimit -f 128; exec \"$@\"", "sh"])
        .arg(binary())
        .args(["attach", "--qmp", &socket, "--core", "vm.core"])
        .with_report()
        .run()
        .expect_code(exit::HANG);
    assert_eq!(limited.report().hangs.len(), 1);
    assert_eq!(limited.files(), [REPORT]);
    assert!(limited.stderr.contains("File too large"), "{}", limited.all());
}

#[test]
#[ignore = "needs QEMU"]
fn signal_ends_an_attach_at_once_and_names_what_is_lost() {
    let vm = Vm::start("idle", 1);
    // A QEMU that does not answer: the attach waits for it.
    vm.running().signal(Signal::STOP);
    let attach = vm.attach().with_report().args(["--core", "vm.core"]).start();
    let tasks = format!("/proc/{}/task", attach.pid().as_raw_nonzero());
    wait_until("signals are handled", || {
        let mut tasks = fs::read_dir(&tasks).expect("it runs").flatten();
        tasks.any(|task| {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name.trim() == "signals"
        })
    });
    attach.signal(Signal::TERM);
    let ended = attach.wait();
    vm.running().signal(Signal::CONT);
    assert_eq!(ended.status.signal(), Some(15), "{}", ended.all());
    let message = "error: ended at once by SIGTERM; lost: the report, the core vm.core\n";
    assert_eq!(ended.stderr, message, "{}", ended.all());
    assert_eq!(ended.files(), [""; 0]);
}
