//! Signs of life of a run: the status line on a terminal, the detector's view with `-v`, the note about a
//! bound that replaces the given one, standard input that is no terminal, and the commands for a core.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::thread;

use crate::common::*;
use nmiscope_report::Outcome;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

/// Words that only the status line and the trace have.
const STATUS: &str = "make progress";

/// Runs a program with standard output and error on a terminal, and returns all bytes that it got.
pub fn on_terminal(mut invocation: Invocation, code: i32) -> String {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let person = openpt(flags).expect("a pseudo-terminal");
    grantpt(&person).expect("grantpt");
    unlockpt(&person).expect("unlockpt");
    let program = File::from(ioctl_tiocgptpeer(&person, flags).expect("its other side"));
    let mut person = File::from(person);
    invocation.command.stdout(program.try_clone().expect("a descriptor"));
    invocation.command.stderr(program);
    let reader = thread::spawn(move || {
        let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
        // The read fails once the program's side is closed.
        while let Ok(count @ 1..) = person.read(&mut bytes) {
            all.extend_from_slice(&bytes[..count]);
        }
        all
    });
    let mut running = invocation.start();
    let status = running.child.wait().expect("a child");
    // The command holds the program's side of the terminal until it is dropped, at the end of `start`.
    drop(running);
    let bytes = reader.join().expect("the reader");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(status.code(), Some(code), "{text}");
    text
}

/// Returns what is on the screen after all bytes: a model of a terminal without a width.
fn screen(bytes: &str) -> String {
    let mut lines = vec![String::new()];
    let mut column = 0;
    let mut rest = bytes;
    while let Some(character) = rest.chars().next() {
        let line = lines.last_mut().expect("a line");
        if let Some(after) = rest.strip_prefix("\x1b[K") {
            line.truncate(column);
            rest = after;
            continue;
        }
        assert_ne!(character, '\x1b', "only EL is used: {rest:?}");
        match character {
            '\r' => column = 0,
            '\n' => {
                lines.push(String::new());
                column = 0;
            }
            _ => {
                line.replace_range(column..line.len().min(column + 1), &character.to_string());
                column += character.len_utf8();
            }
        }
        rest = &rest[character.len_utf8()..];
    }
    lines.join("\n")
}

#[test]
fn a_status_line_appears_on_a_terminal_and_leaves_nothing() {
    // A guest that prints all the time, and is healthy.
    let arguments = ["--stop-after", "3s", "--append", "loglevel=8", "--color=never"];
    let run = run_workload("many-ipis", 2).args(arguments);
    let quiet = run_workload("many-ipis", 2).args(arguments).arg("--quiet");
    let bytes = on_terminal(run, exit::CLEAN);
    assert!(bytes.contains("2 of 2 vCPUs make progress"), "{bytes:?}");
    let shown = screen(&bytes);
    assert!(!shown.contains(STATUS), "{shown}");
    assert!(shown.contains("guest ready: 2 vCPUs"), "{shown}");
    assert!(!on_terminal(quiet, exit::CLEAN).contains(STATUS));
}

#[test]
fn a_guest_without_hang_detection_has_a_status_line() {
    let run = |workload| {
        let arguments = ["--hang-after", "0", "--stop-after", "5s", "--color=never"];
        on_terminal(run_workload(workload, 2).args(arguments), exit::CLEAN)
    };
    let bytes = run("idle");
    assert!(bytes.contains("2 of 2 vCPUs make progress, no detector"), "{bytes:?}");
    // Time counts for a halted CPU, however little the host runs it.
    let bytes = run("halt-irqs-off");
    assert!(bytes.contains("1 of 2 vCPUs make progress, no detector"), "{bytes:?}");
    assert!(!screen(&bytes).contains("no detector"), "{bytes:?}");
}

#[test]
fn console_lines_stay_whole_beside_a_status_line() {
    let arguments = ["--stop-after", "3s", "--color=never", "--no-json"];
    let run = |workload| {
        require_kvm();
        nmiscope(["run", "--cpus", "2", "--workload", workload]).args(arguments)
    };
    // Keys make the guest print while the status is on the screen.
    let mut invocation = run("idle");
    let (mut keys, stdin) = {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        (writer, reader)
    };
    invocation.command.stdin(stdin);
    let presser = thread::spawn(move || {
        for _ in 0..25 {
            thread::sleep(std::time::Duration::from_millis(100));
            if keys.write_all(b"h").is_err() {
                break;
            }
        }
    });
    let bytes = on_terminal(invocation, exit::CLEAN);
    presser.join().expect("the keys");
    assert!(bytes.matches(STATUS).count() >= 2, "{bytes:?}");
    let shown = screen(&bytes);
    let answers: Vec<&str> = shown.lines().filter(|line| line.contains("sysrq:")).collect();
    assert!(answers.len() >= 10, "{shown}");
    for line in answers {
        assert!(line.starts_with('[') && line.ends_with("h shows this"), "{line:?}");
    }
    assert!(!shown.contains(STATUS), "{shown}");
}

#[test]
fn the_status_line_shows_the_age_and_bound_of_a_suspicion() {
    let run = run_workload("spin-irqs-off", 2).args(["--hang-after", "4s", "--color=never"]);
    let bytes = on_terminal(run, exit::HANG);
    let drawn = |text: &str| bytes.split("\x1b[K").any(|part| part.contains(text));
    assert!(drawn("1 of 2 vCPUs make progress, hard-lockup for "), "{bytes:?}");
    assert!(drawn(" of 4.0 s: cpu1"), "{bytes:?}");
    assert!(!screen(&bytes).contains(STATUS), "{bytes:?}");
}

