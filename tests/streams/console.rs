//! The guest's console and the tool's text are one stream: all that the guest printed comes first, and the
//! text has lines of its own.

use std::fs::File;
use std::io::{PipeReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use nmiscope_report::Outcome;

use super::signals::end_by_later_signals;
use crate::common::*;
use crate::foreign_guest::assemble_with;

/// A kernel whose last line has no end, in a folder of its own.
fn last_words(defined: &[&str]) -> (TempDir, PathBuf) {
    require_kvm();
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("kernel.elf");
    assemble_with("last_words.S", defined, &image);
    (folder, image)
}

fn run(image: &Path) -> Invocation {
    nmiscope(["run"]).arg(image).args(["--cpus", "1", "--no-json", "--hang-after", "300ms"])
}

/// Runs a kernel with both streams in one file, which is returned.
fn run_into_file(image: &Path, code: i32) -> String {
    let mut invocation = run(image);
    let path = invocation.directory.path().join("both");
    let both = File::create(&path).expect("a file");
    invocation.command.stdout(both.try_clone().expect("a descriptor")).stderr(both);
    let finished = invocation.run().expect_code(code);
    finished.text_of("both")
}

#[test]
#[ignore = "needs gcc"]
fn last_words_of_a_crashed_guest_come_before_the_report() {
    let (_folder, image) = last_words(&["FAULT"]);
    for _ in 0..20 {
        let both = run_into_file(&image, exit::CRASH);
        let lines: Vec<&str> = both.lines().collect();
        let place = |wanted: &str| {
            let place = lines.iter().position(|line| line.starts_with(wanted));
            place.unwrap_or_else(|| panic!("no line {wanted:?} in\n{both}"))
        };
        assert_eq!(lines[place("last words")], "last words", "{both}");
        assert!(place("first line") < place("last words"), "{both}");
        assert!(place("last words") < place("crash: cpu0: triple fault"), "{both}");
        assert!(place("crash: cpu0: triple fault") < place("cpu0 "), "{both}");
    }
}

#[test]
#[ignore = "needs gcc"]
fn report_of_a_hang_begins_on_a_line_of_its_own() {
    let (_folder, image) = last_words(&[]);
    let finished = run(&image).run().expect_code(exit::HANG);
    let expected = "first line\nlast words\nhang: dead-halt, cpu0";
    assert!(finished.stdout.starts_with(expected), "{}", finished.all());
}

/// The guest prints all the time, and the text of `--nmi-after` comes amid it.
#[test]
fn text_does_not_split_the_lines_of_a_running_guest() {
    let running = run_workload("heavy-printk", 2)
        .args(["--nmi-after", "1s", "--stop-after", "2s", "--hang-after", "0"])
        .run();
    let finished = running.expect_code(exit::CLEAN);
    assert!(finished.stdout.contains("backtrace requested by --nmi-after"), "{}", finished.stdout);
    // Each line of the guest begins with its time, and only there is one.
    let times = |line: &str| line.match_indices("[ ").count();
    for line in finished.stdout.lines().filter(|line| line.contains("] cpu")) {
        assert!(line.starts_with("[ ") && times(line) == 1, "{line:?} in\n{}", finished.stdout);
    }
}

/// Starts a run with both streams in one pipe, whose reader is returned.
fn start_into_pipe(mut invocation: Invocation) -> (Running, PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    invocation.command.stdout(writer.try_clone().expect("a descriptor")).stderr(writer);
    (invocation.start(), reader)
}

/// The pipe holds less than the guest prints, and its reader is later than any pause of the console.
#[test]
#[ignore = "needs gcc"]
fn report_comes_after_the_console_however_late_the_reader() {
    let console = format!(
        "first line\n{}last words\n",
        "one of very many lines of the same text\n".repeat(4000)
    );
    for (defined, code, text) in [
        (&["LINES=4000", "FAULT"][..], exit::CRASH, "crash: cpu0: triple fault"),
        (&["LINES=4000"], exit::HANG, "hang: dead-halt, cpu0"),
    ] {
        let (_folder, image) = last_words(defined);
        // By another name it is the same pipe.
        for serial in ["stdout", "/dev/stdout"] {
            let invocation = run(&image).args(["--serial", serial]);
            let (running, mut reader) = start_into_pipe(invocation);
            sleep(Duration::from_secs(3));
            let mut all = String::new();
            reader.read_to_string(&mut all).expect("text");
            running.wait().expect_code(code);
            let at = all.find(text).unwrap_or_else(|| panic!("no {text:?} in {all}"));
            // An unknown kernel is warned of when it is recognised as one: on a line of its own, between any two.
            let lines = all[..at].split_inclusive('\n');
            let of_guest = lines.filter(|line| !line.starts_with("warning: unknown kernel"));
            let of_guest: String = of_guest.collect();
            let printed =
                of_guest.split_once("first line").map(|(_, after)| format!("first line{after}"));
            assert!(printed.as_ref() == Some(&console), "{all}");
        }
    }
}

/// The shell has appended to a file, and the console is to go there too.
#[test]
#[ignore = "needs gcc"]
fn console_in_the_file_of_the_text_overwrites_nothing() {
    let (_folder, image) = last_words(&["FAULT"]);
    let mut invocation = run(&image).args(["--serial", "both"]).with_file("both", b"earlier\n");
    let path = invocation.directory.path().join("both");
    let both = File::options().append(true).open(path).expect("a file");
    invocation.command.stdout(both);
    let text = invocation.run().expect_code(exit::CRASH).text_of("both");
    let expected = "earlier\nfirst line\nlast words\ncrash: cpu0: triple fault";
    assert!(text.starts_with(expected), "{text}");
}

/// Gives a program a pipe without room for its standard output, and returns the pipe's reader.
fn full_pipe(invocation: &mut Invocation) -> PipeReader {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("a non-blocking pipe");
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("a blocking pipe");
    invocation.command.stdout(writer);
    reader
}

/// Returns the names of the threads of a process, by the directory of its tasks.
fn names_of_threads(tasks: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(tasks).expect("a process").flatten();
    let names = tasks.map(|task| std::fs::read_to_string(task.path().join("comm")));
    names.map(Result::unwrap_or_default).collect()
}

#[test]
fn later_signal_ends_a_run_at_once_whose_reader_has_stopped() {
    let mut invocation = run_workload("heavy-printk", 1).args(["--hang-after", "0"]);
    let _reader = full_pipe(&mut invocation);
    let running = invocation.start();
    // The handlers are there before the thread that listens for signals.
    let threads = format!("/proc/{}/task", running.child.id());
    let listens = |thread: &str| thread.trim_end() == "signals";
    while !names_of_threads(&threads).iter().any(|thread| listens(thread)) {
        sleep(Duration::from_millis(10));
    }
    let finished = end_by_later_signals(running);
    assert_eq!(finished.status.signal(), Some(15), "{}", finished.all());
    let message =
        "error: ended at once by SIGTERM; lost: the last backtrace, the report report.json\n";
    assert!(finished.stderr.ends_with(message), "{}", finished.all());
}

/// A quiet run prints no text that could wait, as in a script that reads the console afterwards.
#[test]
fn quiet_run_ends_without_a_reader() {
    let mut invocation = run_workload("heavy-printk", 1).args([
        "--quiet",
        "--time-limit",
        "2s",
        "--hang-after",
        "0",
    ]);
    let _reader = full_pipe(&mut invocation);
    let finished = invocation.run().expect_code(exit::GUEST_FAILED);
    let report = finished.report();
    assert!(matches!(report.outcome, Outcome::TimedOut { .. }), "{report:?}");
    let is_loss = |warning: &String| warning.ends_with("console were not read in time");
    assert!(report.warnings.iter().any(is_loss), "{:?}", report.warnings);
}
