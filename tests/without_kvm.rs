//! The half of the program that needs no KVM, as `cargo build --no-default-features` makes it: held
//! against the same stored cores and the same expected reports as the whole program (`offline.rs`).
//! `cargo test --no-default-features` runs it; with KVM there is nothing in here.

#![cfg(not(feature = "kvm"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The directory of the stored cores.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline")
}

fn nmiscope(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nmiscope"));
    command.args(arguments).current_dir(directory()).output().expect("the program can be started")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn a_core_gives_the_report_that_the_whole_program_makes() {
    // The exit codes are those of a hang and of a panic.
    for (name, code) in [("mutex-deadlock", 3), ("null-deref", 4)] {
        let core = format!("cores/{name}.core");
        let made = |arguments: &[&str], expected: &str| {
            let all = [&["report", &core, "--image", "guest.elf"], arguments].concat();
            let output = nmiscope(&all);
            assert_eq!(output.status.code(), Some(code), "{name}: {}", text(&output.stderr));
            let file = directory().join(format!("cores/{name}.{expected}"));
            let expected = fs::read_to_string(file).expect("an expected report of tests/offline");
            assert_eq!(text(&output.stdout), expected, "{name}");
        };
        made(&["--quiet", "--json", "-"], "json");
        made(&[], "txt");
    }
}

#[test]
fn without_its_image_a_core_gives_addresses_and_says_what_is_missing() {
    let output = nmiscope(&["report", "cores/mutex-deadlock.core"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("name it with --image"), "{}", text(&output.stderr));
}

#[test]
fn places_are_looked_up_in_an_image_that_has_to_be_named() {
    let found = nmiscope(&["symbolize", "--image", "guest.elf", "kernel_main+0x1"]);
    assert!(text(&found.stdout).contains("kernel_main"), "{}", text(&found.stdout));
    assert_eq!(found.status.code(), Some(0));
    let refused = nmiscope(&["symbolize", "kernel_main+0x1"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--image"), "{}", text(&refused.stderr));
}

#[test]
fn reports_are_grouped() {
    let output = nmiscope(&["triage", "cores/mutex-deadlock.json"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("deadlock"), "{}", text(&output.stdout));
}

#[test]
fn there_is_no_command_that_starts_a_vm() {
    let help = nmiscope(&["--help"]);
    let help = text(&help.stdout);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // What a command does goes on further to the right.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        commands,
        ["attach", "report", "symbolize", "triage", "completions", "man", "help"],
        "{help}"
    );
    for absent in ["run", "farm", "guest"] {
        assert_eq!(nmiscope(&[absent]).status.code(), Some(2), "{absent}");
    }
    assert!(!nmiscope(&["man"]).stdout.is_empty());
    assert!(!nmiscope(&["completions", "bash"]).stdout.is_empty());
}
