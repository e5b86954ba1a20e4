//! Time and memory of triage over many reports, as a farm leaves them and as single runs do. Each row runs
//! in a process of its own, so that its memory is measured alone.
//!
//! `cargo bench --bench triage`; the reports are made in a temporary directory, a few hundred megabytes.
//! They are read once before the clock starts, so that the disk is not measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nmiscope_farm::event::{
    EVENT_SCHEMA_VERSION, EventKind, FarmEvent, FarmStarted, HangSummary, Id, Status, VmFinished,
    VmStarted,
};
use nmiscope_farm::journal::Journal;
use nmiscope_farm::timestamp::Timestamp;
use nmiscope_report::Report;

const REPORTS: usize = 10_000;

const HANG: &str = include_str!("../tests/offline/cores/abba-deadlock.json");
const PANIC: &str = include_str!("../tests/offline/cores/null-deref.json");

/// A directory of generated reports: a row of the table.
#[derive(Clone, Copy)]
struct Reports {
    name: &'static str,
    /// The report's text, of which all are copies.
    text: &'static str,
    /// Number of different signatures among the reports.
    distinct: usize,
    /// True if the reports come with a farm's journal.
    farm: bool,
}

const ROWS: [Reports; 4] = [
    Reports { name: "hangs of a farm, 20 signatures", text: HANG, distinct: 20, farm: true },
    Reports { name: "hangs of a farm, each its own", text: HANG, distinct: REPORTS, farm: true },
    Reports { name: "hangs of single runs, 20 signatures", text: HANG, distinct: 20, farm: false },
    Reports { name: "panics of single runs, all the same", text: PANIC, distinct: 1, farm: false },
];

impl Reports {
    fn make(self, root: &Path) {
        let report: Report = serde_json::from_str(self.text).expect("a report");
        let hang = report.hangs.first();
        let mut journal = self.farm.then(|| {
            let mut journal = Journal::open(root).expect("a journal");
            append(&mut journal, 0, EventKind::FarmStarted(started()));
            journal
        });
        for number in 0..REPORTS {
            let directory = PathBuf::from(format!("vms/{number}/1.1"));
            fs::create_dir_all(root.join(&directory)).expect("a directory");
            let signature = format!("{:016x}", number % self.distinct);
            let text = match hang {
                Some(hang) => self.text.replace(&hang.signature, &signature),
                None => self.text.to_owned(),
            };
            fs::write(root.join(&directory).join("report.json"), text).expect("a report");
            let Some(journal) = &mut journal else { continue };
            let id = Id { name: format!("vm/{number}"), run: 1, attempt: 1 };
            let begin = VmStarted {
                id: id.clone(),
                directory: directory.clone(),
                definition: "0".repeat(64),
            };
            append(journal, number, EventKind::VmStarted(begin));
            let hang = hang.map(|hang| HangSummary {
                class: hang.class,
                signature,
                blamed: hang.blamed.clone(),
                locks: hang.locks.clone(),
                function: None,
            });
            let end = VmFinished {
                id,
                directory,
                status: Status::Hang,
                again: false,
                flaky: false,
                known: None,
                reason: None,
                hang,
                elapsed_ms: 1.0,
                files: BTreeMap::from([("report".into(), "report.json".into())]),
            };
            append(journal, number, EventKind::VmFinished(Box::new(end)));
        }
    }
}

fn started() -> FarmStarted {
    FarmStarted {
        schema_version: EVENT_SCHEMA_VERSION,
        tool: "0".into(),
        suite: "suite.toml".into(),
        host: "host".into(),
        planned: REPORTS as u64,
        done: 0,
        lost: Vec::new(),
        stale: Vec::new(),
        seed: None,
        partition: None,
        cpus: 1,
        memory_bytes: 1 << 30,
    }
}

fn append(journal: &mut Journal, number: usize, kind: EventKind) {
    journal
        .append(&FarmEvent { time: Timestamp::from_unix_ms(number as u64), kind })
        .expect("an event");
}

/// Runs triage. Returns the time it took and its peak memory in KiB, which the kernel is asked for every
/// two milliseconds.
fn run(root: &Path) -> (Duration, u64) {
    let output = root.with_extension("json");
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_nmiscope"))
        .args(["triage", "--message-format", "json"])
        .arg(root)
        .stdout(fs::File::create(&output).expect("a file"))
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the program");
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak = 0;
    loop {
        let now = fs::read_to_string(&status).unwrap_or_default();
        let line = now.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        if child.try_wait().expect("a child").is_some() {
            return (started.elapsed(), peak);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn main() {
    println!("| {REPORTS} reports | size | time | peak memory |");
    println!("|---|---|---|---|");
    for row in ROWS {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("results");
        fs::create_dir(&root).expect("a directory");
        row.make(&root);
        run(&root);
        let (elapsed, peak) = (0..3).map(|_| run(&root)).min().expect("three of them");
        println!(
            "| {} | {} MiB | {:.2} s | {} MiB |",
            row.name,
            (row.text.len() * REPORTS) >> 20,
            elapsed.as_secs_f64(),
            peak >> 10
        );
    }
}
