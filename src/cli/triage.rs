//! `nmiscope triage`: reports to groups, as text or JSON, and an exit code.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueHint};
use nmiscope_farm::triage::{
    self, Content, Diff, Document, FailureGroup, FailureKind, KnownFailures, TRIAGE_SCHEMA_VERSION,
    text,
};

use super::exit_code::{self, Code};
use super::output::{self, MessageFormat, Text};
use crate::errors::BadRequest;
use crate::kernel::any_words;

/// `nmiscope triage`.
#[derive(Debug, Args)]
#[command(after_help = TRIAGE_HELP)]
pub struct Triage {
    /// Results directories of farms, directories with reports in them, and reports
    #[arg(required_unless_present = "diff", value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// What is known: [[known]] tables with a `signature` (its first 8 digits, or all 16), a `url`, and
    /// maybe a `note` and the last day of it, `until`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub known: Option<PathBuf>,
    /// Say what NEW has that OLD had not, what is gone, and which VMs became flaky
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with = "paths",
          value_hint = ValueHint::AnyPath)]
    pub diff: Option<Vec<PathBuf>>,
    /// How to say it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub message_format: MessageFormat,
}

const TRIAGE_HELP: &str = "\
Of a farm's VMs, those count that did not do what their suite expects. Each kind has a signature
by which the same ones are told: a hang by its class and stacks, a panic or a crash by its message
and function, a time limit that was exceeded by what ran then.

Exit codes:
  0  there is nothing, or all of it is known; with --diff, nothing is new
  1  a time limit was exceeded
  3  hang; with --diff, something is new
  4  panic or crash";

/// So many of the files that were skipped are named unless somebody wants to know more.
const MAX_NAMED: usize = 10;

/// Does the triage.
pub fn triage(arguments: &Triage, verbose: bool) -> anyhow::Result<Code> {
    // Before the work: it may be wrong.
    let known = arguments.known.as_deref().map(KnownFailures::load).transpose();
    let known = known.map_err(BadRequest::from_error)?.unwrap_or_default();
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
        print(arguments.message_format, Content::Diff(&diff))?;
        // Whatever it is: what is asked is whether there is something new.
        let is_new = diff.new.iter().any(|group| group.known.is_none());
        return Ok(if is_new { exit_code::HANG } else { exit_code::CLEAN });
    }
    let mut found = scan(&arguments.paths)?.triage;
    found.mark(&known);
    print(arguments.message_format, Content::Groups(&found))?;
    Ok(code(&found.groups))
}

/// True of a function that tells no hang from another, in whichever kernel the reports are of.
fn is_plumbing(function: &str) -> bool {
    any_words().is_plumbing(function)
}

fn print(format: MessageFormat, content: Content<'_>) -> anyhow::Result<()> {
    match format {
        MessageFormat::Text => Text::Stdout.print(&match content {
            Content::Groups(found) => text::render_triage(found),
            Content::Diff(diff) => text::render_diff(diff),
        }),
        MessageFormat::Json => {
            let document = Document { schema_version: TRIAGE_SCHEMA_VERSION, content };
            let json = document.json().context("failed to encode the groups")?;
            io::stdout().lock().write_all(json.as_bytes())?;
        }
    }
    Ok(())
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
        output::warning("there is no report and no journal of a farm");
    }
}

/// The worst of what is not known: a crash, a hang, a time limit.
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
