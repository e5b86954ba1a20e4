//! Checks of docs/guide.md against the program: the farm lists its suite, stored cores and reports print what
//! it shows, its kernel boots, and its options, keys, values and links exist. To update its sessions:
//! `NMISCOPE_UPDATE=1 cargo test --test end_to_end -- --include-ignored documents::guide::`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{block_with, blocks, commands, shell};
use crate::common::*;
use crate::offline;
use nmiscope_guest::abi;
use nmiscope_guest::printk::NMI_BUF_SIZE;
use serde_json::Value;

/// Lock of the guide's file: two tests may update it.
static WRITING: Mutex<()> = Mutex::new(());

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn guide() -> String {
    fs::read_to_string(docs().join("guide.md")).expect("docs/guide.md")
}

/// Runs the sessions that begin with `program` in `directory`, and compares their output with the guide's, or
/// updates it there.
#[track_caller]
fn check_sessions(program: &str, directory: &Path) {
    let _writing = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = guide();
    let mut after = before.clone();
    let (blocks, _) = blocks(&before);
    let sessions = blocks.iter().filter(|block| block.language == "console");
    let mut checked = 0;
    for session in sessions.filter(|session| session.text.starts_with(&format!("$ {program}"))) {
        let mut expected = String::new();
        for (command, _) in commands(session.text) {
            let finished = shell(command, directory);
            assert_eq!(finished.stderr, "", "{command}");
            expected.push_str(&format!("$ {command}\n{}", finished.stdout.trim_end_matches('\n')));
            expected.push('\n');
        }
        if std::env::var_os("NMISCOPE_UPDATE").is_some() {
            after = after.replace(
                &format!("```console\n{}```", session.text),
                &format!("```console\n{expected}```"),
            );
        } else {
            assert_eq!(session.text, expected, "if it is right so: see the head of {}", file!());
        }
        checked += 1;
    }
    assert!(checked >= 3, "{checked} sessions with {program}");
    if after != before {
        fs::write(docs().join("guide.md"), after).expect("docs/guide.md can be written");
    }
}

#[test]
fn reports_of_stored_cores_are_printed_as_the_guide_shows() {
    check_sessions("nmiscope report cores/", &offline::directory());
}

#[test]
#[ignore = "needs jq"]
fn jq_prints_of_stored_reports_what_the_guide_shows() {
    check_sessions("jq", &offline::directory().join("cores"));
}

#[test]
fn the_example_suite_lists_the_vms_that_the_guide_names() {
    let guide = guide();
    let suite = block_with(&guide, "toml", "[defaults]");
    let session = block_with(&guide, "console", "farm suite.toml --list");
    let [(command, expected)] = &commands(session)[..] else { panic!("one command: {session}") };
    let arguments = command.split_whitespace().skip(1);
    let finished = nmiscope(arguments)
        .with_file("suite.toml", suite.as_bytes())
        .run()
        .expect_code(exit::CLEAN);
    assert_eq!(&finished.stdout, expected);
    assert_eq!(finished.stderr, "");
}

#[test]
fn the_example_of_known_hangs_is_read_by_triage() {
    let guide = guide();
    let known = block_with(&guide, "toml", "[[known]]");
    nmiscope(["triage", ".", "--known", "known.toml"])
        .with_file("known.toml", known.as_bytes())
        .run()
        .expect_code(exit::CLEAN);
}

/// Collects the names of all properties in a schema.
fn properties(schema: &Value, names: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Object(properties)) = members.get("properties") {
                names.extend(properties.keys().cloned());
            }
            members.values().for_each(|value| properties(value, names));
        }
        Value::Array(values) => values.iter().for_each(|value| properties(value, names)),
        _ => {}
    }
}

