//! Progress of a run as text, event by event: the lines that `plain` writes and `terminal` prints above
//! its bar.
//!
//! Owns the layout of these lines; refuses to own where they are written. Called by `plain` and
//! `terminal`.

use std::fmt::Write as _;
use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use nmiscope_report::units::plural;

use super::hunt::Hunt;
use super::phrases::{self, MAX_NAME, finding_text, format_seconds};
use super::runs::Runs;
use super::{StatusLevel, TextOptions, summary};
use crate::event::{EventKind, FarmEvent, FarmStarted, Status, VmFinished};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const ODD: Style = AnsiColor::Yellow.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// Maximum number of lost VMs that are named.
const MAX_LOST: usize = 20;
/// Minimum widths of the columns of labels and names.
const LABEL_WIDTH: usize = 5;
const NAME_WIDTH: usize = 18;

/// Text of the progress, with the failures recorded so far.
#[derive(Debug)]
pub struct Progress {
    /// Path of the results directory.
    root: PathBuf,
    runs: Runs,
    options: TextOptions,
    hunt: Hunt,
}

impl Progress {
    /// Starts without any events; `root` is the results directory.
    pub fn new(root: PathBuf, options: TextOptions) -> Self {
        Self { root, runs: Runs::failures_only(), options, hunt: Hunt::default() }
    }

    /// Returns the progress of a hunt; `None` for a run that is none.
    pub fn hunt(&self, event: &FarmEvent) -> Option<String> {
        self.options.hunt.then(|| self.hunt.beside_bar(event.time))
    }

    /// Returns a line about a hunt, now and then, for output without a bar.
    pub fn hunt_line(&mut self, event: &FarmEvent) -> Option<String> {
        if self.options.hunt { self.hunt.line_if_due(event.time) } else { None }
    }

    /// Records an event that an earlier farm has reported.
    pub fn note_earlier(&mut self, event: &FarmEvent) {
        self.runs.record(event);
    }

    /// Returns whole lines with colors for an event; empty if people need not know of it.
    pub fn report(&mut self, event: &FarmEvent) -> String {
        self.runs.record(event);
        self.hunt.record(event);
        let level = self.options.status_level;
        match &event.kind {
            EventKind::FarmStarted(started) => start_lines(started),
            EventKind::VmStarted(started) if level >= StatusLevel::All => {
                format!(" {:<LABEL_WIDTH$} {:9} {}\n", "START", "", phrases::run_name(&started.id))
            }
            EventKind::VmStarted(_) => String::new(),
            EventKind::VmFinished(end) if level < StatusLevel::of(end) => String::new(),
            EventKind::VmFinished(end) => finish_line(end),
            EventKind::FarmInterrupted { by } => {
                let by = phrases::one_line(by, MAX_NAME);
                format!(" {ODD}ended by {by}{ODD:#}: no more VMs start\n")
            }
            EventKind::FarmFinished(finished) => {
                let mut text = summary::render(finished, &self.runs, &self.root);
                if self.options.hunt {
                    let _ = writeln!(text, " {}", self.hunt.rate());
                }
                text
            }
        }
    }
}

/// Describes how this start differs from a plain one: resumed, lost VMs, partition, seed.
fn start_lines(started: &FarmStarted) -> String {
    let mut text = String::new();
    if started.done > 0 {
        let _ = writeln!(text, " resumed: {} of {} are done", started.done, started.planned);
    }
    if !started.lost.is_empty() {
        let names: Vec<String> = started
            .lost
            .iter()
            .take(MAX_LOST)
            .map(|name| phrases::one_line(name, MAX_NAME))
            .collect();
        let more = match started.lost.len().saturating_sub(MAX_LOST) {
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
        let _ = writeln!(text, " part {} of the suite", phrases::one_line(partition, MAX_NAME));
    }
    if let Some(seed) = started.seed {
        let _ = writeln!(text, " seed {seed}");
    }
    text
}

fn finish_line(end: &VmFinished) -> String {
    let (style, label) = label(end);
    let name = phrases::run_name(&end.id);
    let mut text = format!(
        " {style}{label:<LABEL_WIDTH$}{style:#} [{:>7}] {name}",
        format_seconds(end.elapsed_ms)
    );
    if let Some(finding) = finding_text(end) {
        let pad = " ".repeat(NAME_WIDTH.saturating_sub(name.chars().count()));
        let _ = write!(text, "{pad}  {finding}");
    }
    if let Some(status) = end.again.then_some("   retried") {
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
