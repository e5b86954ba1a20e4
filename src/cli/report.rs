//! `nmiscope report`: makes a report from a core or a dump, and prints it.
//!
//! Owns the options; refuses to own the reading of files (`session::offline`) and the text (`report`).
//! Called by the parent module.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, ValueHint};
use nmiscope_report::destination::Destination;
use nmiscope_report::redact::{Pseudonyms, Redact as _};
use nmiscope_report::text::{self, Detail};

use super::debug_search::debug_search;
use super::exit_code::{self, Code};
use super::output::{self, Text};
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

/// Returns the file to report: the one that was named, or the one in the directory that was named. Prints the
/// list if it has several, and returns `None`.
fn file(arguments: &ReportArgs, as_json: bool, text: Text) -> anyhow::Result<Option<PathBuf>> {
    let named = &arguments.core;
    if !named.is_dir() {
        return Ok(Some(named.clone()));
    }
    let from_core = arguments.locals || !arguments.image.is_empty();
    match report_directory::find(named, from_core).map_err(BadRequest::from_error)? {
        Reports::One(path) => Ok(Some(path)),
        Reports::Many(paths) if as_json => {
            let (count, shown) = (paths.len(), named.display());
            let error = anyhow!("{shown} has {count} reports, and --json takes one: name it");
            Err(BadRequest::from_error(error))
        }
        Reports::Many(paths) => {
            text.print(&report_directory::list(&paths, arguments.redact));
            Ok(None)
        }
    }
}

/// Makes the report of a stored file, and prints and writes it.
pub fn report(arguments: &ReportArgs, detail: Detail) -> anyhow::Result<Code> {
    let destination = arguments.json.as_deref().map(Destination::open).transpose();
    let destination = destination.map_err(BadRequest::from_error)?;
    let text = Text::beside(destination.as_ref(), arguments.quiet);
    let Some(file) = file(arguments, destination.is_some(), text)? else {
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
    text.print(&text::report(&report, detail));
    if let Some(destination) = destination {
        text.write(&report, &destination)?;
    }
    Ok(exit_code::for_report(&report))
}