#[test]
fn every_key_of_the_suite_schema_is_named_in_the_guide() {
    let schema = fs::read_to_string(docs().join("suite.schema.json")).expect("the schema");
    let mut keys = BTreeSet::new();
    properties(&serde_json::from_str(&schema).expect("JSON"), &mut keys);
    assert!(keys.len() > 20, "{keys:?}");
    let guide = guide();
    let (_, section) = guide.split_once("\n## 2. ").expect("section 2");
    let (section, _) = section.split_once("\n## 3. ").expect("section 3");
    let example = block_with(&guide, "toml", "[defaults]");
    let is_named = |key: &String| {
        section.contains(&format!("`{key}`"))
            || section.contains(&format!("`{{ {key} = "))
            || section.contains(&format!(", {key} = "))
    };
    let missing: Vec<&String> = keys.iter().filter(|key| !is_named(key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let settings = ["name", "matrix", "image", "initrd", "workload", "append", "cpus", "memory"];
    let times = ["time-limit", "stop-after", "ready-within", "hang-after"];
    let others = ["retries", "tags", "expect", "console", "must", "must-not", "blamed"];
    for key in settings.iter().chain(&times).chain(&others) {
        assert!(example.contains(&format!("{key} = ")), "the example has no {key}");
    }
}

/// Returns all text that a reader may type: commands of sessions and scripts, and code in sentences.
fn typed(guide: &str) -> Vec<String> {
    let (blocks, prose) = blocks(guide);
    let mut typed = Vec::new();
    for block in blocks {
        match block.language {
            "console" => typed.extend(commands(block.text).iter().map(|(text, _)| (*text).into())),
            "sh" => typed.extend(block.text.replace("\\\n", " ").lines().map(str::to_owned)),
            _ => {}
        }
    }
    for text in prose {
        typed.extend(text.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")));
    }
    typed
}

/// Returns the name of an option, without a value or punctuation behind it; `None` for other words.
fn option(word: &str) -> Option<&str> {
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '-';
    let end = word.find(|character| !is_name(character)).unwrap_or(word.len());
    let name = &word[..end];
    let is_long = name.strip_prefix("--").is_some_and(|name| !name.is_empty());
    let is_short = name.starts_with('-') && !name.starts_with("--") && name.len() == 2;
    (is_long || is_short).then_some(name)
}

#[test]
fn every_option_in_the_guide_is_in_the_help() {
    let commands =
        ["", "run", "attach", "report", "symbolize", "farm", "farm merge", "triage", "guest"];
    let helps: BTreeMap<&str, BTreeSet<String>> = commands
        .into_iter()
        .map(|command| {
            let arguments = command.split_whitespace().chain(["--help"]);
            let help = nmiscope(arguments).run().expect_code(exit::CLEAN).stdout;
            let words = help.split(|c: char| c.is_whitespace() || c == ',');
            (command, words.filter_map(option).map(str::to_owned).collect())
        })
        .collect();
    let all: BTreeSet<&String> = helps.values().flatten().collect();
    let mut checked = 0;
    for text in typed(&guide()) {
        let words: Vec<&str> = text.split_whitespace().collect();
        if let [first] | [first, _] = words[..]
            && let Some(name) = option(first)
        {
            assert!(all.contains(&name.to_owned()), "{text}: no command has {name}");
            checked += 1;
            continue;
        }
        let starts = words.iter().enumerate().filter(|(_, word)| **word == "nmiscope");
        for (start, _) in starts {
            let command = match words[start + 1..] {
                ["farm", "merge", ..] => "farm merge",
                [command, ..] => command,
                [] => continue,
            };
            let Some(help) = helps.get(command) else { continue };
            let arguments = words[start + 1..].iter();
            let arguments = arguments.take_while(|word| !["|", ";", "&&", "||"].contains(word));
            for name in arguments.filter_map(|word| option(word)) {
                assert!(help.contains(name), "{text}: `nmiscope {command}` has no {name}");
                checked += 1;
            }
        }
    }
    assert!(checked > 40, "{checked} options");
}

/// Returns the anchor that a heading gets where Markdown is shown.
fn anchor(heading: &str) -> String {
    let kept =
        heading.trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn every_link_of_the_guide_resolves() {
    let guide = guide();
    let (_, prose) = blocks(&guide);
    let headings = prose.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with('#'));
    let anchors: BTreeSet<String> =
        headings.map(|line| anchor(line.trim_start_matches('#'))).collect();
    let mut checked = 0;
    for link in prose.iter().flat_map(|text| text.split("](").skip(1)) {
        let (target, _) = link.split_once(')').expect("an end of the link");
        if target.starts_with("https://") {
            continue;
        }
        match target.split_once('#') {
            Some(("", anchor)) => assert!(anchors.contains(anchor), "no heading for #{anchor}"),
            _ => assert!(docs().join(target).exists(), "no file {target}"),
        }
        checked += 1;
    }
    assert!(checked > 30, "{checked} links");
}

#[test]
fn the_guide_names_the_traits_of_an_adapter() {
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernel/mod.rs");
    let kernel = fs::read_to_string(kernel).expect("src/kernel/mod.rs");
    let (_, traits) = kernel.split_once("the traits that an adapter implements (").expect("traits");
    let (traits, _) = traits.split_once(')').expect("the end of the traits");
    let in_code: BTreeSet<&str> = traits.split('`').skip(1).step_by(2).collect();
    let guide = guide();
    let (_, traits) = guide.split_once("](../src/kernel/mod.rs): ").expect("the traits");
    let (traits, _) = traits.split_once('.').expect("the end of the traits");
    let in_guide: BTreeSet<&str> = traits.split('`').skip(1).step_by(2).collect();
    assert_eq!(in_guide, in_code);
}

#[test]
fn the_ports_and_values_in_the_guide_are_the_guests() {
    let guide = guide();
    let ports = [abi::DEBUG_EXIT_PORT, abi::POST_PORT, abi::NMI_DONE_PORT];
    for number in ports.map(u32::from).into_iter().chain([abi::RESERVED_BY_HYPERVISOR]) {
        assert!(guide.contains(&format!("`{number:#x}`")), "{number:#x}");
    }
    assert!(guide.contains(&format!("`{:#x}` from a known kernel", abi::POST_READY)));
    assert_eq!(NMI_BUF_SIZE, 4096);
    assert!(guide.contains("| 4,096 bytes |"));
}

#[test]
#[ignore = "needs gcc"]
fn the_guides_own_kernel_prints_and_leaves_with_code_0() {
    require_kvm();
    let guide = guide();
    let folder = tempfile::tempdir().expect("a folder");
    let source = block_with(&guide, "asm", "XEN_ELFNOTE_PHYS32_ENTRY");
    fs::write(folder.path().join("hello.S"), source).expect("a file");
    let session = block_with(&guide, "console", "cc -c hello.S");
    let [compile, link, run, ..] = &commands(session)[..] else { panic!("{session}") };
    for (command, _) in [compile, link] {
        shell(command, folder.path()).expect_code(exit::CLEAN);
    }
    let (command, printed) = run;
    let finished = shell(command, folder.path()).expect_code(exit::CLEAN);
    assert_eq!(&format!("{}{}", finished.stdout, finished.stderr), printed);
}
