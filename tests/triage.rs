//! Triage of made-up results: groups, skipped files, known failures, changes between scans, and merged
//! parts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;
use nmiscope_farm::event::{
    EVENT_SCHEMA_VERSION, EventKind, FarmEvent, FarmFinished, FarmStarted, HangSummary, Id, Status,
    VmFinished, VmStarted,
};
use nmiscope_farm::journal::Journal;
use nmiscope_farm::merge::merge;
use nmiscope_farm::results::try_directory;
use nmiscope_farm::timestamp::Timestamp;
use nmiscope_report::Report;
use serde_json::Value;
use tempfile::TempDir;

const HANG: &str = include_str!("offline/cores/abba-deadlock.json");
pub(crate) const PANIC: &str = include_str!("offline/cores/null-deref.json");

/// Makes the report of a hang with this signature.
pub(crate) fn hang(signature: &str) -> String {
    let mut report: Report = serde_json::from_str(HANG).expect("a report");
    report.hangs[0].signature = signature.into();
    serde_json::to_string_pretty(&report).expect("JSON")
}

pub(crate) const A: &str = "aaaaaaaa00000000";
pub(crate) const B: &str = "bbbbbbbb00000000";

/// Results directory under construction, with a minute between events.
pub(crate) struct Farm {
    pub(crate) root: PathBuf,
    journal: Journal,
    unix_ms: u64,
}

/// Result of a try: its status and its report.
pub(crate) type Went<'a> = (Status, Option<&'a str>);

impl Farm {
    fn new(root: PathBuf, partition: Option<&str>, planned: u64) -> Self {
        Self::starting(root, partition, planned, 1_700_000_000_000)
    }

    /// Makes results of a farm that starts a minute after this time.
    pub(crate) fn starting(
        root: PathBuf,
        partition: Option<&str>,
        planned: u64,
        unix_ms: u64,
    ) -> Self {
        fs::create_dir_all(&root).expect("a directory");
        let journal = Journal::open(&root).expect("a journal");
        let mut farm = Self { root, journal, unix_ms };
        farm.append(EventKind::FarmStarted(FarmStarted {
            schema_version: EVENT_SCHEMA_VERSION,
            tool: "0.1.0".into(),
            suite: "suite.toml".into(),
            host: "host".into(),
            planned,
            done: 0,
            lost: Vec::new(),
            stale: Vec::new(),
            seed: None,
            partition: partition.map(Into::into),
            cpus: 2,
            memory_bytes: 1 << 30,
        }));
        farm
    }

    fn append(&mut self, kind: EventKind) {
        self.unix_ms += 60_000;
        self.journal
            .append(&FarmEvent { time: Timestamp::from_unix_ms(self.unix_ms), kind })
            .expect("it can be written");
    }

