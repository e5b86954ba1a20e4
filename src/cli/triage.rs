//! `nmiscope triage`: groups the failures in reports, writes them as text, JSON or a page, and returns an
//! exit code.
//!
//! Owns the options and the choice of the exit code; refuses to own groups and their text (the crate
//! `farm`). Called by the parent module.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum, ValueHint};
use nmiscope_farm::triage::page::{self, PageFolder};
use nmiscope_farm::triage::{
    self, Content, Diff, Document, FailureGroup, FailureKind, KnownFailures, TRIAGE_SCHEMA_VERSION,
    text,
};
use nmiscope_report::destination::Destination;
use nmiscope_report::html::index::{self, Index};

use super::exit_code::{self, Code};
use super::output::{self, Text};
use crate::errors::BadRequest;
use crate::kernel::any_vocabulary;

/// Arguments of `nmiscope triage`.
#[derive(Debug, Args)]
#[command(after_help = TRIAGE_HELP)]
pub struct Triage {
    /// Results directories of farms, directories of reports, and single reports
    #[arg(required_unless_present = "diff", value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Mark the failures listed in this file as known: `[[known]]` tables with a `signature` (16 hexadecimal
    /// digits, or the first 8), a `url`, and optionally a `note` and the last day of validity, `until`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub known: Option<PathBuf>,
    /// Compare two scans: list new and gone failures, and VMs that became flaky
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with = "paths",
          value_hint = ValueHint::AnyPath)]
    pub diff: Option<Vec<PathBuf>>,
    /// Write text for people, JSON for programs (docs/triage.schema.json), or a page for a browser: one file,
    /// with links to the reports
    #[arg(
        long,
        visible_alias = "message-format",
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub format: TriageFormat,
    /// Write to this file, `-` for standard output [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// Format in which groups or changes are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TriageFormat {
    /// Text for people to read.
    #[default]
    Text,
    /// JSON for programs, as one document.
    Json,
    /// HTML for a browser, as one page.
    Html,
}

const TRIAGE_HELP: &str = "\
Examples:
  Group the failures of all earlier runs, and mark known ones:
    nmiscope triage nmiscope-results --known known.toml
  List what a new kernel has changed:
    nmiscope triage --diff results-old results-new
  Make a page of the failures of all nights, with the trend of each:
    nmiscope triage nights --format html -o failures.html

A VM of a farm counts if it did not end as its suite expects; in a report on
its own, every failure counts. Failures are grouped by signature: of a hang, its
class and stacks; of a panic or crash, its message and function; of an exceeded
time limit, the functions that were running.

Exit codes:
  0  no failures, or known ones only; with --diff, none that is new
  1  a time limit was exceeded
  2  usage: the command line, or a file it names, cannot be used
  3  a hang; with --diff, a new failure of any kind
  4  a panic or a crash
  5  the tool or its host failed";

/// Maximum number of skipped files that are named without `--verbose`.
const MAX_NAMED: usize = 10;

/// Scans, prints the groups or the changes, and returns the exit code.
pub fn triage(arguments: &Triage, verbose: bool) -> anyhow::Result<Code> {
    // A mistake in this file should show before the scan.
    let known = arguments.known.as_deref().map(KnownFailures::load).transpose();
    let known = known.map_err(BadRequest::from_error)?.unwrap_or_default();
    let output = Output::open(arguments)?;
    let scan = |paths: &[_]| {
        let scanned = triage::scan(paths, is_plumbing).map_err(BadRequest::from_error)?;
        warn_of_skipped(&scanned.triage, verbose);
        Ok::<_, anyhow::Error>(scanned)
    };
    if let Some([old, new]) = arguments.diff.as_deref() {
        let old = scan(std::slice::from_ref(old))?;
        let new = scan(std::slice::from_ref(new))?;
        let mut diff = Diff::between(&old, &new);
        diff.mark(&known);
        output.write(Content::Diff(&diff), |folder| page::diff_page(&diff, &old, &new, folder))?;
        // Any new unknown failure counts, whatever its kind.
        let is_new = diff.new.iter().any(|group| group.known.is_none());
        return Ok(if is_new { exit_code::HANG } else { exit_code::CLEAN });
    }
    let mut found = scan(&arguments.paths)?.triage;
    found.mark(&known);
    output.write(Content::Groups(&found), |folder| page::triage_page(&found, folder))?;
    Ok(code(&found.groups))
}

/// True for functions that distinguish no hang from another, in any kernel that reports may be about.
pub(super) fn is_plumbing(function: &str) -> bool {
    any_vocabulary().is_plumbing(function)
}

/// Format and destination of the groups.
struct Output {
    format: TriageFormat,
    destination: Destination,
}

impl Output {
    /// Opens the destination before the scan, so that one that cannot be written is reported by then.
    fn open(arguments: &Triage) -> anyhow::Result<Self> {
        let path = arguments.output.as_deref().unwrap_or(Path::new("-"));
        let destination = Destination::open(path).map_err(BadRequest::from_error)?;
        Ok(Self { format: arguments.format, destination })
    }

    fn write(
        &self,
        content: Content<'_>,
        page: impl FnOnce(&PageFolder) -> Index,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            TriageFormat::Text => {
                let colored = match content {
                    Content::Groups(found) => text::render_triage(found),
                    Content::Diff(diff) => text::render_diff(diff),
                };
                if self.destination.is_stdout() {
                    Text::Stdout.print(&colored);
                    return Ok(());
                }
                anstream::adapter::strip_str(&colored).to_string()
            }
            TriageFormat::Json => {
                let document = Document { schema_version: TRIAGE_SCHEMA_VERSION, content };
                document.json().context("failed to encode the groups")?
            }
            TriageFormat::Html => index::page(&page(&PageFolder::of(&self.destination)?)),
        };
        let Some(path) = self.destination.path() else {
            let mut stdout = output::stdout();
            stdout.write_all(text.as_bytes())?;
            return Ok(stdout.flush()?);
        };
        self.destination.write(text.as_bytes())?;
        Text::Stdout.wrote(path);
        Ok(())
    }
}

fn warn_of_skipped(found: &triage::TriageResult, verbose: bool) {
    let named = if verbose { found.skipped.len() } else { MAX_NAMED };
    for skipped in found.skipped.iter().take(named) {
        output::warning(&format!("skipped {}: {}", skipped.path, skipped.reason));
    }
    let more = found.totals.skipped.saturating_sub(named as u64);
    if more > 0 {
        let how = if verbose { "" } else { "; -v names them" };
        output::warning(&format!("skipped {more} more{how}"));
    }
    let totals = &found.totals;
    if totals.results == 0 && totals.reports == 0 && totals.skipped == 0 {
        output::warning("no report and no journal of a farm was found");
    }
}

/// Returns the code of the worst unknown failure: a crash, a hang, or an exceeded time limit.
fn code(groups: &[FailureGroup]) -> Code {
    let unknown = || groups.iter().filter(|group| group.known.is_none());
    let has = |kinds: &[FailureKind]| unknown().any(|group| kinds.contains(&group.kind));
    if has(&[FailureKind::Panic, FailureKind::Crash]) {
        exit_code::CRASH
    } else if has(&[FailureKind::Hang]) {
        exit_code::HANG
    } else if has(&[FailureKind::Timeout]) {
        exit_code::GUEST_FAILED
    } else {
        exit_code::CLEAN
    }
}
