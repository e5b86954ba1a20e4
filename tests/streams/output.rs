//! Errors of standard output are errors of the run, and text from the command line is harmless to a
//! terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Command;

use crate::common::*;

const FULL: &str = "error: failed to write to standard output: No space left on device";

/// Runs a command whose standard output is a device without room.
fn into_full_device(mut invocation: Invocation) -> Finished {
    invocation.command.stdout(File::options().write(true).open("/dev/full").expect("/dev/full"));
    invocation.run()
}

/// Asserts exit code 5 and one message.
#[track_caller]
fn expect_full(invocation: Invocation) -> Finished {
    let finished = into_full_device(invocation).expect_code(exit::TOOL_FAILED);
    assert_eq!(finished.stderr.matches(FULL).count(), 1, "{}", finished.all());
    finished
}

const HANG: [&str; 7] =
    ["run", "--workload", "spin-irqs-off", "--cpus", "1", "--hang-after", "300ms"];

#[test]
fn full_standard_output_fails_a_run_whose_report_is_kept() {
    require_kvm();
    let finished = expect_full(nmiscope(HANG).with_report());
    assert_eq!(finished.report().hangs.len(), 1);
    // A report that was to go there is lost.
    expect_full(nmiscope(HANG).args(["--json", "-", "--serial", "none"]));
    // The console alone.
    let quiet = ["run", "--workload", "panic", "--cpus", "1", "--no-json", "--quiet"];
    let finished = expect_full(nmiscope(quiet));
    assert!(finished.stderr.contains("console could not be written"), "{}", finished.all());
}

#[test]
fn full_standard_output_fails_each_command() {
    require_kvm();
    let hang = nmiscope(HANG).with_report().run().expect_code(exit::HANG);
    let report = hang.directory.path().join(REPORT);
    let report = report.to_str().expect("UTF-8");
    let commands: [&[&str]; 12] = [
        &["report", report],
        &["report", report, "--quiet", "--json", "-"],
        &["triage", report],
        &["triage", report, "--message-format", "json"],
        &["symbolize", "ffffffff80200000"],
        &["symbolize", "ffffffff80200000", "--json"],
        &["list", "workloads"],
        &["list", "workloads", "--message-format", "json"],
        &["list", "classes"],
        &["man"],
        &["completions", "bash"],
        &["--help"],
    ];
    for command in commands {
        expect_full(nmiscope(command));
    }
}

/// Another process that shares a pipe may make it non-blocking: a full one is waited for.
#[test]
fn non_blocking_standard_output_gets_all_of_the_text() {
    let log = "a line without an address\n".repeat(20_000);
    let mut invocation = nmiscope(["symbolize", "--quiet"]).with_file("log", log.as_bytes());
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("a non-blocking pipe");
    let input = File::open(invocation.directory.path().join("log")).expect("the log");
    invocation.command.stdin(input).stdout(writer);
    let running = invocation.start();
    // More than the pipe holds: it is full by now.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    running.wait().expect_code(exit::CLEAN);
    assert!(text == log, "{} of {} bytes", text.len(), log.len());
}

/// A pipe that is full and non-blocking before the program starts: JSON and the console wait for its reader.
#[test]
fn non_blocking_output_gets_all_json_and_console_bytes() {
    require_kvm();
    let output_of = |mut invocation: Invocation, code| {
        let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&writer, true).expect("a non-blocking pipe");
        while writer.write(&[b'\n'; 4096]).is_ok() {}
        invocation.command.stdout(writer);
        let running = invocation.start();
        std::thread::sleep(std::time::Duration::from_millis(300));
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        running.wait().expect_code(code);
        text
    };
    let json = nmiscope(HANG).args(["--quiet", "--serial", "none", "--json", "-"]);
    let report = output_of(json, exit::HANG);
    assert_eq!(parse_report(report.trim_start()).hangs.len(), 1);
    let run = ["run", "--workload", "panic", "--cpus", "1", "--no-json", "--quiet"];
    let console = output_of(nmiscope(run), exit::CRASH);
    assert!(console.contains("panic"), "{console:?}");
}

#[test]
fn full_standard_output_fails_a_log() {
    let mut invocation = nmiscope(["symbolize"]).with_file("log", b"[<ffffffff80200000>] ?\n");
    let log = File::open(invocation.directory.path().join("log")).expect("the log");
    invocation.command.stdin(log);
    expect_full(invocation);
}

#[test]
fn full_standard_output_fails_a_farm_whose_journal_is_kept() {
    require_kvm();
    let suite = b"[[vm]]\nname = 'a'\nworkload = 'exit'\ncpus = 1\n";
    for arguments in [&["--message-format", "text"], &["--message-format", "json"]] {
        let farm = nmiscope(["farm", "suite.toml", "--out", "out"]).args(arguments);
        let finished = expect_full(farm.with_file("suite.toml", suite));
        assert!(finished.text_of("out/events.jsonl").contains("\"pass\""), "{}", finished.all());
    }
    for arguments in [&[][..], &["--message-format", "json"]] {
        let list = nmiscope(["farm", "suite.toml", "--list"]).args(arguments);
        expect_full(list.with_file("suite.toml", suite));
    }
}

/// U+009B begins a control sequence, U+202E reverses what follows.
const DANGEROUS: &str = "a\u{9b}31m\u{202e}b";
const ESCAPED: &str = r"a\u{9b}31m\u{202e}b";

#[test]
fn usage_errors_escape_control_characters() {
    for arguments in [
        &["run", "--cpus", DANGEROUS][..],
        &["run", "--no-such", DANGEROUS],
        &["run", &format!("--{DANGEROUS}")],
        &[DANGEROUS],
        &["run", DANGEROUS],
        &["report", DANGEROUS],
        &["symbolize", DANGEROUS],
        &["farm", DANGEROUS],
        &["run", "--json", &format!("no/{DANGEROUS}")],
    ] {
        let finished = nmiscope(arguments).run().expect_code(exit::USAGE);
        harmless(&finished);
        let shown = finished.stderr.contains(ESCAPED) || arguments.contains(&"--no-such");
        assert!(shown, "{}", finished.all());
    }
}

#[test]
fn names_of_written_files_are_escaped() {
    let path = format!("{DANGEROUS}.json");
    let core = format!("{DANGEROUS}.core");
    require_kvm();
    let finished = nmiscope(HANG).args(["--json", &path, "--core", &core]).run();
    let finished = finished.expect_code(exit::HANG);
    harmless(&finished);
    for wrote in [
        format!("wrote {ESCAPED}.json\n"),
        format!("wrote {ESCAPED}.core, to be opened by: nmiscope report '{ESCAPED}.core'; "),
    ] {
        assert!(finished.stdout.contains(&wrote), "{}", finished.all());
    }
    parse_report(&finished.text_of(&path));
    let again = nmiscope(["report"]).arg(finished.directory.path().join(&core)).run();
    harmless(&again.expect_code(exit::HANG));
}

#[test]
fn colored_usage_errors_escape_control_characters() {
    let mut invocation = program(Command::new(binary()), ["--color", "always", "run", "--cpus"]);
    invocation = invocation.arg(DANGEROUS).env("CLICOLOR_FORCE", "1");
    let finished = invocation.run().expect_code(exit::USAGE);
    assert!(!finished.stderr.contains(['\u{9b}', '\u{202e}']), "{:?}", finished.stderr);
    assert!(finished.stderr.contains(ESCAPED), "{:?}", finished.stderr);
}
