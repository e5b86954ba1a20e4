//! The files of `deploy/`, checks of them, and the contents of a results directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nmiscope_farm::event::{EventKind, FarmEvent, Status};
use serde_json::Value;

use crate::common::{Finished, nmiscope, program};

/// A suite of VMs that end with each status, some as expected and some not. It has twelve, so that each of
/// four parts gets some.
pub const SUITE: &str = r#"
[defaults]
cpus = 1
workload = "exit"
time-limit = "200s"
hang-after = { starved = "600s" }

[[vm]]
name = "exit"
matrix = { memory = ["32M", "48M", "64M", "96M"], append = ["", "quiet"] }

[[vm]]
name = "code"
append = "exit_code=3"

[[vm]]
name = "deadlock/expected"
cpus = 2
workload = "abba-deadlock"
expect = { hang = "deadlock" }

[[vm]]
name = "deadlock"
cpus = 2
workload = "abba-deadlock"

[[vm]]
name = "panic"
workload = "panic"
"#;

/// Longest wait for an event, on a machine however busy.
pub const DEADLINE: Duration = Duration::from_secs(240);

/// Runs a farm of the suite on this one machine, with its results in `alone`.
pub fn farm_alone() -> Finished {
    nmiscope(["farm", "suite.toml", "--out", "alone"])
        .with_file("suite.toml", SUITE.as_bytes())
        .deadline(DEADLINE)
        .run()
}

/// Returns the path of a file in `deploy/`.
pub fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

/// Returns the text of a file in `deploy/`.
#[track_caller]
pub fn text(file: &str) -> String {
    let path = path(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Parses the documents of a YAML file.
pub fn yaml(text: &str) -> Result<Vec<Value>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| error.to_string())
}

/// Returns the errors of a document by a schema.
pub fn faults(schema: &Value, document: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(schema).expect("a schema");
    let faults = validator.iter_errors(document);
    faults.map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// Returns shellcheck's output for a script; empty if it finds no fault.
pub fn shellcheck(script: &str, shell: &str) -> String {
    let file = "script.sh";
    let arguments = ["--shell", shell, "--norc", file];
    let finished =
        program(Command::new("shellcheck"), arguments).with_file(file, script.as_bytes()).run();
    finished.stdout + &finished.stderr
}

/// The parts of a VM's result that do not depend on the machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    status: Status,
    flaky: bool,
    signature: Option<String>,
    blamed: BTreeSet<String>,
}

/// Returns the result of each run of each VM, by name, run and try.
#[track_caller]
pub fn ends(results: &Path) -> BTreeMap<(String, u32, u32), Ended> {
    let mut ends = BTreeMap::new();
    for event in events(results) {
        let EventKind::VmFinished(finished) = event.kind else { continue };
        let id = finished.id;
        let (signature, blamed) = finished.hang.map(|hang| (hang.signature, hang.blamed)).unzip();
        let ended = Ended {
            status: finished.status,
            flaky: finished.flaky,
            signature,
            blamed: blamed.into_iter().flatten().collect(),
        };
        let again = ends.insert((id.name.clone(), id.run, id.attempt), ended);
        assert!(again.is_none(), "{} is there twice", id.name);
    }
    ends
}

/// Returns the events of a results directory.
#[track_caller]
pub fn events(results: &Path) -> Vec<FarmEvent> {
    let path = results.join("events.jsonl");
    let text = std::fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}
