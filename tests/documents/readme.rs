//! Checks of README.md: each session is what the program prints, but for numbers that differ between runs, and
//! each file that it names exists.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use flate2::read::GzDecoder;

use super::{Block, blocks, commands, shell};
use crate::common::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("README.md")
}

/// Returns the command and the output of the session that begins with these words after the program's name.
fn session(words: &str) -> (String, String) {
    let readme = readme();
    let (blocks, _) = blocks(&readme);
    let begin = format!("$ nmiscope {words}");
    let is_it = |block: &&Block<'_>| block.language == "console" && block.text.starts_with(&begin);
    let text = blocks.iter().find(is_it).expect("a session").text;
    let [(command, printed)] = &commands(text)[..] else { panic!("one command: {text}") };
    ((*command).to_owned(), printed.clone())
}

/// Replaces each run of digits, and the calls inside a lock, which differ between runs.
fn masked(line: &str) -> String {
    if line.trim_start().starts_with("calls ") {
        return "calls".into();
    }
    let mut masked = String::new();
    for character in line.chars() {
        match character.is_ascii_digit() {
            true if masked.ends_with('#') => {}
            true => masked.push('#'),
            false => masked.push(character),
        }
    }
    masked
}

/// Compares an output with a session, in which a line `...` stands for any number of lines.
#[track_caller]
fn equals_but_for_numbers(output: &str, shown: &str) {
    let mut printed = output.lines().map(masked);
    let mut skips = false;
    for line in shown.lines() {
        if line == "..." {
            skips = true;
            continue;
        }
        let found = if skips {
            printed.find(|printed| *printed == masked(line))
        } else {
            printed.next().filter(|printed| *printed == masked(line))
        };
        assert!(found.is_some(), "the README shows a line that is not printed: {line}\n{output}");
        skips = false;
    }
    assert!(skips || printed.next().is_none(), "the README ends before this does:\n{output}");
}

#[test]
fn the_session_of_a_run_is_what_it_prints() {
    require_kvm();
    let (command, shown) = session("run");
    let directory = tempfile::tempdir().expect("a directory");
    let finished = shell(&command, directory.path()).expect_code(exit::HANG);
    equals_but_for_numbers(&finished.stdout, &shown);
}

#[test]
fn the_session_of_a_dump_is_what_it_prints() {
    let (command, shown) = session("report guest.dump");
    let directory = tempfile::tempdir().expect("a directory");
    let offline = root().join("tests/offline");
    let packed = fs::File::open(offline.join("dumps/null-deref.elf.gz")).expect("a dump");
    let mut dump = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut dump).expect("a dump");
    fs::write(directory.path().join("guest.dump"), dump).expect("a file");
    fs::copy(offline.join("guest.elf"), directory.path().join("guest.elf")).expect("a file");
    let finished = shell(&command, directory.path()).expect_code(exit::CRASH);
    equals_but_for_numbers(&finished.stdout, &shown);
}

#[test]
fn the_session_of_a_linux_guest_is_what_it_prints() {
    let (command, shown) = session("report linux.core");
    let directory = tempfile::tempdir().expect("a directory");
    let core = crate::offline::linux::core("61", "spinlocks");
    fs::write(directory.path().join("linux.core"), core).expect("a file");
    let finished = shell(&command, directory.path()).expect_code(exit::HANG);
    equals_but_for_numbers(&finished.stdout, &shown);
}

#[test]
fn the_session_of_a_log_is_what_it_prints() {
    let (command, shown) = session("symbolize");
    let directory = root().join("tests/linux_logs/fixtures/61");
    let finished = shell(&command, &directory).expect_code(exit::CLEAN);
    equals_but_for_numbers(&finished.stdout.replace('\r', ""), &shown);
}

#[test]
#[ignore = "needs QEMU"]
fn the_session_of_an_attach_is_what_it_prints() {
    let (command, shown) = session("attach");
    let qemu = program(Command::new("qemu-system-x86_64"), ["-accel", "tcg", "-m", "64"])
        .args(["-smp", "3", "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-kernel", "guest.elf", "-append", "workload=mutex-deadlock"])
        .args(["-qmp", "unix:vm.sock,server=on,wait=off"])
        .with_file("guest.elf", nmiscope::bundled::image())
        .start();
    let directory = qemu.directory.path().to_owned();
    let attach = || shell(&command, &directory);
    let mut attached = attach();
    for _ in 0..600 {
        if attached.status.code() == Some(exit::HANG) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        attached = attach();
    }
    qemu.kill();
    qemu.wait();
    equals_but_for_numbers(&attached.expect_code(exit::HANG).stdout, &shown);
}

#[test]
fn every_link_of_the_readme_resolves() {
    let readme = readme();
    let (_, prose) = blocks(&readme);
    let links: Vec<&str> = prose.iter().flat_map(|text| text.split("](").skip(1)).collect();
    assert!(links.len() > 10, "{links:?}");
    for link in links {
        let (target, _) = link.split_once(')').expect("an end of the link");
        assert!(root().join(target).exists(), "no file {target}");
    }
}
