//! Runs as lists of events for the tests of all reporters, and the expected text.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use nmiscope_report::destination::Destination;
use nmiscope_report::{Class, sanitize};

use super::{JsonLines, Junit, Markdown, Plain, Reporter, StatusLevel, TextOptions};
use crate::event::{
    EVENT_SCHEMA_VERSION, EventKind, FarmEvent, FarmFinished, FarmStarted, HangSummary, Id, Status,
    VmFinished, VmStarted,
};
use crate::results;
use crate::timestamp::Timestamp;

/// Start of the runs: 2026-01-02T03:04:05Z.
const START: u64 = 1_767_323_045_000;

/// Run that is made up event by event.
pub struct ScriptedFarm {
    pub events: Vec<FarmEvent>,
    planned: u64,
}

impl ScriptedFarm {
    pub fn new(planned: u64) -> Self {
        Self::starting(planned, |_| {})
    }

    pub fn starting(planned: u64, change: impl FnOnce(&mut FarmStarted)) -> Self {
        let mut start = FarmStarted {
            schema_version: EVENT_SCHEMA_VERSION,
            tool: "0.1.0".into(),
            suite: "suite.toml".into(),
            host: "builder".into(),
            planned,
            done: 0,
            lost: vec![],
            stale: vec![],
            seed: None,
            partition: None,
            cpus: 4,
            memory_bytes: 1 << 30,
        };
        change(&mut start);
        let mut farm = Self { events: vec![], planned };
        farm.add(EventKind::FarmStarted(start));
        farm
    }

    pub fn add(&mut self, kind: EventKind) {
        let time = Timestamp::from_unix_ms(START + 100 * self.events.len() as u64);
        self.events.push(FarmEvent { time, kind });
    }

    pub fn start(&mut self, name: &str) {
        let id = Id { name: name.into(), run: 1, attempt: 1 };
        let directory = results::try_directory(&id);
        self.add(EventKind::VmStarted(VmStarted { id, directory, definition: String::new() }));
    }

    pub fn end(&mut self, name: &str, status: Status) {
        self.end_with(name, status, |_| {});
    }

    pub fn end_with(&mut self, name: &str, status: Status, change: impl FnOnce(&mut VmFinished)) {
        let mut end = VmFinished {
            id: Id { name: name.into(), run: 1, attempt: 1 },
            directory: PathBuf::new(),
            status,
            again: false,
            flaky: false,
            known: None,
            reason: None,
            hang: None,
            elapsed_ms: 412.0,
            files: [("console".to_owned(), "console.log".into())].into(),
        };
        change(&mut end);
        end.directory = results::try_directory(&end.id);
        if end.hang.is_some() {
            end.files.insert("core".into(), "hang.core".into());
            end.files.insert("report".into(), "report.json".into());
        }
        self.add(EventKind::VmFinished(Box::new(end)));
    }

    /// Adds the end event, with totals of the events so far.
    pub fn finish(&mut self) {
        let ends = self.events.iter().filter_map(|event| match &event.kind {
            EventKind::VmFinished(end) if !end.again && end.status != Status::Interrupted => {
                Some(end)
            }
            _ => None,
        });
        let ends: Vec<_> = ends.collect();
        let mut counts = std::collections::BTreeMap::new();
        for end in &ends {
            *counts.entry(end.status).or_insert(0) += 1;
        }
        let failed = ends.iter().filter(|end| end.status != Status::Pass);
        let signatures = failed.filter_map(|end| Some(&end.hang.as_ref()?.signature));
        let finished = FarmFinished {
            counts,
            flaky: ends.iter().filter(|end| end.flaky).count() as u64,
            known: ends.iter().filter(|end| end.known.is_some()).count() as u64,
            distinct_hangs: signatures.collect::<std::collections::BTreeSet<_>>().len() as u64,
            not_run: self.planned.saturating_sub(ends.len() as u64),
            elapsed_ms: 18_300.0,
        };
        self.add(EventKind::FarmFinished(finished));
    }
}

