//! `nmiscope report`: a core or a dump to text and JSON.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use nmiscope_report::destination::Destination;
use nmiscope_report::text::{self, Detail};

use super::exit_code::{self, Code};
use super::output::{self, Text};
use crate::errors::BadRequest;
use crate::images::DEBUG_DIRECTORY;
use crate::session::offline::{self, Stored};

const EXIT_CODES: &str = "\
The exit code is the one that the run had. Of a dump: 0 no hang, or no more than a suspicion; 3 hang; 4
panic in the guest.";

/// `nmiscope report`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Report {
    /// The core; a dump of a guest as ELF, by `virsh dump --memory-only` or QEMU's dump-guest-memory; or a
    /// report as JSON, which is only printed
    #[arg(value_hint = ValueHint::FilePath)]
    pub core: PathBuf,
    /// The image that ran [default: the one with the core's build-id:
    #[cfg_attr(feature = "kvm", doc = "the bundled guest,")]
    /// the file that ran, or one among the debug files; of a dump, one of these that ran]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,
    /// Show arguments and locals; of a core that was written without, those whose memory is in it
    #[arg(long)]
    pub args: bool,
    /// Where the report goes as JSON, `-` for standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,
    /// Print nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
    /// Where debug files are, by build-id
    #[arg(long, value_name = "DIRECTORY", default_value = DEBUG_DIRECTORY,
          value_hint = ValueHint::DirPath)]
    pub debug_dir: PathBuf,
}

/// Makes the report.
pub fn report(arguments: &Report, detail: Detail) -> anyhow::Result<Code> {
    let destination = arguments.json.as_deref().map(Destination::open).transpose();
    let destination = destination.map_err(BadRequest::from_error)?;
    let text = Text::beside(destination.as_ref(), arguments.quiet);
    let report = Stored::open(&arguments.core)
        .and_then(|core| {
            let image = arguments.image.as_deref();
            offline::report(&core, image, &arguments.debug_dir, arguments.args)
        })
        .map_err(BadRequest::from_error)?;
    for warning in &report.warnings {
        output::warning(warning);
    }
    text.print(&text::report(&report, detail));
    if let Some(destination) = destination {
        text.write(&report, destination)?;
    }
    Ok(exit_code::of_report(&report))
}
