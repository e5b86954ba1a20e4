//! Reads the files that a VM's process left, and has them judged.
//!
//! Owns the list of files and how much of each is read; refuses to own the judgement (`judge`). Called by
//! the runner, once for each try.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};

use nmiscope_report::destination::Destination;
use nmiscope_report::html::{self, Sources};
use nmiscope_report::json::ReportError;
use nmiscope_report::text::{self, Detail};
use nmiscope_report::{Report, json};

use super::event::HangSummary;
use super::judge::{self, Judgement, NoReport, ProcessEnd};
use super::process;
use super::suite::SuiteVm;
use super::tail::read_tail;

/// Judgement of a try, with the findings it rests on.
#[derive(Debug)]
pub struct Examined {
    /// Verdict on the try, and its reason.
    pub judgement: Judgement,
    /// Signatures of all hangs in the report.
    pub signatures: Vec<String>,
    /// Summary of the report's first hang; `None` without one.
    pub hang: Option<HangSummary>,
    /// Files that exist and are not empty, by what they hold.
    pub files: BTreeMap<String, PathBuf>,
}

impl Examined {
    /// Wraps a judgement of a try that left no files.
    pub fn without_files(judgement: Judgement) -> Self {
        Self { judgement, signatures: Vec::new(), hang: None, files: BTreeMap::new() }
    }
}

/// Maximum number of bytes read from the end of a console.
const MAX_CONSOLE: u64 = 64 << 20;
/// Maximum number of bytes read of a report.
const MAX_REPORT: u64 = 256 << 20;

/// Returns a read error with the reason below it.
fn with_cause(error: &ReportError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Writes a report as text and as a page beside it.
fn write_beside(report: &Report, directory: &Path) {
    let text = text::report(report, Detail::Folded);
    let text = anstream::adapter::strip_str(&text).to_string();
    write(&directory.join(process::TEXT), &text);
    // The sources of a suite's images are not known.
    write(&directory.join(process::HTML), &html::report(report, &Sources::default()));
}

/// Writes a file for its owner alone, as the report is. A failure leaves no file: the report has all that it
/// would hold.
fn write(path: &Path, text: &str) {
    let written = Destination::open(path).and_then(|file| file.write(text.as_bytes()));
    if written.is_err() {
        // The file of an earlier try is not this one's.
        let _ = fs::remove_file(path);
    }
}

/// Reads what a try of `vm` left in `directory`, and judges it. `error` is the one that the process sent to
/// the farm; on a full disk it is not in the process's own file.
pub fn examine(vm: &SuiteVm, directory: &Path, end: ProcessEnd, error: Option<&str>) -> Examined {
    let report = read_tail(&directory.join(process::REPORT), MAX_REPORT);
    let report: Result<Report, NoReport> = match report {
        Ok(tail) => {
            json::read(&tail.bytes).map_err(|error| NoReport::Unreadable(with_cause(&error)))
        }
        Err(_) => Err(NoReport::Missing),
    };
    let text_of = |file: &str| -> String {
        let tail = read_tail(&directory.join(file), MAX_CONSOLE);
        tail.map_or_else(
            |_| String::new(),
            |tail| String::from_utf8_lossy(&tail.bytes).into_owned(),
        )
    };
    // The console is read only if the suite has rules for it.
    let has_rules = !vm.console.must.is_empty() || !vm.console.must_not.is_empty();
    let console = if has_rules { text_of(process::CONSOLE) } else { String::new() };
    let stderr = text_of(process::STDERR);
    let printed = stderr.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let output = judge::ProcessOutput {
        end,
        report: report.as_ref().map_err(Clone::clone),
        console: &console,
        error: error.or(printed),
    };
    let judgement = judge::judge(vm, &output);
    if let Ok(report) = &report {
        write_beside(report, directory);
    }
    let names = [
        ("report", process::REPORT),
        ("text", process::TEXT),
        ("html", process::HTML),
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
