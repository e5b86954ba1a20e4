//! Tests of the Kubernetes manifests: against the schema, against rules of the API server that the schema
//! lacks, and with their commands as a shell expands them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use nmiscope_farm::suite::Suite;
use serde_json::{Value, json};

use super::support::{faults, shellcheck, text, yaml};
use crate::common::{binary, nmiscope, program};

const FILES: [&str; 3] = ["kvm-device-plugin.yaml", "farm.yaml", "merge.yaml"];

fn manifest(file: &str) -> String {
    text(&format!("kubernetes/{file}"))
}

/// Returns the errors in the documents of a manifest, by the schema of each document's kind.
fn wrong(manifest: &str) -> Vec<String> {
    let schemas = include_str!("../fixtures/kubernetes/v1.37.0-strict.json");
    let schemas: Value = serde_json::from_str(schemas).expect("JSON");
    let of = |document: &Value| {
        let field = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let kind = format!("{}/{}", field("apiVersion"), field("kind"));
        let Some(name) = schemas["kinds"][&kind].as_str() else {
            return vec![format!("no kind {kind}")];
        };
        let schema = json!({
            "$schema": schemas["$schema"],
            "$ref": format!("#/$defs/{name}"),
            "$defs": schemas["$defs"],
        });
        faults(&schema, document)
    };
    match yaml(manifest) {
        Ok(documents) => documents.iter().flat_map(of).collect(),
        Err(error) => vec![error],
    }
}

/// Returns the document of this kind in a manifest.
#[track_caller]
fn document(file: &str, kind: &str) -> Value {
    let documents = yaml(&manifest(file)).expect("YAML");
    let mut of_kind = documents.into_iter().filter(|document| document["kind"] == kind);
    of_kind.next().unwrap_or_else(|| panic!("{file}: no {kind}"))
}

fn pod(job: &Value) -> &Value {
    &job["spec"]["template"]["spec"]
}

fn container(job: &Value) -> &Value {
    &pod(job)["containers"][0]
}

/// Returns the value of an environment variable in a manifest.
fn variable<'a>(job: &'a Value, name: &str) -> &'a str {
    let variables = container(job)["env"].as_array().expect("variables");
    let of_name = variables.iter().find(|variable| variable["name"] == name);
    of_name.and_then(|variable| variable["value"].as_str()).expect("a value")
}

/// Returns the script that a Job's container runs in its shell.
fn script(job: &Value) -> &str {
    let command = &container(job)["command"];
    assert_eq!((&command[0], &command[1]), (&json!("/bin/sh"), &json!("-euc")));
    command[2].as_str().expect("a script")
}

#[test]
fn the_manifests_match_the_schema_of_kubernetes() {
    for file in FILES {
        let wrong = wrong(&manifest(file));
        assert!(wrong.is_empty(), "{file}: {wrong:#?}");
    }
}

#[test]
fn a_manifest_with_a_mistake_does_not_match_the_schema() {
    let farm = manifest("farm.yaml");
    let rows = [
        ("backoffLimitPerIndex", "backoffLimitPerIndexes"),
        ("completions: 8", "completions: eight"),
        ("action: FailIndex", "act: FailIndex"),
        ("action: Ignore", "{}"),
        ("kind: Job", "kind: Jobs"),
        ("apiVersion: batch/v1", "apiVersion: batch/v2"),
        ("accessModes: [ReadWriteMany]", "accessModes: ReadWriteMany"),
        ("terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 60s"),
        ("drop: [ALL]", "dropped: [ALL]"),
        ("mountPath: /suite", "mount: /suite"),
        ("spec:", "spec"),
    ];
    for (from, to) in rows {
        assert!(farm.contains(from), "{from}");
        let wrong = wrong(&farm.replace(from, to));
        assert!(!wrong.is_empty(), "{to} goes unnoticed");
    }
}

/// Rules of the API server for an Indexed Job beyond the schema (Job's reference: fields
/// `backoffLimitPerIndex` and `podFailurePolicy`).
#[test]
fn each_part_of_the_farm_can_fail_alone() {
    let farm = document("farm.yaml", "Job");
    assert_eq!(farm["spec"]["completionMode"], "Indexed");
    assert!(farm["spec"]["backoffLimitPerIndex"].is_u64());
    assert_eq!(pod(&farm)["restartPolicy"], "Never");
    let rules = farm["spec"]["podFailurePolicy"]["rules"].as_array().expect("rules");
    assert_eq!(rules[0]["action"], "Ignore", "the first rule that is true is the one that counts");
    assert_eq!(rules[1]["onExitCodes"]["values"], json!([1, 2, 3, 4]));
    assert_eq!(rules[1]["onExitCodes"]["containerName"], container(&farm)["name"]);
}

