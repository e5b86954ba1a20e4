//! Tests of GitHub's workflow: against the schema, and with its steps run in order as by a runner, on one
//! machine.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::support::{DEADLINE, SUITE, ends, farm_alone, faults, shellcheck, text, yaml};
use crate::common::{binary, program, require_kvm};

fn workflow() -> String {
    text("github/farm.yml")
}

fn wrong(workflow: &str) -> Vec<String> {
    let schema = include_str!("../fixtures/github/workflow.json");
    let schema = serde_json::from_str(schema).expect("JSON");
    match yaml(workflow) {
        Ok(documents) => documents.iter().flat_map(|document| faults(&schema, document)).collect(),
        Err(error) => vec![error],
    }
}

/// Returns the steps of a job.
fn steps(job: &str) -> Vec<Value> {
    let workflow = yaml(&workflow()).expect("YAML").remove(0);
    workflow["jobs"][job]["steps"].as_array().expect("steps").clone()
}

/// Returns the shell commands of a job, each with its step's name.
fn commands(job: &str) -> Vec<(String, String)> {
    let of = |step: &Value| {
        let name = step["name"].as_str().unwrap_or_default();
        Some((name.to_owned(), step["run"].as_str()?.to_owned()))
    };
    steps(job).iter().filter_map(of).collect()
}

#[track_caller]
fn command(job: &str, name: &str) -> String {
    let of_name = commands(job).into_iter().find(|(of, _)| of == name);
    of_name.unwrap_or_else(|| panic!("{job} has no step {name}")).1
}

#[test]
fn the_workflow_matches_githubs_schema() {
    let wrong = wrong(&workflow());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_workflow_with_a_mistake_does_not_match_githubs_schema() {
    let right = workflow();
    let rows = [
        ("runs-on:", "run-on:"),
        ("timeout-minutes:", "timeout:"),
        ("    needs: build", "    need: build"),
        ("fail-fast:", "failfast:"),
        ("contents: read", "contents: reads"),
        ("pull_request:", "pull_requests:"),
        ("uses:", "use:"),
        ("jobs:", "job:"),
        ("jobs:", "jobs"),
    ];
    for (from, to) in rows {
        assert!(right.contains(from), "{from}");
        let wrong = wrong(&right.replace(from, to));
        assert!(!wrong.is_empty(), "{to} goes unnoticed");
    }
}

/// A tag can be moved to other code, a commit cannot.
#[test]
fn the_workflow_names_third_party_actions_by_commit() {
    for job in ["build", "farm", "merge"] {
        for step in steps(job) {
            let Some(action) = step["uses"].as_str() else { continue };
            let commit = action.split_once('@').expect("a version").1;
            let is_one = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_one, "{action}");
        }
    }
}

/// GitHub replaces an expression in a command before the shell parses it, possibly by an attacker's branch
/// name.
#[test]
#[ignore = "needs shellcheck"]
fn the_shell_in_the_workflow_passes_shellcheck() {
    for (name, command) in ["build", "farm", "merge"].into_iter().flat_map(commands) {
        assert!(!command.contains("${{"), "{name}: {command}");
        let complaints = shellcheck(&command, "bash");
        assert!(complaints.is_empty(), "{name}: {complaints}");
    }
}

/// Runs a step's command in a directory, as a runner does: bash -e.
fn run_step(directory: &Path, command: &str, environment: &[(&str, &str)]) -> i32 {
    let mut invocation = program(Command::new("bash"), ["-e", "-c", command]).deadline(DEADLINE);
    invocation.command.current_dir(directory);
    for (name, value) in environment {
        invocation = invocation.env(name, value);
    }
    invocation.run().code()
}

#[test]
fn the_workflows_merged_results_equal_those_of_one_machine() {
    require_kvm();
    let alone = farm_alone();

    // Each job's machine is a directory here, and artifacts are moved from one to the next.
    let machines = tempfile::tempdir().expect("a directory");
    let machine = |name: &str| {
        let path = machines.path().join(name);
        std::fs::create_dir_all(path.join("bin")).expect("a directory");
        std::fs::create_dir(path.join("packed")).expect("a directory");
        // Not copied: a process that another test has just forked may have the copy open for writing.
        symlink(binary(), path.join("bin/nmiscope")).expect("a link to the program");
        path
    };
    let last = machine("merge");
    let parts = yaml(&workflow()).expect("YAML").remove(0);
    let parts = parts["jobs"]["farm"]["strategy"]["matrix"]["part"].clone();
    let parts = parts.as_array().expect("parts");
    for part in parts {
        let part_name = format!("part-{part}");
        let partition = format!("hash:{part}/{}", parts.len());
        let here = machine(&part_name);
        std::fs::write(here.join("suite.toml"), SUITE).expect("a suite");
        let environment =
            [("PART", &*part_name), ("PARTITION", &*partition), ("SUITE", "suite.toml")];
        let code = run_step(&here, &command("farm", "Run this part"), &environment);
        assert!([0, 1, 3, 4].contains(&code), "{part_name}: {code}");
        assert_eq!(run_step(&here, &command("farm", "Pack the results"), &environment), 0);
        let packed = format!("{part_name}.tar.gz");
        std::fs::rename(here.join(&packed), last.join("packed").join(&packed))
            .expect("an artifact");
    }
    let summary = last.join("step-summary.md");
    std::fs::write(&summary, "").expect("a file");
    let environment = [("GITHUB_STEP_SUMMARY", summary.to_str().expect("a path"))];
    let code = run_step(&last, &command("merge", "Merge"), &environment);
    assert_eq!(code, alone.code());
    assert_eq!(run_step(&last, &command("merge", "Pack the results"), &environment), 0);
    assert_eq!(ends(&last.join("merged")), ends(&alone.directory.path().join("alone")));
    for (file, said) in [(summary, "### Failures"), (last.join("junit.xml"), "<testsuites ")] {
        let text = std::fs::read_to_string(&file).expect("the merging step has written it");
        assert!(text.contains(said), "{}: {text}", file.display());
    }
}