/// Makes a hang, a deadlock if it has locks.
pub fn hang(signature: &str, locks: &[&str], function: Option<&str>) -> HangSummary {
    HangSummary {
        class: if locks.is_empty() { Class::HardLockup } else { Class::Deadlock },
        signature: signature.into(),
        blamed: ["cpu0", "cpu1"].map(Into::into).into(),
        locks: locks.iter().copied().map(Into::into).collect(),
        function: function.map(Into::into),
    }
}

/// Makes the deadlock that the examples have.
fn abba() -> HangSummary {
    hang("7f3a91c2deadbeef", &["INODE_LOCK", "JOURNAL_LOCK"], Some("locks::take_second"))
}

/// Makes a run with events of every kind.
pub fn events() -> Vec<FarmEvent> {
    let mut farm = ScriptedFarm::starting(19, |start| {
        start.lost = vec!["boot/cpus=1".into(), "\x1b]0;title\x07".into()];
        (start.seed, start.partition) = (Some(7), Some("hash:1/4".into()));
    });
    farm.start("boot/cpus=1");
    farm.end("boot/cpus=1", Status::Pass);
    farm.end("boot/cpus=8", Status::Pass);
    farm.end_with("boot/cpus=8", Status::Pass, |end| end.id.run = 2);
    for (attempt, again) in [(1, true), (2, false)] {
        farm.end_with("storage/abba", Status::Hang, |end| {
            (end.id.attempt, end.again, end.hang) = (attempt, again, Some(abba()));
            end.elapsed_ms = 3200.0;
        });
    }
    farm.end_with("storage/abba", Status::Hang, |end| (end.id.run, end.hang) = (3, Some(abba())));
    farm.end_with("storage/sometimes", Status::Hang, |end| {
        (end.again, end.hang) = (true, Some(hang("00aa", &[], None)));
    });
    farm.end_with("storage/sometimes", Status::Pass, |end| (end.id.attempt, end.flaky) = (2, true));
    farm.end_with("storage/known", Status::Hang, |end| {
        end.hang = Some(hang("c0ffee00c0ffee00", &[], Some("spin")));
        end.known = Some("https://bugs.example/42".into());
    });
    farm.end_with("expected/hang", Status::Pass, |end| end.hang = Some(abba()));
    let reasons = [
        ("exit", Status::Fail, "it left with code 3"),
        ("panic", Status::Crash, "it panicked: no\x1b[2J room\nleft"),
        ("slow", Status::Timeout, "it had not ended after 30.0 s"),
        ("starved", Status::Starved, "it made no progress for 30.0 s: run fewer VMs at a time"),
        ("killed", Status::Broken, "its process was killed by SIGKILL"),
        ("cut", Status::Interrupted, "the farm was ended"),
    ];
    for (name, status, reason) in reasons {
        farm.end_with(name, status, |end| end.reason = Some(reason.into()));
    }
    let odd = "../odd\n|<b>\u{202e}name\x1b[31m";
    farm.end_with(odd, Status::Hang, |end| {
        let hang =
            hang("0123456789abcdef", &["LOCK\x07", "`x`|", "c", "d", "e"], Some("a::b\r<T>"));
        (end.hang, end.reason) = (Some(hang), Some("it should have crashed".into()));
    });
    farm.end(&"long".repeat(60), Status::Fail);
    farm.add(EventKind::FarmInterrupted { by: "SIGINT".into() });
    farm.finish();
    farm.events
}