#[test]
fn the_number_of_parts_is_the_same_in_all_manifests() {
    let (farm, merge) = (document("farm.yaml", "Job"), document("merge.yaml", "Job"));
    let parts = farm["spec"]["completions"].as_u64().expect("a number").to_string();
    assert_eq!(farm["spec"]["parallelism"], farm["spec"]["completions"]);
    assert_eq!((variable(&farm, "PARTS"), variable(&merge, "PARTS")), (&*parts, &*parts));
}

/// The kubelet's static CPU manager requires whole CPUs, and requests equal to the limits.
#[test]
fn a_part_has_cpus_of_its_own_and_no_privileges() {
    let farm = document("farm.yaml", "Job");
    let resources = &container(&farm)["resources"];
    assert_eq!(resources["requests"], resources["limits"]);
    let cpus = resources["limits"]["cpu"].as_str().expect("CPUs");
    assert!(cpus.parse::<u32>().is_ok(), "{cpus}");
    assert_eq!(resources["limits"]["squat.ai/kvm"], "1");
    let plugin = manifest("kvm-device-plugin.yaml");
    assert!(plugin.contains(
        r#"{"name": "kvm", "groups": [{"count": 64, "paths": [{"path": "/dev/kvm"}]}]}"#
    ));
    for job in [farm, document("merge.yaml", "Job")] {
        let security = &container(&job)["securityContext"];
        assert_eq!(security["privileged"], Value::Null);
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(pod(&job)["securityContext"]["runAsNonRoot"], true);
        let has_host = |volume: &Value| volume["hostPath"] != Value::Null;
        assert!(!pod(&job)["volumes"].as_array().expect("volumes").iter().any(has_host));
    }
}

fn suite() -> String {
    document("farm.yaml", "ConfigMap")["data"]["suite.toml"].as_str().expect("a suite").to_owned()
}

#[test]
fn the_suite_in_the_manifest_can_be_loaded() {
    let nowhere = Path::new("/");
    let suite = Suite::parse(suite(), nowhere, nowhere).expect("a suite");
    assert!(!suite.vms.is_empty());
}

#[test]
fn each_vm_of_the_suite_is_in_the_pod_of_one_index() {
    let farm = document("farm.yaml", "Job");
    let run = |index: Option<u64>, command: &str| {
        let mut invocation = program(Command::new("/bin/sh"), ["-euc", command])
            .with_file("suite.toml", suite().as_bytes())
            .env("NMISCOPE", binary().to_str().expect("a path"))
            .env("CPUS", "4")
            .env("MEMORY", "4096")
            .env("PARTS", variable(&farm, "PARTS"));
        if let Some(index) = index {
            invocation = invocation.env("JOB_COMPLETION_INDEX", &index.to_string());
        }
        let finished = invocation.run().expect_code(0);
        finished.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // The commands list names instead of running VMs, with the volumes in the test's directory.
    let command = script(&farm).replace("exec nmiscope farm", r#"exec "$NMISCOPE" farm --list"#);
    let command = command.replace("/suite/", "").replace("/results/", "");
    let mut all = BTreeSet::new();
    for index in 0..farm["spec"]["completions"].as_u64().expect("a number") {
        for name in run(Some(index), &command) {
            assert!(all.insert(name.clone()), "{name} is in two pods");
        }
    }
    let whole = run(None, r#"exec "$NMISCOPE" farm --list suite.toml"#);
    assert_eq!(all, whole.into_iter().collect());
}

/// The merge is run on directories with the names that the farm's Job makes.
#[test]
fn the_merge_reads_the_parts_that_the_farm_makes() {
    let (farm, merge) = (document("farm.yaml", "Job"), document("merge.yaml", "Job"));
    assert!(script(&farm).contains(r#"--out "/results/part-$part-of-$PARTS""#));
    let command = script(&merge).replace("exec nmiscope", "echo").replace("/results/", "");
    let finished = program(Command::new("/bin/sh"), ["-euc", &command])
        .env("PARTS", variable(&merge, "PARTS"))
        .with_file("part-1-of-8", b"")
        .with_file("part-8-of-8", b"")
        .with_file("part-1-of-4", b"")
        .run()
        .expect_code(0);
    assert!(finished.stdout.ends_with(" part-1-of-8 part-8-of-8\n"), "{}", finished.stdout);
    // The program accepts the options of the command.
    nmiscope(["farm", "merge", "--help"]).run().expect_code(0);
    for option in ["--out", "--junit", "--summary"] {
        assert!(finished.stdout.contains(option), "{option}: {}", finished.stdout);
    }
}

#[test]
#[ignore = "needs shellcheck"]
fn the_shell_in_the_manifests_passes_shellcheck() {
    for file in ["farm.yaml", "merge.yaml"] {
        let complaints = shellcheck(script(&document(file, "Job")), "sh");
        assert!(complaints.is_empty(), "{file}: {complaints}");
    }
}
