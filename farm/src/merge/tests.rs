//! Merges of small results directories.

use std::os::unix::fs::symlink;

use nmiscope_report::Class;

use super::*;
use crate::event::HangSummary;

/// Results directory that a test builds event by event.
struct Results {
    root: PathBuf,
    events: Vec<FarmEvent>,
}

fn started(partition: Option<&str>, host: &str, planned: u64) -> FarmStarted {
    FarmStarted {
        schema_version: EVENT_SCHEMA_VERSION,
        tool: "0.1.0".into(),
        suite: "suite.toml".into(),
        host: host.into(),
        planned,
        done: 0,
        lost: Vec::new(),
        stale: Vec::new(),
        seed: Some(7),
        partition: partition.map(Into::into),
        cpus: 2,
        memory_bytes: 1 << 30,
    }
}

fn end(name: &str, status: Status) -> VmFinished {
    let hang = (status == Status::Hang).then(|| HangSummary {
        class: Class::Deadlock,
        signature: "7f3a91c2deadbeef".into(),
        blamed: vec!["cpu0".into()],
        locks: Vec::new(),
        function: None,
    });
    VmFinished {
        id: Id { name: name.into(), run: 1, attempt: 1 },
        directory: PathBuf::from("vms").join(name).join("1.1"),
        status,
        again: false,
        flaky: false,
        known: None,
        reason: None,
        hang,
        elapsed_ms: 5.0,
        files: BTreeMap::from([("console".into(), "console.log".into())]),
    }
}

impl Results {
    fn new(folder: &Path, name: &str, start: FarmStarted) -> Self {
        let root = folder.join(name);
        fs::create_dir_all(&root).unwrap();
        Self {
            root,
            events: vec![FarmEvent {
                time: Timestamp::from_unix_ms(1000),
                kind: EventKind::FarmStarted(start),
            }],
        }
    }

    fn start(mut self, unix_ms: u64, of: &VmFinished) -> Self {
        let (id, directory) = (of.id.clone(), of.directory.clone());
        let started = VmStarted { id, directory, definition: String::new() };
        self.events.push(FarmEvent {
            time: Timestamp::from_unix_ms(unix_ms),
            kind: EventKind::VmStarted(started),
        });
        self
    }

    /// Adds a VM that ended a second after its start, with `said` on its console.
    fn vm(self, unix_ms: u64, of: VmFinished, said: &str) -> Self {
        let mut this = self.start(unix_ms, &of);
        if let Ok(directory) = relative_path::resolve(&this.root, &of.directory) {
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("console.log"), said).unwrap();
        }
        this.events.push(FarmEvent {
            time: Timestamp::from_unix_ms(unix_ms + 1000),
            kind: EventKind::VmFinished(Box::new(of)),
        });
        this
    }

    fn finish(self, unix_ms: u64) -> PathBuf {
        let mut this = self;
        let finished = FarmFinished {
            counts: BTreeMap::new(),
            flaky: 0,
            known: 0,
            distinct_hangs: 0,
            not_run: 0,
            elapsed_ms: 0.0,
        };
        this.events.push(FarmEvent {
            time: Timestamp::from_unix_ms(unix_ms),
            kind: EventKind::FarmFinished(finished),
        });
        this.leave()
    }

    fn leave(self) -> PathBuf {
        write_journal(&self.root, self.events.iter()).unwrap();
        self.root
    }
}

