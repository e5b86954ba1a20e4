//! `nmiscope attach`: a report of a VM that somebody else's QEMU runs.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgGroup, Args, ValueHint};
use nmiscope_qemu::{Error, FindError, ProcessError, QmpError, hold};
use nmiscope_report::destination::Destination;
use nmiscope_report::text::{self, Detail};
use nmiscope_report::units::parse_duration;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::exit_code::{self, Code};
use super::output::{self, Text};
use crate::capture::store::{Destination as CoreDestination, Size};
use crate::errors::BadRequest;
use crate::images::DEBUG_DIRECTORY;
use crate::session::attach::{self, Options, Visited, Vm};

/// The name of the hidden command that is the guardian of a stopped VM.
pub const GUARDIAN: &str = "hold-vm";

const EXAMPLES: &str = "\
Examples:
  nmiscope attach --qmp vm.sock
        the stacks, waits and hangs of the guest in the QEMU that was started with
        -qmp unix:vm.sock,server=on,wait=off
  nmiscope attach --pid 4711 --image vmlinux --json hang.json --core hang.core
        the same by its process, with a core to look at again

The guest is stopped for some milliseconds, and goes on whatever happens to this program. Nothing is
written into it. docs/attach.md has every step.

Exit codes: 0 no hang, or no more than a suspicion; 2 usage; 3 hang; 4 panic in the guest; 5 the VM
could not be read.";

/// `nmiscope attach`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("vm").required(true))]
pub struct Attach {
    /// The QMP socket of the VM
    #[arg(long, value_name = "SOCKET", group = "vm", value_hint = ValueHint::FilePath)]
    pub qmp: Option<PathBuf>,
    /// The QEMU process; its QMP socket is found by its command line
    #[arg(long, value_name = "PID", group = "vm")]
    pub pid: Option<i32>,
    /// The image that runs in the VM [default: the one with the build-id that is in its memory, among
    /// the debug files]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,
    /// Let the guest go on after this long, and read the rest while it runs
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = parse_duration)]
    pub max_pause: Duration,
    /// Show arguments and locals
    #[arg(long)]
    pub args: bool,
    /// Where the report goes as JSON, `-` for standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,
    /// Write a core of the moment; its memory is read while the guest is stopped
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub core: Option<PathBuf>,
    /// How much of the guest's memory goes into the core
    #[arg(long, value_enum, default_value_t, requires = "core")]
    pub core_size: Size,
    /// Print nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
    /// Where debug files are, by build-id
    #[arg(long, value_name = "DIRECTORY", default_value = DEBUG_DIRECTORY,
          value_hint = ValueHint::DirPath)]
    pub debug_dir: PathBuf,
}

/// Visits the VM, and prints its report.
pub fn attach(arguments: &Attach, detail: Detail) -> anyhow::Result<Code> {
    let destination = arguments.json.as_deref().map(Destination::open).transpose();
    let destination = destination.map_err(BadRequest::from_error)?;
    let core = arguments.core.as_deref();
    let core = core.map(|path| CoreDestination::open(path, arguments.core_size)).transpose();
    let core = core.map_err(BadRequest::from_error)?;
    // clap wants one of them.
    let vm = match &arguments.qmp {
        Some(socket) => Vm::Socket(socket.clone()),
        None => Vm::Process(arguments.pid.unwrap_or_default()),
    };
    let options = Options {
        vm,
        image: arguments.image.clone(),
        debug_directory: arguments.debug_dir.clone(),
        variables: arguments.args,
        longest_pause: arguments.max_pause,
        core,
    };
    let text = Text::beside(destination.as_ref(), arguments.quiet);
    let program = std::env::current_exe().context("failed to find this program's own file")?;
    let mut guardian = Command::new(program);
    guardian.arg(GUARDIAN);
    let Visited { report, core } = attach::attach(&options, guardian).map_err(whose_fault)?;
    for warning in &report.warnings {
        output::warning(warning);
    }
    text.print(&text::report(&report, detail));
    if let Some(destination) = destination {
        text.write(&report, destination)?;
    }
    if let Some(core) = core {
        output::note(&format!("wrote {}", core?.display()));
    }
    Ok(exit_code::of_report(&report))
}

/// Marks an error of what the user named. A VM that is there and may not or cannot be read is none.
fn whose_fault(error: anyhow::Error) -> anyhow::Error {
    let is_users = match error.downcast_ref::<Error>() {
        Some(Error::Qmp(error)) => matches!(
            error,
            QmpError::NoSocket(_)
                | QmpError::Refused(_)
                | QmpError::BadAddress(_)
                | QmpError::NotQmp { .. }
        ),
        Some(Error::Process(error) | Error::Find(FindError::Process(error))) => {
            matches!(error, ProcessError::NoSuchProcess(_))
        }
        Some(Error::Find(_)) => true,
        _ => false,
    };
    if is_users { BadRequest::from_error(error) } else { error }
}

/// Holds a stopped VM for a visitor, until it runs again.
///
/// # Errors
/// The guest may be stopped still.
pub fn hold() -> anyhow::Result<Code> {
    /// QEMU may wait for storage that is away for hours.
    const PATIENCE: Duration = Duration::from_secs(24 * 3600);
    // Whoever ends a job ends all of its processes, and the guest would stay stopped.
    let ignored = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&ignored)).context("failed to ignore a signal")?;
    }
    let link = rustix::io::dup(std::io::stdin()).context("failed to use standard input")?;
    hold::run(link, PATIENCE).context("failed to let the guest go on")?;
    Ok(exit_code::CLEAN)
}