#[test]
fn verbose_says_in_words_what_the_detector_sees() {
    let run = run_workload("spin-irqs-off", 2).args(["--hang-after", "4s", "-v"]);
    let finished = run.run().expect_code(exit::HANG);
    let seen = "the detector sees: 1 of 2 vCPUs make progress, suspected: hard-lockup for ";
    assert!(finished.stderr.contains(seen), "{}", finished.all());
    assert!(finished.stderr.contains(" of 4.0 s: cpu1\n"), "{}", finished.all());
    let silent = run_workload("idle", 2).args(["--stop-after", "2s"]).run();
    assert_eq!(silent.expect_code(exit::CLEAN).stderr, "", "no terminal, and no -v");
}

#[test]
fn a_bound_that_replaces_the_given_one_is_named() {
    let note = "; here the bound is 30.0 s and not that of --hang-after, 3.0 s: --ready-within";
    // A stall of 4 s of the guest's own time, for which the trace has another line each second.
    let stall = |arguments: &[&str]| {
        let running = run_workload("boot-stall", 1).args(arguments).arg("-v").start();
        running.wait_for_error(|text| {
            let ages = text.split("suspected: boot-stall for ").skip(1);
            let seconds = |age: &str| age.split(' ').next()?.parse::<f64>().ok();
            ages.filter_map(seconds).any(|age| age >= 4.0)
        });
        running.signal(Signal::INT);
        running.wait().expect_code(exit::CLEAN).stderr.matches(note).count()
    };
    assert_eq!(stall(&["--hang-after", "3s"]), 1);
    // Unasked, or with that bound chosen too, there is nothing to say.
    assert_eq!(stall(&[]), 0);
    assert_eq!(stall(&["--hang-after", "3s", "--ready-within", "29s"]), 0);
}

/// Starts a run whose standard input is a pipe that has `input` and then ends.
fn with_piped_input(mut invocation: Invocation, input: &[u8]) -> Running {
    invocation.command.stdin(Stdio::piped());
    let mut running = invocation.start();
    let mut stdin = running.child.stdin.take().expect("a pipe");
    stdin.write_all(input).expect("the pipe holds it");
    running
}

#[test]
fn piped_input_reaches_the_guest_whole_and_its_end_ends_nothing() {
    // More than a serial port holds at a time.
    let running = with_piped_input(run_workload("idle", 2), &[b'h'; 200]);
    running.wait_for("sysrq: l shows the call traces of all CPUs", 200);
    running.signal(Signal::INT);
    let finished = running.wait().expect_code(exit::CLEAN);
    assert_eq!(finished.stdout.matches("sysrq: l shows").count(), 200);
    assert_eq!(finished.report().outcome, Outcome::Stopped { by: "SIGINT".into() });
}

#[test]
fn control_characters_of_a_pipe_are_the_guests() {
    let running = with_piped_input(run_workload("idle", 1), b"\x03\x1c\x1ah");
    running.wait_for("sysrq: no such key '\\x03'", 1);
    running.wait_for("sysrq: no such key '\\x1c'", 1);
    running.wait_for("sysrq: no such key '\\x1a'", 1);
    running.signal(Signal::INT);
    let report = running.wait().expect_code(exit::CLEAN).report();
    assert_eq!(report.outcome, Outcome::Stopped { by: "SIGINT".into() });
    assert!(report.backtraces.is_empty());
}

#[test]
fn the_commands_for_a_core_open_it() {
    require_kvm();
    let arguments = ["run", "--workload", "spin-irqs-off", "--cpus", "1", "--no-json"];
    let run = nmiscope(arguments).args(["--hang-after", "300ms", "--core", "a core"]);
    let finished = run.run().expect_code(exit::HANG);
    let line = finished.stdout.lines().find(|line| line.starts_with("wrote a core"));
    let line = line.unwrap_or_else(|| panic!("no such line: {}", finished.all()));
    let (_, commands) = line.split_once("to be opened by: ").expect("commands");
    let (report, gdb) = commands.split_once("; ").expect("two commands");
    assert_eq!(gdb, "nmiscope guest guest.elf && gdb guest.elf 'a core'");
    let report = report.replacen("nmiscope", binary().to_str().expect("UTF-8"), 1);
    let core = std::fs::read(finished.directory.path().join("a core")).expect("a core");
    let shell = program(std::process::Command::new("sh"), ["-c", &report]);
    let again = shell.with_file("a core", &core).run().expect_code(exit::HANG);
    assert!(again.stdout.contains("hard-lockup"), "{}", again.all());

    let image = nmiscope::bundled::image();
    let own = ["run", "own.elf", "--workload", "spin-irqs-off", "--cpus", "1", "--core", "b.core"];
    let run = nmiscope(own).with_file("own.elf", image).args(["--hang-after", "300ms"]);
    let finished = run.run().expect_code(exit::HANG);
    let wanted = "wrote b.core, to be opened by: nmiscope report b.core; gdb own.elf b.core\n";
    assert!(finished.stdout.contains(wanted), "{}", finished.all());
}

#[test]
fn list_describes_each_name_on_a_terminal() {
    let text = on_terminal(nmiscope(["list", "workloads"]), exit::CLEAN);
    let line = text.lines().find(|line| line.starts_with("abba-deadlock "));
    let summary =
        "Hangs CPUs 0 and 1: each holds the lock that the other waits for, with interrupts off.";
    assert!(line.is_some_and(|line| line.trim_end().ends_with(summary)), "{text}");
}
