//! `nmiscope report`: makes a report from a core or a dump, and prints it.
//!
//! Owns the options; refuses to own the reading of files (`session::offline`) and the text (`report`).
//! Called by the parent module.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, ValueEnum, ValueHint};
use nmiscope_report::destination::Destination;
use nmiscope_report::redact::{Pseudonyms, Redact as _};
use nmiscope_report::text::{self, Detail};
use nmiscope_report::{Report, json, markdown, wait_graph};

use super::debug_search::debug_search;
use super::exit_code::{self, Code};
use super::output::{self, Text};
use super::page::SourceArgs;
use super::report_directory::{self, Reports};
use crate::errors::BadRequest;
use crate::images::DEBUG_DIRECTORY;
use crate::session::offline::{self, Stored};
use crate::session::{StackChoice, TaskChoice};

const EXAMPLES: &str = "\
Examples:
  nmiscope report hang.core
        report the hang again that `nmiscope run --core` stored
  nmiscope report guest.dump --image kernel.elf --json report.json
        report the guest in a dump of QEMU or libvirt, and write JSON
  nmiscope report postmortem.json
        print a report that is JSON as text
  nmiscope report hang.core --format html -o hang.html --source-dir ~/linux
        make a page for a browser, in one file, with source lines
  nmiscope report postmortem.json --format markdown
        print the report for a ticket
  nmiscope report postmortem.json --format dot | dot -Tpng -o waits.png
        draw the wait graph by graphviz
  nmiscope report nmiscope-results/2026-11-28T14-20-32.000Z
        list the reports of a farm's VMs; of one VM's directory, print its report

Exit codes: for a core or a JSON report, that of its run; for a dump, 0 no hang
or only a suspected one, 3 hang, 4 panic in the guest. 2 usage: the file or the
image cannot be used; 5 the tool or its host failed.";

/// Command-line arguments of `nmiscope report`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// File to report: a core, an ELF dump by `virsh dump --memory-only` or QEMU's dump-guest-memory, or a
    /// JSON report, which is only printed; or a directory with one of these, as a farm makes for each VM. Of
    /// a directory with several the reports are listed
    #[arg(value_hint = ValueHint::AnyPath)]
    pub core: PathBuf,
    /// Image that the guest ran; again for each module of a Linux guest [default: the one with the build-id in the
    /// file:
    #[cfg_attr(feature = "kvm", doc = "the bundled guest,")]
    /// the file that a core names, or one in --debug-dir]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Vec<PathBuf>,
    /// Show the arguments and local variables of each frame whose memory is in the file
    #[arg(long)]
    pub locals: bool,
    /// Tasks whose stacks are shown
    #[arg(long, value_enum, default_value_t)]
    pub tasks: TaskChoice,
    /// Leave out what the guest printed or held: log, names of tasks, registers, addresses, values of
    /// variables; and kernel parameters, paths and the host's name (docs/privacy.md)
    #[arg(long)]
    pub redact: bool,
    /// Form in which the report is printed or written
    #[arg(long, value_enum, default_value_t)]
    pub format: ReportFormat,
    /// File that the report is written to in that form, `-` for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-", hide_default_value = true,
          value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Options that name folders with source files
    #[command(flatten)]
    pub source: SourceArgs,
    /// Write the report as JSON to this file, `-` for standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,
    /// Print nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
    /// Directory of separate debug files, by build-id, and of other files that debug information refers to;
    /// may be repeated, and is searched in order
    #[arg(long, value_name = "DIRECTORY", default_value = DEBUG_DIRECTORY,
          value_hint = ValueHint::DirPath)]
    pub debug_dir: Vec<PathBuf>,
}

/// Forms in which a report is printed or written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// Text for people, as it is printed on a terminal
    #[default]
    Text,
    /// JSON, as docs/report.schema.json describes it
    Json,
    /// Page for a browser: one file, which loads nothing
    Html,
    /// Wait graph in the language of graphviz
    Dot,
    /// Markdown for a ticket, with the blamed stacks
    Markdown,
}

