//! Tests of an attach that may not read QEMU's process: memory comes through the monitor, and the report is
//! the same.

use std::process::Command;

use nmiscope_report::{MemorySource, Report};

use super::vm::Vm;
use crate::common::*;
use crate::dump::support::stacks;

/// Returns an attach as root without `CAP_SYS_PTRACE`, the capability to trace processes with more
/// capabilities than its own (capabilities(7)).
fn attach_unprivileged(vm: &Vm) -> Invocation {
    let capabilities = ["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"];
    program(Command::new("setpriv"), capabilities).arg(binary()).args([
        "attach",
        "--qmp",
        &vm.path("qmp").display().to_string(),
    ])
}

fn stacks_of(report: &Report) -> Vec<Vec<String>> {
    stacks(report.backtraces.last().expect("a backtrace"))
}

#[test]
#[ignore = "needs QEMU and root"]
fn memory_through_the_monitor_gives_the_same_report() {
    let mut vm = Vm::hung("abba-deadlock", 3);
    let by_process = vm.attach().with_report().run().expect_code(exit::HANG).report();
    // Long enough for a slow machine to read all memory within the pause.
    let patient = ["--max-pause", "30s"];
    let core = ["--core", "vm.core"];
    let attach = attach_unprivileged(&vm).args(patient).args(core).with_report();
    let finished = attach.run().expect_code(exit::HANG);
    let by_monitor = finished.report();
    assert!(finished.stdout.contains("memory read through the monitor"), "{}", finished.all());
    let source = |report: &Report| report.visit.as_ref().expect("a visit").memory;
    assert_eq!(source(&by_process), MemorySource::Process);
    assert_eq!(source(&by_monitor), MemorySource::Monitor);
    assert!(!by_monitor.visit.as_ref().expect("a visit").torn);
    assert_eq!(stacks_of(&by_monitor), stacks_of(&by_process));
    assert_eq!(by_monitor.hangs[0].signature, by_process.hangs[0].signature);
    assert_eq!(by_monitor.image.build_id, by_process.image.build_id);
    assert_eq!(vm.run_state(), "running");
    let core = finished.directory.path().join("vm.core").display().to_string();
    let of_core = nmiscope(["report", &core]).with_report().run().expect_code(exit::HANG).report();
    assert_eq!(of_core.hangs, by_monitor.hangs);
}

#[test]
#[ignore = "needs QEMU and root"]
fn full_core_through_the_monitor_is_refused_before_the_stop() {
    let mut vm = Vm::start("idle", 1);
    let attach = attach_unprivileged(&vm).args(["--core", "vm.core", "--core-size", "full"]);
    refused(attach, "too slow for a core of --core-size full");
    assert_eq!(vm.run_state(), "running");
}
