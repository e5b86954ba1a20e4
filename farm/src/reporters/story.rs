//! A run told to people, event by event: what `lines` writes and `terminal` puts above its bar.

use std::fmt::Write as _;
use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use nmiscope_report::units::plural;

use super::runs::Runs;
use super::summary::summary;
use super::words::{self, NAME, finding, seconds};
use crate::event::{Event, FarmStarted, Status, VmFinished, What};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const ODD: Style = AnsiColor::Yellow.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// So many VMs that were lost are named.
const LOST: usize = 20;
/// The columns of labels and names; who is longer takes more.
const LABEL: usize = 5;
const NAMES: usize = 18;

/// The story so far.
#[derive(Debug)]
pub struct Story {
    /// The results directory.
    root: PathBuf,
    runs: Runs,
}

impl Story {
    /// One of which nothing has been told. `root` is the results directory.
    pub fn new(root: PathBuf) -> Self {
        Self { root, runs: Runs::of_failures() }
    }

    /// Takes note of an event that has been told before.
    pub fn recall(&mut self, event: &Event) {
        self.runs.note(event);
    }

    /// What is to be said of an event: whole lines, with colors; none if it is nothing to people.
    pub fn tell(&mut self, event: &Event) -> String {
        self.runs.note(event);
        match &event.what {
            What::FarmStarted(started) => self::started(started),
            What::VmStarted(_) => String::new(),
            What::VmFinished(end) => finished(end),
            What::FarmInterrupted { by } => {
                let by = words::line(by, NAME);
                format!(" {ODD}ended by {by}{ODD:#}: nothing more is started\n")
            }
            What::FarmFinished(finished) => summary(finished, &self.runs, &self.root),
        }
    }
}

/// What is not as in every run.
fn started(started: &FarmStarted) -> String {
    let mut text = String::new();
    if started.done > 0 {
        let _ = writeln!(text, " resumed: {} of {} are done", started.done, started.planned);
    }
    if !started.lost.is_empty() {
        let names: Vec<String> =
            started.lost.iter().take(LOST).map(|name| words::line(name, NAME)).collect();
        let more = match started.lost.len().saturating_sub(LOST) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let count = plural(started.lost.len() as u64, "VM");
        let _ = writeln!(
            text,
            " {ODD}{count} lost{ODD:#} when an earlier farm died, to be run again: {}{more}",
            names.join(", ")
        );
    }
    if let Some(partition) = &started.partition {
        let _ = writeln!(text, " part {} of the suite", words::line(partition, NAME));
    }
    if let Some(seed) = started.seed {
        let _ = writeln!(text, " seed {seed}");
    }
    text
}

fn finished(end: &VmFinished) -> String {
    let (style, label) = label(end);
    let name = words::name(&end.id);
    let mut text =
        format!(" {style}{label:<LABEL$}{style:#} [{:>7}] {name}", seconds(end.elapsed_ms));
    if let Some(finding) = finding(end) {
        let pad = " ".repeat(NAMES.saturating_sub(name.chars().count()));
        let _ = write!(text, "{pad}  {finding}");
    }
    if let Some(status) = end.again.then_some("   is tried again") {
        let _ = write!(text, "{DIM}{status}{DIM:#}");
    }
    text.push('\n');
    text
}

fn label(end: &VmFinished) -> (Style, String) {
    let status = end.status.name().to_uppercase();
    match end.status {
        Status::Pass if end.flaky => (ODD, "FLAKY".into()),
        Status::Pass => (GOOD, status),
        _ if end.again => (ODD, format!("TRY {} {status}", end.id.attempt)),
        _ if end.known.is_some() => (ODD, "KNOWN".into()),
        _ if end.id.attempt > 1 => (BAD, format!("TRY {} {status}", end.id.attempt)),
        _ => (BAD, status),
    }
}