/// Returns the paths of all files below a directory.
fn files(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else {
                let path = entry.path();
                files.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    files.sort();
    files
}

fn merge_in(folder: &Path, inputs: &[PathBuf]) -> anyhow::Result<MergeSummary> {
    merge(inputs, &folder.join("merged"))
}

/// Journal in tests/former: written by a farm whose events were of version 1.
#[test]
fn journal_of_version_1_is_merged_into_the_current_version() {
    let folder = tempfile::tempdir().unwrap();
    let one = folder.path().join("one");
    fs::create_dir_all(one.join("vms/abba/1.2")).unwrap();
    fs::write(one.join(journal::FILE), include_str!("../../tests/former/events.jsonl")).unwrap();
    let output = folder.path().join("all");
    let summary = merge(&[one], &output).unwrap();
    assert_eq!(summary.started.schema_version, EVENT_SCHEMA_VERSION);
    assert_eq!((summary.tries, summary.finished.distinct_hangs), (4, 1));
    assert!(output.join("0a2e58fd").is_symlink());
    let text = fs::read_to_string(output.join(journal::FILE)).unwrap();
    let first = r#"{"time":"2026-11-28T07:06:49.903Z","event":"farm-started","schema_version":2,"#;
    assert!(text.starts_with(first) && !text.contains("at_ms"), "{text}");
}

#[test]
fn results_that_a_resumed_farm_marked_stale_are_not_merged() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let before = Results::new(folder, "one", started(None, "alpha", 2))
        .vm(1000, end("gone", Status::Hang), "old")
        .vm(3000, end("kept", Status::Pass), "kept");
    let mut resumed = before;
    let stale = FarmStarted { stale: vec!["gone".into()], ..started(None, "alpha", 1) };
    resumed.events.push(FarmEvent {
        time: Timestamp::from_unix_ms(6000),
        kind: EventKind::FarmStarted(stale),
    });
    let summary = merge_in(folder, &[resumed.finish(7000)]).unwrap();
    assert_eq!(summary.finished.counts, BTreeMap::from([(Status::Pass, 1)]));
    assert_eq!((summary.tries, summary.finished.not_run), (1, 0));
    let merged = files(&folder.join("merged"));
    assert!(!merged.iter().any(|file| file.contains("gone")), "{merged:?}");
}

#[test]
fn two_merged_parts_equal_the_results_of_one_farm() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let flaky = VmFinished { flaky: true, ..end("c", Status::Pass) };
    let one = Results::new(folder, "one", started(Some("hash:1/2"), "alpha", 2))
        .vm(1000, end("a", Status::Hang), "A")
        .vm(3000, flaky, "C")
        .finish(5000);
    let two = Results::new(folder, "two", started(Some("hash:2/2"), "beta", 2))
        .vm(1500, end("b", Status::Hang), "B")
        .finish(9000);
    let summary = merge_in(folder, &[one, two]).unwrap();
    assert_eq!((summary.tries, &summary.missing[..], &summary.warnings[..]), (3, &[][..], &[][..]));
    assert_eq!(
        summary.started,
        FarmStarted { cpus: 4, memory_bytes: 2 << 30, ..started(None, "alpha, beta", 4) }
    );
    assert_eq!(
        summary.finished,
        FarmFinished {
            counts: BTreeMap::from([(Status::Pass, 1), (Status::Hang, 2)]),
            flaky: 1,
            known: 0,
            distinct_hangs: 1,
            not_run: 1,
            elapsed_ms: 8000.0,
        }
    );
    let merged = folder.join("merged");
    let events = journal::read(&merged).unwrap().events;
    assert!(events.is_sorted_by_key(|event| event.time), "{events:?}");
    let names: Vec<&str> = events
        .iter()
        .map(|event| match &event.kind {
            EventKind::FarmStarted(_) => "farm",
            EventKind::VmStarted(started) => &started.id.name,
            EventKind::VmFinished(finished) => &finished.id.name,
            EventKind::FarmFinished(_) => "end",
            EventKind::FarmInterrupted { .. } => "interrupted",
        })
        .collect();
    assert_eq!(names, ["farm", "a", "b", "a", "b", "c", "c", "end"]);
    let wanted = ["7f3a91c2", "events.jsonl", "vms/a/1.1/console.log"];
    let wanted = [&wanted[..], &["vms/b/1.1/console.log", "vms/c/1.1/console.log"]].concat();
    assert_eq!(files(&merged), wanted);
    let exemplar = merged.join("7f3a91c2/console.log");
    assert_eq!(fs::read_to_string(exemplar).unwrap(), "A");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 3, "nothing else is left");
}