impl ReportArgs {
    /// Returns the destination of the form that `--format` names; `None` for text on standard output, which has
    /// colors on a terminal.
    fn destination(&self) -> anyhow::Result<Option<Destination>> {
        let destination = Destination::open(&self.output).map_err(BadRequest::from_error)?;
        let is_terminal_text = self.format == ReportFormat::Text && destination.is_stdout();
        Ok((!is_terminal_text).then_some(destination))
    }

    /// Returns the report in the form that `--format` names.
    fn render(&self, report: &Report, detail: Detail) -> anyhow::Result<String> {
        Ok(match self.format {
            ReportFormat::Text => text::plain(report, detail),
            ReportFormat::Json => json::text(report)?,
            ReportFormat::Html => self.source.page(report),
            ReportFormat::Dot => wait_graph::dot(report),
            ReportFormat::Markdown => markdown::ticket(report),
        })
    }
}

/// Returns the file to report: the one that was named, or the one in the directory that was named. Prints the
/// list if it has several, and returns `None`. `option` is the one that takes a single report.
fn file(
    arguments: &ReportArgs,
    option: Option<&str>,
    text: Text,
) -> anyhow::Result<Option<PathBuf>> {
    let named = &arguments.core;
    if !named.is_dir() {
        return Ok(Some(named.clone()));
    }
    let from_core = arguments.locals || !arguments.image.is_empty();
    match report_directory::find(named, from_core).map_err(BadRequest::from_error)? {
        Reports::One(path) => Ok(Some(path)),
        Reports::Many(paths) => {
            if let Some(option) = option {
                let (count, shown) = (paths.len(), named.display());
                let error = anyhow!("{shown} has {count} reports, and {option} takes one: name it");
                return Err(BadRequest::from_error(error));
            }
            text.print(&report_directory::list(&paths, arguments.redact));
            Ok(None)
        }
    }
}

/// Makes the report of a stored file, and prints and writes it.
pub fn report(arguments: &ReportArgs, detail: Detail) -> anyhow::Result<Code> {
    let json = arguments.json.as_deref().map(Destination::open).transpose();
    let json = json.map_err(BadRequest::from_error)?;
    let formatted = arguments.destination()?;
    let has_stdout = |destination: &Option<Destination>| {
        destination.as_ref().is_some_and(Destination::is_stdout)
    };
    if has_stdout(&json) && has_stdout(&formatted) {
        let message = "--json and --format cannot both be written to standard output: name a file";
        return Err(BadRequest::from_error(anyhow!(message)));
    }
    let text = Text::beside(json.iter().chain(&formatted), arguments.quiet);
    let option =
        json.as_ref().map(|_| "--json").or(formatted.as_ref().map(|_| match arguments.format {
            ReportFormat::Text => "--output",
            _ => "--format",
        }));
    let Some(file) = file(arguments, option, text)? else {
        return Ok(exit_code::CLEAN);
    };
    let mut report = Stored::open(&file)
        .and_then(|core| {
            let stacks = StackChoice { variables: arguments.locals, tasks: arguments.tasks };
            let search = debug_search(&arguments.debug_dir, arguments.quiet);
            offline::report(&core, &arguments.image, &search, stacks)
        })
        .map_err(BadRequest::from_error)?;
    if arguments.redact {
        report.redact(&mut Pseudonyms::default());
    }
    for warning in &report.warnings {
        output::warning(warning);
    }
    match formatted {
        None => text.print(&text::report(&report, detail)),
        Some(destination) => {
            text.write_bytes(arguments.render(&report, detail)?.as_bytes(), &destination)?;
        }
    }
    if let Some(destination) = json {
        text.write(&report, &destination)?;
    }
    Ok(exit_code::for_report(&report))
}