/// Passes all events to a reporter.
pub fn report_all(reporter: &mut dyn Reporter, events: &[FarmEvent]) {
    for event in events {
        reporter.report(event).unwrap();
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns the output of `Plain`, with colors.
fn colored(events: &[FarmEvent]) -> String {
    let out = Shared::default();
    report_all(
        &mut Plain::new(Box::new(out.clone()), "results".into(), TextOptions::default()),
        events,
    );
    out.text()
}

/// Returns the output of `Plain`, without colors.
pub fn lines(events: &[FarmEvent]) -> String {
    anstream::adapter::strip_str(&colored(events)).to_string()
}

/// Compares text with a file in golden/, or updates the file: `NMISCOPE_UPDATE=1 cargo test -p
/// nmiscope-farm reporters`.
#[track_caller]
pub fn is_golden(file: &str, text: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/src/reporters/golden/{file}");
    if std::env::var_os("NMISCOPE_UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let hint = "NMISCOPE_UPDATE=1 cargo test -p nmiscope-farm reporters";
    assert!(text == expected, "{file} is out of date; {hint}\n{text}");
}

#[test]
fn plain_lines_of_a_full_run_match_the_golden_file() {
    is_golden("plain.txt", &lines(&events()));
}

#[test]
fn status_levels_select_the_lines_of_tries_and_keep_the_summary() {
    let mut farm = ScriptedFarm::new(4);
    farm.start("good");
    farm.end("good", Status::Pass);
    farm.end_with("later", Status::Fail, |end| end.again = true);
    farm.end_with("later", Status::Pass, |end| (end.id.attempt, end.flaky) = (2, true));
    farm.end_with("known", Status::Hang, |end| end.known = Some("url".into()));
    farm.end("bad", Status::Crash);
    farm.finish();
    let labels = |status_level| {
        let out = Shared::default();
        let options = TextOptions { status_level, hunt: false };
        report_all(&mut Plain::new(Box::new(out.clone()), "results".into(), options), &farm.events);
        let text = anstream::adapter::strip_str(&out.text()).to_string();
        let (lines, summary) = text.split_once(" ────────────\n").expect("a summary");
        assert!(summary.starts_with(" 4 VMs in 18.3 s: "), "{summary}");
        let label = |line: &str| line.split_whitespace().next().map(str::to_owned);
        lines.lines().filter_map(label).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(labels(StatusLevel::None), "");
    assert_eq!(labels(StatusLevel::Fail), "CRASH");
    assert_eq!(labels(StatusLevel::Retry), "TRY FLAKY KNOWN CRASH");
    assert_eq!(labels(StatusLevel::Pass), "PASS TRY FLAKY KNOWN CRASH");
    assert_eq!(labels(StatusLevel::All), "START PASS TRY FLAKY KNOWN CRASH");
}

#[test]
fn run_without_failures_has_a_short_summary() {
    let mut farm = ScriptedFarm::new(2);
    farm.end("boot/cpus=1", Status::Pass);
    farm.end("boot/cpus=8", Status::Pass);
    farm.finish();
    let expected = "
 PASS  [  0.41s] boot/cpus=1
 PASS  [  0.41s] boot/cpus=8
 ────────────
 2 VMs in 18.3 s: 2 passed
";
    assert_eq!(lines(&farm.events), &expected[1..]);
}

#[test]
fn hang_is_shown_with_locks_signature_and_files() {
    let mut farm = ScriptedFarm::new(1);
    farm.end_with("storage/abba", Status::Hang, |end| {
        (end.hang, end.elapsed_ms) = (Some(abba()), 3200.0);
    });
    farm.finish();
    let expected = "
 HANG  [  3.20s] storage/abba        deadlock  INODE_LOCK <-> JOURNAL_LOCK   sig 7f3a91c2
 ────────────
 1 VM in 18.3 s: 1 hung (1 distinct)
 results/7f3a91c2/  deadlock in take_second  ×1   report.json  hang.core  console.log
";
    assert_eq!(lines(&farm.events), &expected[1..]);
}

#[test]
fn resumed_run_shows_completed_and_lost_vms() {
    let mut farm = ScriptedFarm::starting(40, |start| {
        (start.done, start.lost) = (7, (0..25).map(|number| format!("vm{number}")).collect());
    });
    farm.finish();
    let text = lines(&farm.events);
    assert!(text.starts_with(" resumed: 7 of 40 are done\n 25 VMs lost when"), "{text}");
    assert!(text.contains("vm19 and 5 more\n"), "{text}");
    assert!(text.contains(" 40 VMs in 18.3 s: 40 not run\n"), "{text}");
    assert!(text.ends_with(" 40 VMs are left: --resume runs them\n"), "{text}");
}

#[test]
fn earlier_farms_failures_are_only_in_the_final_summary() {
    let mut earlier = ScriptedFarm::new(3);
    earlier.end_with("vm", Status::Hang, |end| end.hang = Some(abba()));
    earlier.end_with("again", Status::Crash, |end| end.again = true);
    earlier.end_with("cut", Status::Interrupted, |end| end.reason = Some("ended".into()));
    let mut farm = ScriptedFarm::starting(3, |start| start.done = 1);
    farm.end("again", Status::Pass);
    farm.end("cut", Status::Pass);
    farm.finish();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let out = Shared::default();
    let reporters: [Box<dyn Reporter>; 4] = [
        Box::new(Plain::new(Box::new(out.clone()), "results".into(), TextOptions::default())),
        Box::new(JsonLines::new(Box::new(std::io::sink()))),
        Box::new(Junit::new(Destination::open(&root.join("junit.xml")).unwrap(), root.into())),
        Box::new(Markdown::new(Destination::open(&root.join("summary.md")).unwrap(), root.into())),
    ];
    for mut reporter in reporters {
        earlier.events.iter().for_each(|event| reporter.note_earlier(event));
        report_all(&mut *reporter, &farm.events);
    }
    let text = anstream::adapter::strip_str(&out.text()).to_string();
    assert!(text.starts_with(" resumed: 1 of 3 are done\n PASS  [  0.41s] again\n"), "{text}");
    assert!(text.contains(" results/7f3a91c2/  deadlock in take_second  ×1 "), "{text}");
    assert!(!text.contains("crashed") && !text.contains("interrupted"), "{text}");
    let junit = std::fs::read_to_string(root.join("junit.xml")).unwrap();
    let report = quick_junit::Report::deserialize_from_str(&junit).unwrap();
    assert_eq!((report.tests, report.failures, report.errors), (3, 1, 0));
    let markdown = std::fs::read_to_string(root.join("summary.md")).unwrap();
    assert!(
        markdown.contains("<code>7f3a91c2</code>") && !markdown.contains("again"),
        "{markdown}"
    );
}

#[test]
fn summary_of_a_thousand_failures_is_short() {
    let mut farm = ScriptedFarm::new(2000);
    for number in 0..1000 {
        farm.end(&format!("fail{number:03}"), Status::Fail);
        farm.end_with(&format!("hang{number:03}"), Status::Hang, |end| {
            end.hang = Some(hang(&format!("{number:08x}"), &[], None));
        });
    }
    farm.finish();
    let text = lines(&farm.events);
    let (_, summary) = text.split_once("────\n").unwrap();
    assert_eq!(summary.lines().count(), 1 + 50 + 1 + 20 + 1);
    assert!(summary.contains(" and 950 more; `nmiscope triage results` shows them\n"));
    assert!(summary.ends_with(" and 980 more; they are in results/events.jsonl\n"));
}

#[test]
fn interrupted_run_counts_by_its_repetition_in_the_next_farm() {
    let mut farm = ScriptedFarm::new(1);
    farm.end_with("vm", Status::Hang, |end| (end.again, end.hang) = (true, Some(abba())));
    farm.end("vm", Status::Pass);
    farm.finish();
    assert!(!lines(&farm.events).contains("7f3a91c2/"));
}

#[test]
fn control_characters_are_escaped_except_in_the_reporters_own_colors() {
    for text in [lines(&events()), json_lines(&events())] {
        for line in text.lines() {
            assert_eq!(line, sanitize::line(line));
        }
    }
    // The guest's escape sequences are not hidden among the program's own colors.
    let colored = colored(&events());
    assert!(colored.contains("\x1b[1m") && !colored.contains("\x1b[2J"));
}

fn json_lines(events: &[FarmEvent]) -> String {
    let out = Shared::default();
    report_all(&mut JsonLines::new(Box::new(out.clone())), events);
    out.text()
}

#[test]
fn json_lines_parse_to_the_same_events() {
    let events = events();
    let text = json_lines(&events);
    let read: Vec<FarmEvent> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, events);
}

#[test]
fn closed_pipe_silences_plain_lines_without_an_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    report_all(
        &mut Plain::new(Box::new(Closed), "results".into(), TextOptions::default()),
        &events(),
    );
    assert!(JsonLines::new(Box::new(Closed)).report(&events()[0]).is_err());
}
