//! Signals that end the program: equal ones in quick succession are one, a later one ends it at once and
//! says what is lost.

use std::os::unix::process::ExitStatusExt as _;
use std::thread::sleep;
use std::time::Duration;

use nmiscope_report::Outcome;
use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::common::*;

/// Two signals come from timeout(1): to its child, and then to the child's process group.
#[test]
fn equal_signals_in_quick_succession_are_one() {
    for interval in [0, 10, 30, 60] {
        let running = run_workload("idle", 2).start();
        running.wait_for("guest ready", 1);
        running.signal(Signal::TERM);
        sleep(Duration::from_millis(interval));
        running.signal(Signal::TERM);
        let report = running.wait().expect_code(exit::CLEAN).report();
        assert_eq!(report.outcome, Outcome::Stopped { by: "SIGTERM".into() });
        assert_eq!(report.backtraces.len(), 1);
        assert!(report.backtraces[0].cpus.iter().all(answered), "{report:?}");
    }
}

/// A guest whose NMI handler does not end, so that its last backtrace takes minutes.
fn slow_to_end() -> Running {
    let running = run_workload("nmi-stuck", 1)
        .args(["--hang-after", "0", "--nmi-timeout", "60s", "--core", "x.core"])
        .start();
    running.wait_for("guest ready", 1);
    running
}

/// Sends SIGTERM again and again, each too late to be one with the last, until the process has ended.
pub fn end_by_later_signals(running: Running) -> Finished {
    let process = pidfd_open(running.pid(), PidfdFlags::empty()).expect("it runs");
    let sender = std::thread::spawn(move || {
        while pidfd_send_signal(&process, Signal::TERM).is_ok() {
            sleep(Duration::from_millis(1100));
        }
    });
    let finished = running.wait();
    sender.join().expect("the sender");
    finished
}

#[test]
fn later_signal_ends_a_run_at_once_and_names_what_is_lost() {
    let running = slow_to_end();
    let finished = end_by_later_signals(running);
    assert_eq!(finished.status.signal(), Some(15), "{}", finished.all());
    let message = "error: ended at once by SIGTERM; lost: the last backtrace, the report report.json, \
                   the core x.core\n";
    assert!(finished.stderr.ends_with(message), "{}", finished.all());
    assert_eq!(finished.files(), [""; 0], "{}", finished.all());
}

#[test]
fn later_signal_ends_a_farm_at_once_and_names_what_is_lost() {
    require_kvm();
    let suite = b"[[vm]]\nname = 'stuck'\nworkload = 'nmi-stuck'\ncpus = 1\nhang-after = '0'\n\
                  append = 'loglevel=8'\ntime-limit = '50s'\n";
    let running =
        nmiscope(["farm", "suite.toml", "--out", "out"]).with_file("suite.toml", suite).start();
    let console = running.directory.path().join("out/vms/stuck/1.1/console.log");
    while !std::fs::read_to_string(&console).is_ok_and(|text| text.contains("workload")) {
        sleep(Duration::from_millis(10));
    }
    // The VM's process is stopped, so that it cannot write its report.
    let directory = console.parent().expect("a directory");
    let vm = crate::farm::site::processes_in(directory);
    assert_eq!(vm.len(), 1);
    kill_process(vm[0], Signal::STOP).expect("it runs");
    let finished = end_by_later_signals(running).expect_code(exit::TOOL_FAILED);
    assert!(
        finished.stderr.contains("killed by a second signal, SIGTERM; lost: "),
        "{}",
        finished.all()
    );
    assert!(finished.stdout.contains("the VM's report is lost"), "{}", finished.all());
}