#[test]
fn missing_part_and_unfinished_farm_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let one = Results::new(folder, "one", started(Some("count:2/3"), "alpha", 1)).leave();
    let summary = merge_in(folder, &[one]).unwrap();
    assert_eq!(summary.missing, ["count:1/3", "count:3/3"]);
    assert_eq!(summary.started.partition.as_deref(), Some("count:2/3"));
    assert_eq!(summary.finished.not_run, 1);
    assert!(summary.warnings[0].contains("has not finished"), "{:?}", summary.warnings);
}

#[test]
fn duplicate_tries_merge_only_if_they_are_equal() {
    let passed = || end("a", Status::Pass);
    let failed = || end("a", Status::Fail);
    // Row of the second copy's result, its time, its console, and the number of tries kept if the merge
    // succeeds.
    let rows = [
        (passed(), 1000, "A", Some("A")),
        (failed(), 1000, "A", None),
        (passed(), 1001, "A", None),
        (passed(), 1000, "B", None),
    ];
    for (second, unix_ms, said, stays) in rows {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let make = |name| Results::new(folder, name, started(None, "alpha", 1));
        let one = make("one").vm(1000, passed(), "A").finish(5000);
        let two = make("two").vm(unix_ms, second, said).finish(5000);
        let result = merge_in(folder, &[one, two]);
        let Some(stays) = stays else {
            let error = format!("{:#}", result.unwrap_err());
            assert!(error.contains("different results") && error.contains("two"), "{error}");
            assert!(!folder.join("merged").exists());
            continue;
        };
        let summary = result.unwrap();
        assert_eq!((summary.tries, summary.started.planned), (1, 1));
        let console = fs::read_to_string(folder.join("merged/vms/a/1.1/console.log")).unwrap();
        assert_eq!(console, stays);
    }
}

#[test]
fn finished_try_replaces_its_lost_duplicate() {
    for lost_first in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let lost = Results::new(folder, "lost", started(Some("hash:1/1"), "alpha", 1))
            .start(1000, &end("a", Status::Pass))
            .leave();
        let whole = Results::new(folder, "whole", started(Some("hash:1/1"), "beta", 1))
            .vm(2000, end("a", Status::Pass), "A")
            .finish(5000);
        let inputs = if lost_first { [lost, whole] } else { [whole, lost] };
        let summary = merge_in(folder, &inputs).unwrap();
        assert_eq!(summary.finished.counts, BTreeMap::from([(Status::Pass, 1)]));
        assert!(summary.warnings.iter().any(|said| said.contains("try 1")), "{summary:?}");
        assert_eq!(files(&folder.join("merged")), ["events.jsonl", "vms/a/1.1/console.log"]);
    }
}

#[test]
fn interrupted_and_resumed_run_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut one = Results::new(folder, "one", started(None, "alpha", 1)).vm(
        1000,
        end("a", Status::Interrupted),
        "A",
    );
    let by = EventKind::FarmInterrupted { by: "SIGINT".into() };
    one.events.push(FarmEvent { time: Timestamp::from_unix_ms(2000), kind: by });
    let resumed = EventKind::FarmStarted(started(None, "alpha", 1));
    one.events.push(FarmEvent { time: Timestamp::from_unix_ms(3000), kind: resumed });
    let one = one.vm(3000, end("a", Status::Pass), "A").finish(5000);
    let summary = merge_in(folder, &[one]).unwrap();
    assert_eq!(summary.finished.counts, BTreeMap::from([(Status::Pass, 1)]));
    let events = journal::read(&folder.join("merged")).unwrap().events;
    assert_eq!(events.len(), 4, "{events:?}");
}

