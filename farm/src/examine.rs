//! The files that a VM's process has left, read and judged.
//!
//! Owns which files those are and how much of each is read; refuses to own the judgement (`judge`).
//! Called by the runner, once for each try.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::{Path, PathBuf};

use nmiscope_report::json::ReportError;
use nmiscope_report::{Report, json};

use super::event::HangSummary;
use super::judge::{self, End, Judgement, NoReport};
use super::process;
use super::suite::Vm;
use super::tail;

/// A judgement on a try, and what it rests on.
#[derive(Debug)]
pub struct Examined {
    /// The judgement.
    pub judgement: Judgement,
    /// The signatures of all its hangs.
    pub signatures: Vec<String>,
    /// The first of its hangs.
    pub hang: Option<HangSummary>,
    /// The files that are there and not empty, by what they are.
    pub files: BTreeMap<String, PathBuf>,
}

impl Examined {
    /// A judgement on a try that left nothing.
    pub fn without_files(judgement: Judgement) -> Self {
        Self { judgement, signatures: Vec::new(), hang: None, files: BTreeMap::new() }
    }
}

/// The most that is read of a console, from its end.
const MAX_CONSOLE: u64 = 64 << 20;
/// The most that is read of a report.
const MAX_REPORT: u64 = 256 << 20;

/// Returns a read error with the reason below it.
fn with_cause(error: &ReportError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Reads what a try of `vm` left in `directory`, and judges it.
pub fn examine(vm: &Vm, directory: &Path, end: End) -> Examined {
    let report = tail::read(&directory.join(process::REPORT), MAX_REPORT);
    let report: Result<Report, NoReport> = match report {
        Ok(tail) => {
            json::read(&tail.bytes).map_err(|error| NoReport::Unreadable(with_cause(&error)))
        }
        Err(_) => Err(NoReport::Missing),
    };
    let text = |file: &str| -> String {
        let tail = tail::read(&directory.join(file), MAX_CONSOLE);
        tail.map_or_else(
            |_| String::new(),
            |tail| String::from_utf8_lossy(&tail.bytes).into_owned(),
        )
    };
    // Nobody asks for what a guest has printed unless there are rules for it.
    let has_rules = !vm.console.must.is_empty() || !vm.console.must_not.is_empty();
    let console = if has_rules { text(process::CONSOLE) } else { String::new() };
    let complaints = text(process::STDERR);
    let complaint = complaints.lines().rev().find(|line| line.starts_with("error: "));
    let left = judge::Left {
        end,
        report: report.as_ref().map_err(Clone::clone),
        console: &console,
        complaint: complaint.map(|line| line.trim_start_matches("error: ")),
    };
    let judgement = judge::judge(vm, &left);
    let names = [
        ("report", process::REPORT),
        ("core", process::CORE),
        ("console", process::CONSOLE),
        ("stderr", process::STDERR),
    ];
    let is_there = |file: &str| directory.join(file).metadata().is_ok_and(|file| file.len() > 0);
    let files = names.into_iter().filter(|(_, file)| is_there(file));
    let hangs = report.iter().flat_map(judge::hangs);
    Examined {
        judgement,
        signatures: hangs.map(|hang| hang.signature.clone()).collect(),
        hang: report.as_ref().ok().and_then(judge::summary),
        files: files.map(|(name, file)| (name.to_owned(), PathBuf::from(file))).collect(),
    }
}
