//! The guest's console and the tool's text are one stream: all that the guest printed comes first, and the
//! text has lines of its own.

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

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
