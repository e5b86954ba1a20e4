//! `--redact` on the command line: reports of stored cores and of a run, and the refusal of cores.

use std::path::Path;

use crate::common::*;
use nmiscope_report::Report;

/// Runs `nmiscope report` on a stored core with `--redact`.
fn redacted(core: &str) -> Finished {
    let core = format!("cores/{core}.core");
    let arguments =
        ["report", &core, "--image", "guest.elf", "--locals", "--redact", "--json", "-"];
    let mut invocation = nmiscope(arguments);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline");
    invocation.command.current_dir(directory);
    invocation.run()
}

#[test]
fn redacted_report_of_a_core_has_the_hang_alone() {
    let finished = redacted("mutex-deadlock").expect_code(exit::HANG);
    let report: Report = serde_json::from_str(&finished.stdout).expect("a report");
    assert!(report.redacted);
    assert_eq!(report.summary, "hang: deadlock:take_both:INODE_MUTEX<->JOURNAL_MUTEX, #0 and #1");
    for secret in ["RFLAGS", "ready: 2 CPUs", "\"reader\"", "ffffffff80"] {
        assert!(!finished.all().contains(secret), "{secret}\n{}", finished.all());
    }
    let first = finished.stderr.lines().next().expect("the text, beside JSON on standard output");
    assert!(first.starts_with("redacted: without log and console, names of tasks,"), "{first}");
}

#[test]
fn redacted_list_of_reports_has_no_names_of_tasks() {
    let report = include_bytes!("../report/tests/former/mutex-deadlock.json");
    let list = |options: &[&str]| {
        let invocation = nmiscope(["report", "."]).args(options);
        for name in ["a", "b"] {
            std::fs::create_dir(invocation.directory.path().join(name)).expect("a directory");
        }
        let invocation = invocation.with_file("a/report.json", report);
        invocation.with_file("b/report.json", report).run().expect_code(exit::CLEAN).stdout
    };
    assert!(list(&[]).contains("writer"), "{}", list(&[]));
    let redacted = list(&["--redact"]);
    assert!(redacted.lines().count() == 2 && redacted.contains("deadlock"), "{redacted}");
    assert!(!redacted.contains("reader") && !redacted.contains("writer"), "{redacted}");
}

#[test]
fn redact_is_refused_with_a_core() {
    let run = ["run", "--redact", "--core", "hang.core"];
    let policy = ["run", "--redact", "--hang-policy", "core"];
    let attach = ["attach", "--redact", "--qmp", "vm.sock", "--core", "hang.core"];
    for arguments in [&run[..], &policy, &attach] {
        let finished = nmiscope(arguments).run().expect_code(exit::USAGE);
        let message = "--redact cannot be used with a core, which holds the guest's memory";
        assert!(finished.stderr.contains(message), "{}", finished.stderr);
        assert_eq!(finished.files(), [""; 0], "{arguments:?}");
    }
}

#[test]
fn redacted_run_prints_no_console_and_no_names() {
    let finished = run_workload("mutex-deadlock", 2).arg("--redact").run();
    let report = finished.report();
    assert_eq!(report.hangs[0].blamed, ["#0", "#1"]);
    assert_eq!((report.host.as_str(), report.console_tail.len()), ("unknown", 0));
    for secret in ["ready: 2 CPUs", "task reader", "task writer", "workload=mutex-deadlock"] {
        assert!(!finished.all().contains(secret), "{secret}\n{}", finished.all());
    }
    assert!(finished.stdout.contains("task #0 on cpu0 holds INODE_MUTEX"), "{}", finished.stdout);
}