#[test]
fn restarted_run_loses_its_earlier_tries() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let attempt = |attempt, status| {
        let id = Id { name: "a".into(), run: 1, attempt };
        let directory = format!("vms/a/1.{attempt}").into();
        VmFinished { id, directory, again: attempt < 3, ..end("a", status) }
    };
    let mut one = Results::new(folder, "one", started(None, "alpha", 1))
        .vm(1000, attempt(1, Status::Hang), "A")
        .vm(2000, attempt(2, Status::Hang), "A")
        .vm(3000, attempt(3, Status::Hang), "A");
    let resumed = EventKind::FarmStarted(started(None, "alpha", 1));
    one.events.push(FarmEvent { time: Timestamp::from_unix_ms(5000), kind: resumed });
    let passed = VmFinished { again: false, ..attempt(1, Status::Pass) };
    let one = one.vm(5000, passed, "B").finish(7000);
    let summary = merge_in(folder, &[one]).unwrap();
    assert_eq!(summary.finished.counts, BTreeMap::from([(Status::Pass, 1)]));
    assert_eq!(summary.tries, 1);
}

#[test]
fn directories_outside_the_results_are_neither_read_nor_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("secret")).unwrap();
    fs::write(folder.join("secret/file"), "secret").unwrap();
    let rows = ["../secret", "/etc", "link", "link/..", "vms/../../secret", ""];
    for (number, directory) in rows.into_iter().enumerate() {
        let bad = VmFinished { directory: directory.into(), ..end("a", Status::Hang) };
        let results = Results::new(folder, &format!("in{number}"), started(None, "alpha", 2));
        symlink(folder.join("secret"), results.root.join("link")).unwrap();
        let good = end("b", Status::Pass);
        let input = results.vm(1000, bad, "").vm(1000, good, "B").finish(5000);
        let output = folder.join(format!("out{number}"));
        let summary = merge(&[input], &output).unwrap();
        assert!(summary.warnings[0].contains("not copied"), "{directory}: {summary:?}");
        // The verdict is kept.
        assert_eq!(summary.finished.counts[&Status::Hang], 1);
        assert_eq!(files(&output), ["events.jsonl", "vms/b/1.1/console.log"], "{directory}");
    }
    assert_eq!(files(&folder.join("secret")), ["file"]);
}

#[test]
fn symbolic_links_within_a_try_are_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let results = Results::new(folder, "in", started(None, "alpha", 1));
    let results = results.vm(1000, end("a", Status::Pass), "A");
    symlink("/etc/passwd", results.root.join("vms/a/1.1/core")).unwrap();
    let input = results.finish(5000);
    let summary = merge_in(folder, &[input]).unwrap();
    assert!(summary.warnings[0].contains("vms/a/1.1/core"), "{summary:?}");
    assert_eq!(files(&folder.join("merged")), ["events.jsonl", "vms/a/1.1/console.log"]);
}

#[test]
fn two_tries_with_one_directory_are_refused() {
    for directory in ["vms/a/1.1", "vms/a/1.1/below"] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let other = VmFinished { directory: directory.into(), ..end("b", Status::Pass) };
        let input = Results::new(folder, "in", started(None, "alpha", 2))
            .vm(1000, end("a", Status::Pass), "A")
            .vm(1000, other, "B")
            .finish(5000);
        let error = format!("{:#}", merge_in(folder, &[input]).unwrap_err());
        assert!(error.contains("share a directory"), "{error}");
    }
}

#[test]
fn merge_into_a_nonempty_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let input = Results::new(folder, "in", started(None, "alpha", 0)).finish(5000);
    fs::create_dir(folder.join("merged")).unwrap();
    merge_in(folder, std::slice::from_ref(&input)).unwrap();
    let error = format!("{:#}", merge_in(folder, &[input]).unwrap_err());
    assert!(error.contains("not empty"), "{error}");
    let error = format!("{:#}", merge(&[folder.join("no")], &folder.join("out")).unwrap_err());
    assert!(error.contains("events.jsonl"), "{error}");
    assert!(!folder.join("out").exists());
}