    /// Adds a VM with one run that has these tries.
    pub(crate) fn vm(&mut self, name: &str, tries: &[Went<'_>]) -> &mut Self {
        self.run_of(name, 1, tries)
    }

    fn run_of(&mut self, name: &str, run: u32, tries: &[Went<'_>]) -> &mut Self {
        for (at, &(status, report)) in tries.iter().enumerate() {
            let attempt = at as u32 + 1;
            let id = Id { name: name.into(), run, attempt };
            let directory = try_directory(&id);
            let path = self.root.join(&directory);
            fs::create_dir_all(&path).expect("a directory");
            self.append(EventKind::VmStarted(VmStarted {
                id: id.clone(),
                directory: directory.clone(),
                definition: String::new(),
            }));
            if let Some(report) = report {
                fs::write(path.join("report.json"), report).expect("a file");
            }
            let parsed = report.and_then(|report| serde_json::from_str::<Report>(report).ok());
            let hang = parsed.and_then(|report| report.hangs.into_iter().next());
            let hang = hang.map(|hang| HangSummary {
                class: hang.class,
                signature: hang.signature,
                blamed: hang.blamed,
                locks: hang.locks,
                function: None,
            });
            self.append(EventKind::VmFinished(Box::new(VmFinished {
                id,
                directory,
                status,
                again: attempt < tries.len() as u32,
                flaky: status == Status::Pass && attempt > 1,
                known: None,
                reason: None,
                hang,
                elapsed_ms: 60_000.0,
                files: report.iter().map(|_| ("report".into(), "report.json".into())).collect(),
            })));
        }
        self
    }

    /// Adds a VM that hung and left no report.
    pub(crate) fn hang_without_report(&mut self, name: &str, signature: &str) {
        let id = Id { name: name.into(), run: 1, attempt: 1 };
        let hang = HangSummary {
            class: nmiscope_report::Class::HardLockup,
            signature: signature.into(),
            blamed: vec!["cpu0".into()],
            locks: Vec::new(),
            function: None,
        };
        self.append(EventKind::VmFinished(Box::new(VmFinished {
            directory: try_directory(&id),
            id,
            status: Status::Hang,
            again: false,
            flaky: false,
            known: None,
            reason: None,
            hang: Some(hang),
            elapsed_ms: 60_000.0,
            files: BTreeMap::new(),
        })));
    }

    pub(crate) fn finish(&mut self) {
        let finished = FarmFinished {
            counts: BTreeMap::new(),
            flaky: 0,
            known: 0,
            distinct_hangs: 0,
            not_run: 0,
            elapsed_ms: 0.0,
        };
        self.append(EventKind::FarmFinished(finished));
    }
}

/// Runs `nmiscope triage` in a directory that `make` fills.
pub(crate) fn triage(arguments: &[&str], make: impl FnOnce(&Path)) -> Finished {
    let invocation = nmiscope(["triage"]).args(arguments);
    make(invocation.directory.path());
    invocation.run()
}

fn hung(root: &Path) {
    Farm::new(root.join("results"), None, 3)
        .vm("a", &[(Status::Pass, None)])
        .vm("b", &[(Status::Hang, Some(&hang(A))), (Status::Hang, Some(&hang(A)))])
        .vm("c", &[(Status::Hang, Some(&hang(B)))])
        .finish();
}

/// Parses the JSON output, after checking it against the schema.
pub(crate) fn document(finished: &Finished) -> Value {
    let schema: Value =
        serde_json::from_str(include_str!("../docs/triage.schema.json")).expect("JSON");
    let value = serde_json::from_str(&finished.stdout).expect("JSON");
    if let Err(error) = jsonschema::validator_for(&schema).expect("a schema").validate(&value) {
        panic!("{error} at {}: {}", error.instance_path(), finished.all());
    }
    value
}

fn signatures(groups: &Value) -> Vec<&str> {
    let groups = groups.as_array().expect("groups");
    groups.iter().map(|group| group["signature"].as_str().expect("a text")).collect()
}

#[test]
fn hangs_are_grouped_by_signature_newest_first() {
    let finished = triage(&["results"], hung).expect_code(exit::HANG);
    let text = &finished.stdout;
    assert_eq!(finished.stderr, "");
    let at = |wanted: &str| text.find(wanted).unwrap_or_else(|| panic!("no {wanted} in {text}"));
    assert!(at("bbbbbbbb  deadlock in ") < at("aaaaaaaa  deadlock in "));
    for wanted in [
        "×2  1 run of 1 VM, 2023-11-14T22:",
        "open ",
        "results/vms/b/1.2/report.json",
        "2 groups in 3 runs (3 reports read, 1 farm)",
    ] {
        at(wanted);
    }
    assert!(!text.contains('\x1b'), "a pipe has no colors: {text}");
}

#[test]
fn json_output_is_valid_by_the_schema() {
    let arguments = ["--message-format", "json", "results"];
    let finished = triage(&arguments, hung).expect_code(exit::HANG);
    let document = document(&finished);
    assert_eq!(document["kind"], "groups");
    assert_eq!(signatures(&document["groups"]), [B, A]);
    let group = &document["groups"][1];
    assert_eq!((&group["count"], &group["runs"]), (&2.into(), &1.into()));
    assert_eq!(group["vms"], serde_json::json!(["b"]));
    let functions = group["stacks"][0]["functions"].to_string();
    assert!(functions.contains("abba_deadlock"), "{functions}");
}

#[test]
fn single_reports_below_a_directory_are_found() {
    let finished = triage(&["--message-format=json", "runs", "one.json"], |root| {
        for run in ["runs/1", "runs/2/deeper"] {
            fs::create_dir_all(root.join(run)).expect("a directory");
            fs::write(root.join(run).join("postmortem.json"), hang(A)).expect("a file");
        }
        fs::write(root.join("runs/package.json"), "{\"name\": \"left-pad\"}").expect("a file");
        fs::write(root.join("runs/2/notes.txt"), "nothing").expect("a file");
        fs::write(root.join("one.json"), PANIC).expect("a file");
        // The link leads to the directory above, where everything would be found again.
        std::os::unix::fs::symlink(root, root.join("runs/loop")).expect("a link");
    });
    let finished = finished.expect_code(exit::CRASH);
    let document = document(&finished);
    let groups = document["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 2, "{document}");
    let hang = groups.iter().find(|group| group["kind"] == "hang").expect("a hang");
    let names = serde_json::json!(["1/postmortem.json", "2/deeper/postmortem.json"]);
    assert_eq!((&hang["count"], &hang["vms"]), (&2.into(), &names));
    let panic = groups.iter().find(|group| group["kind"] == "panic").expect("a panic");
    assert!(panic["function"].as_str().expect("a text").contains("null_deref"), "{panic}");
    assert_eq!(document["totals"]["skipped"], 1);
    assert!(finished.stderr.contains("package.json: it is not a report"), "{}", finished.stderr);
}

#[test]
fn truncated_report_is_skipped_and_its_hang_still_counts() {
    let whole = hang(A);
    let finished = triage(&["--message-format=json", "results"], |root| {
        Farm::new(root.join("results"), None, 2)
            .vm("whole", &[(Status::Hang, Some(&whole))])
            .vm("cut", &[(Status::Hang, Some(&whole))])
            .finish();
        fs::write(root.join("results/vms/cut/1.1/report.json"), &whole[..whole.len() / 2])
            .expect("a file");
    });
    let finished = finished.expect_code(exit::HANG);
    let document = document(&finished);
    let group = &document["groups"][0];
    assert_eq!(group["count"], 2, "{document}");
    let exemplar = group["exemplar"].as_str().expect("a path");
    assert!(exemplar.contains("whole"), "it is newer, and cannot be read: {exemplar}");
    assert_eq!(document["skipped"][0]["reason"], "it is cut off");
    let said = "skipped results/vms/cut/1.1/report.json: it is cut off";
    assert!(finished.stderr.contains(said), "{}", finished.stderr);
    assert_eq!(document["totals"]["skipped"], 1);
}

#[test]
fn all_skipped_files_are_named_only_with_verbose() {
    let make = |root: &Path| {
        fs::create_dir(root.join("dir")).expect("a directory");
        for number in 0..25 {
            fs::write(root.join(format!("dir/{number}.json")), "").expect("a file");
        }
    };
    for (arguments, lines) in [(&["dir"][..], 11), (&["-v", "dir"], 25)] {
        let finished = triage(arguments, make).expect_code(exit::CLEAN);
        let said = finished.stderr.lines().filter(|line| line.contains("skipped")).count();
        assert_eq!(said, lines, "{}", finished.all());
        assert!(finished.stdout.contains("skipped: 25 files"), "{}", finished.all());
    }
}

#[test]
fn expected_hangs_are_not_grouped_and_other_failures_are_counted() {
    let finished = triage(&["results"], |root| {
        Farm::new(root.join("results"), None, 4)
            .vm("expected", &[(Status::Pass, Some(&hang(A)))])
            .vm("failed", &[(Status::Fail, None)])
            .vm("starved", &[(Status::Starved, None)])
            .finish();
    });
    let finished = finished.expect_code(exit::CLEAN);
    assert!(finished.stdout.contains("0 groups in 3 runs"), "{}", finished.stdout);
    assert!(finished.stdout.contains("in no group: 1 fail, 1 starved"), "{}", finished.stdout);
}

#[test]
fn only_unknown_hangs_fail_the_triage() {
    let entry = |signature: &str, more: &str| {
        let url = format!("https://bugs.example/{signature}");
        format!("[[known]]\nsignature = \"{signature}\"\nurl = \"{url}\"\n{more}\n")
    };
    let a = || entry("AAAAAAAA", "note = \"the usual\"");
    let rows = [
        (a() + &entry(B, "until = \"2999-12-31\""), exit::CLEAN, "2 known"),
        (a(), exit::HANG, "1 known"),
        (a() + &entry(B, "until = \"2020-01-01\""), exit::HANG, "until 2020-01-01"),
        (String::new(), exit::HANG, "2 groups in"),
    ];
    for (known, code, wanted) in rows {
        let finished = triage(&["--known", "known.toml", "results"], |root| {
            hung(root);
            fs::write(root.join("known.toml"), &known).expect("a file");
        });
        let finished = finished.expect_code(code);
        assert!(finished.stdout.contains(wanted), "{}", finished.all());
        let marks = finished.stdout.contains("https://bugs.example/AAAAAAAA (the usual)");
        assert_eq!(marks, !known.is_empty(), "{}", finished.all());
    }
    let finished = triage(&["--known", "known.toml", "results"], |root| {
        hung(root);
        fs::write(root.join("known.toml"), "[[known]]\nsignature = 7\n").expect("a file");
    });
    let finished = finished.expect_code(exit::USAGE);
    assert!(finished.stderr.contains("known.toml:2:13: "), "{}", finished.stderr);
}

fn old_and_new(root: &Path) {
    Farm::new(root.join("old"), None, 4)
        .vm("a", &[(Status::Hang, Some(&hang(A)))])
        .vm("dropped", &[(Status::Hang, Some(&hang("cccccccc00000000")))])
        .vm("always", &[(Status::Fail, None), (Status::Pass, None)])
        .vm("retried", &[(Status::Pass, None)])
        .finish();
    Farm::new(root.join("new"), None, 5)
        .vm("a", &[(Status::Pass, None)])
        .vm("b", &[(Status::Hang, Some(&hang(B)))])
        .vm("always", &[(Status::Fail, None), (Status::Pass, None)])
        .vm("retried", &[(Status::Fail, None), (Status::Pass, None)])
        .run_of("mixed", 1, &[(Status::Pass, None)])
        .run_of("mixed", 2, &[(Status::Fail, None)])
        .run_of("interrupted", 1, &[(Status::Pass, None)])
        .run_of("interrupted", 2, &[(Status::Interrupted, None)])
        .finish();
}

#[test]
fn diff_lists_new_gone_and_newly_flaky() {
    let arguments = ["--message-format=json", "--diff", "old", "new"];
    let finished = triage(&arguments, old_and_new).expect_code(exit::HANG);
    let document = document(&finished);
    assert_eq!(document["kind"], "diff");
    assert_eq!(signatures(&document["new"]), [B]);
    let gone = document["gone"].as_array().expect("groups");
    let gone = gone.iter().map(|gone| (gone["signature"].as_str(), gone["was_run"].as_bool()));
    let wanted = [(Some("cccccccc00000000"), Some(false)), (Some(A), Some(true))];
    assert_eq!(gone.collect::<Vec<_>>(), wanted);
    assert_eq!(document["flaky"], serde_json::json!(["mixed", "retried"]));

    let finished = triage(&["--diff", "old", "new"], old_and_new).expect_code(exit::HANG);
    let end = "1 new, 2 gone, 0 stayed; 2 VMs became flaky\n";
    assert!(finished.stdout.ends_with(end), "{}", finished.stdout);

    // Nothing is new compared with itself, nor if the new group is known.
    triage(&["--diff", "new", "new"], old_and_new).expect_code(exit::CLEAN);
    let finished = triage(&["--known=known.toml", "--diff", "old", "new"], |root| {
        old_and_new(root);
        let known = "[[known]]\nsignature = \"bbbbbbbb\"\nurl = \"https://bugs.example/b\"\n";
        fs::write(root.join("known.toml"), known).expect("a file");
    });
    finished.expect_code(exit::CLEAN);
}

#[test]
fn journal_paths_outside_the_results_are_not_followed() {
    let finished = triage(&["results"], |root| {
        fs::write(root.join("secret.json"), hang(B)).expect("a file");
        let mut farm = Farm::new(root.join("results"), None, 1);
        farm.vm("a", &[(Status::Hang, Some(&hang(A)))]);
        let text = fs::read_to_string(root.join("results/events.jsonl")).expect("a journal");
        let text =
            text.replace("\"report\":\"report.json\"", "\"report\":\"../../../../secret.json\"");
        fs::write(root.join("results/events.jsonl"), text).expect("a journal");
    });
    let finished = finished.expect_code(exit::HANG);
    assert!(
        finished.stderr.contains("does not lie in the results directory"),
        "{}",
        finished.all()
    );
    assert!(finished.stdout.contains("aaaaaaaa"), "{}", finished.all());
    assert!(!finished.stdout.contains("bbbbbbbb"), "{}", finished.all());
}

#[test]
fn text_from_a_guest_is_made_harmless() {
    let mut report: Report = serde_json::from_str(PANIC).expect("a report");
    report.outcome =
        nmiscope_report::Outcome::Panic { cpu: 1, message: Some("\x1b[2Jgone\u{202e}".into()) };
    let report = serde_json::to_string(&report).expect("JSON");
    for arguments in [&["a\x07.json"][..], &["--message-format=json", "a\x07.json"]] {
        let finished = triage(arguments, |root| {
            fs::write(root.join("a\x07.json"), &report).expect("a file");
        });
        let finished = finished.expect_code(exit::CRASH);
        let harmless = |character: char| character == '\n' || !character.is_control();
        assert!(finished.stdout.chars().all(harmless), "{:?}", finished.stdout);
        assert!(!finished.stdout.contains('\u{202e}'), "{:?}", finished.stdout);
    }
}

#[test]
fn unusable_paths_are_refused_and_empty_ones_pass() {
    for arguments in [&["no-such"][..], &["--known=no-such", "."], &["--diff", "."], &[]] {
        triage(arguments, |_| ()).expect_code(exit::USAGE);
    }
    let finished = triage(&["."], |_| ()).expect_code(exit::CLEAN);
    assert!(finished.stderr.contains("no report and no journal"), "{}", finished.stderr);
}

/// Test for functions that distinguish no hang, as the program passes it to triage.
fn is_plumbing(function: &str) -> bool {
    nmiscope::kernel::any_vocabulary().is_plumbing(function)
}

/// Returns the groups of a results directory, with exemplars relative to it.
fn groups(root: &Path) -> Vec<nmiscope_farm::triage::FailureGroup> {
    let scanned = nmiscope_farm::triage::scan(&[root.into()], is_plumbing).expect("it can be read");
    let mut groups = scanned.triage.groups;
    for group in &mut groups {
        let exemplar = PathBuf::from(group.exemplar.take().expect("a report"));
        let relative = exemplar.strip_prefix(root).expect("it is below");
        group.exemplar = Some(relative.display().to_string());
    }
    groups
}

#[test]
fn triage_of_merged_parts_equals_triage_of_the_whole() {
    let directory: TempDir = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let (a, b) = (hang(A), hang(B));
    let vms: [(&str, &[Went<'_>]); 4] = [
        ("hangs", &[(Status::Hang, Some(&a)), (Status::Hang, Some(&a))]),
        ("passes", &[(Status::Pass, None)]),
        ("flaky", &[(Status::Hang, Some(&b)), (Status::Pass, None)]),
        ("panics", &[(Status::Crash, Some(PANIC))]),
    ];
    let mut whole = Farm::new(root.join("whole"), None, 4);
    let mut parts = [1, 2].map(|part| {
        Farm::new(root.join(format!("part-{part}")), Some(&format!("hash:{part}/2")), 2)
    });
    for (number, (name, tries)) in vms.into_iter().enumerate() {
        whole.vm(name, tries);
        // The other part waits meanwhile, so that its events have the times they have in the whole.
        parts[number % 2].vm(name, tries);
        let unix_ms = whole.unix_ms;
        parts.iter_mut().for_each(|part| part.unix_ms = unix_ms);
    }
    whole.finish();
    parts.iter_mut().for_each(Farm::finish);

    let merged = root.join("merged");
    let inputs = parts.map(|part| part.root);
    let summary = merge(&inputs, &merged).expect("it can be merged");
    assert_eq!((&summary.missing[..], &summary.warnings[..]), (&[][..], &[][..]));
    assert_eq!(summary.started.planned, 4);
    assert_eq!((summary.finished.flaky, summary.finished.not_run), (1, 0));

    // Starts and ends of farms differ between hosts; the journals in between are equal.
    let between = |root: &Path| -> Vec<FarmEvent> {
        let events = nmiscope_farm::journal::read(root).expect("a journal").events;
        let is_of_vm = |event: &FarmEvent| {
            matches!(event.kind, EventKind::VmStarted(_) | EventKind::VmFinished(_))
        };
        events.into_iter().filter(is_of_vm).collect()
    };
    assert_eq!(between(&merged), between(&root.join("whole")));
    assert_eq!(groups(&merged), groups(&root.join("whole")));
    assert_eq!(groups(&merged).len(), 3);
    // The merged results hold the tries of the parts already.
    let count = |paths: &[PathBuf]| {
        let scanned = nmiscope_farm::triage::scan(paths, is_plumbing).expect("it can be read");
        scanned.triage.groups.iter().map(|group| group.count).sum::<u64>()
    };
    let all = [&inputs[..], std::slice::from_ref(&merged)].concat();
    assert_eq!(count(&all), count(&inputs));

    let error = merge(&inputs[..1], &merged).expect_err("it is there already");
    assert!(format!("{error:#}").contains("not empty"), "{error:#}");
    let summary = merge(&inputs[..1], &root.join("half")).expect("it can be merged");
    assert_eq!(summary.missing, ["hash:2/2"]);
}
