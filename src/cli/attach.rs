//! `nmiscope attach`: reports a VM in a QEMU that another program started.
//!
//! Owns the options and the process that guards a stopped VM; refuses to own the steps of an attach
//! (`session::attach`). Called by the parent module.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgGroup, Args, ValueHint};
use nmiscope_qemu::{FindError, ProcessError, QemuError, QmpError, hold};
use nmiscope_report::destination::{Destination, Placed};
use nmiscope_report::redact::{Pseudonyms, Redact as _};
use nmiscope_report::text::{self, Detail};
use nmiscope_report::units::parse_duration;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use super::debug_search::debug_search;
use super::exit_code::{self, Code};
use super::output::{self, CoreImage, Text};
use super::page::PageArgs;
use super::redaction;
use crate::capture::store::{CoreDestination, CoreSize};
use crate::errors::BadRequest;
use crate::images::DEBUG_DIRECTORY;
use crate::session::attach::{self, AttachOptions, AttachResult, VmSelector};
use crate::session::{StackChoice, TaskChoice};
use crate::signals::{self, Unwritten};

/// Name of the hidden command that guards a stopped VM.
pub const GUARDIAN: &str = "hold-vm";

const EXAMPLES: &str = "\
Examples:
  nmiscope attach --qmp vm.sock
        report the stacks, waits and hangs of the guest in the QEMU that was
        started with -qmp unix:vm.sock,server=on,wait=off
  nmiscope attach --pid 4711 --json hang.json --core hang.core
        find the VM by its process, write the report as JSON, and store a core
        for `nmiscope report`
  nmiscope attach --qmp vm.sock --html hang.html
        write the report as a page for a browser, in one file

The guest is stopped for some milliseconds, and resumes even if this program is
killed. Nothing is written into it. docs/attach.md has every step.

Exit codes: 0 no hang or only a suspected one; 2 usage; 3 hang; 4 panic in the
guest; 5 the VM could not be read.";

/// Command-line arguments of `nmiscope attach`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("vm").required(true))]
pub struct AttachArgs {
    /// QMP socket of the QEMU that runs the VM
    #[arg(long, value_name = "SOCKET", group = "vm", value_hint = ValueHint::FilePath)]
    pub qmp: Option<PathBuf>,
    /// QEMU process that runs the VM; its command line names the QMP socket
    #[arg(long, value_name = "PID", group = "vm")]
    pub pid: Option<i32>,
    /// Image that the guest runs; again for each module of a Linux guest [default: by the build-id in guest
    /// memory: the bundled guest, or one in --debug-dir]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Vec<PathBuf>,
    /// Resume the guest after this long at most, and read the rest while it runs
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = parse_duration)]
    pub max_pause: Duration,
    /// Show the arguments and local variables of each frame
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
    /// Options of the report as a page
    #[command(flatten)]
    pub page: PageArgs,
    /// Write an ELF core of the guest; memory is read while the guest is stopped, up to --max-pause
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub core: Option<PathBuf>,
    /// Amount of the guest's memory that goes into the core
    #[arg(long, value_enum, default_value_t, requires = "core")]
    pub core_size: CoreSize,
    /// Print nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
    /// Directory of separate debug files, by build-id, and of other files that debug information refers to;
    /// may be repeated, and is searched in order
    #[arg(long, value_name = "DIRECTORY", default_value = DEBUG_DIRECTORY,
          value_hint = ValueHint::DirPath)]
    pub debug_dir: Vec<PathBuf>,
}

/// Stops the VM for a moment, and prints and writes its report.
pub fn attach(arguments: &AttachArgs, detail: Detail) -> anyhow::Result<Code> {
    if arguments.redact && arguments.core.is_some() {
        return Err(redaction::refused_for_core());
    }
    let destination = arguments.json.as_deref().map(Destination::open).transpose();
    let destination = destination.map_err(BadRequest::from_error)?;
    let page = arguments.page.open(destination.as_ref())?;
    let core = arguments.core.as_deref();
    let core = core.map(|path| CoreDestination::open(path, arguments.core_size)).transpose();
    let core = core.map_err(BadRequest::from_error)?;
    // clap requires one of the two.
    let vm = match &arguments.qmp {
        Some(socket) => VmSelector::Socket(socket.clone()),
        None => VmSelector::Process(arguments.pid.unwrap_or_default()),
    };
    let options = AttachOptions {
        vm,
        images: arguments.image.clone(),
        debug: debug_search(&arguments.debug_dir, arguments.quiet),
        stacks: StackChoice { variables: arguments.locals, tasks: arguments.tasks },
        longest_pause: arguments.max_pause,
        core,
    };
    let text = Text::beside(destination.iter().chain(&page), arguments.quiet);
    let core = arguments.core.as_deref().map(|path| format!("the core {}", path.display()));
    let unwritten = Unwritten::new([REPORT.to_owned()].into_iter().chain(core));
    watch_signals(unwritten.clone())?;
    let program = std::env::current_exe().context("failed to find this program's own file")?;
    let mut guardian = Command::new(program);
    guardian.arg(GUARDIAN);
    let AttachResult { mut report, core } =
        attach::attach(&options, guardian).map_err(mark_user_errors)?;
    if arguments.redact {
        report.redact(&mut Pseudonyms::default());
    }
    for warning in &report.warnings {
        output::warning(warning);
    }
    text.print(&text::report(&report, detail));
    let written = destination.map_or(Ok(()), |destination| text.write(&report, &destination));
    let written = written.and(arguments.page.write(&report, page.as_ref(), text));
    unwritten.written(REPORT);
    let core = core.map(|core| core.finish(&report)).transpose();
    if let Ok(Some(Placed { written: Some(core), .. })) = &core {
        let image = arguments.image.first().cloned();
        let image = image.or_else(|| report.image.path.as_ref().map(PathBuf::from));
        let image = image.as_deref().map_or(CoreImage::Unknown, CoreImage::File);
        text.print(&output::wrote_core(core, image));
    }
    written?;
    Ok(exit_code::with_core(exit_code::for_report(&report), core))
}

/// Name of the report among the outputs that a signal loses.
const REPORT: &str = "the report";

/// Has the first terminating signal end this process at once, and name the outputs that are lost. The
/// guardian resumes the guest then.
fn watch_signals(unwritten: Unwritten) -> anyhow::Result<()> {
    let failed = "failed to watch for signals";
    let mut signals = Signals::new(signals::terminating()).context(failed)?;
    let watch = move || {
        if let Some(signal) = signals.forever().next() {
            unwritten.end_at_once(signal);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(watch).context(failed)?;
    Ok(())
}

/// Marks an error of what the user named. A VM that is there and may not or cannot be read is none.
fn mark_user_errors(error: anyhow::Error) -> anyhow::Error {
    let is_users = match error.downcast_ref::<QemuError>() {
        Some(QemuError::Qmp(error)) => matches!(
            error,
            QmpError::NoSocket(_)
                | QmpError::Refused(_)
                | QmpError::BadAddress(_)
                | QmpError::NotQmp { .. }
        ),
        Some(QemuError::Process(error) | QemuError::Find(FindError::Process(error))) => {
            matches!(error, ProcessError::NoSuchProcess(_))
        }
        Some(QemuError::Find(_)) => true,
        _ => false,
    };
    if is_users { BadRequest::from_error(error) } else { error }
}

/// Guards a VM that `attach` has stopped: resumes it when `attach` asks for it or dies.
///
/// # Errors
/// The guest may still be stopped.
pub fn hold() -> anyhow::Result<Code> {
    /// Time to keep trying to resume the guest: QEMU may wait for unavailable storage for hours.
    const PATIENCE: Duration = Duration::from_secs(24 * 3600);
    // A signal to the whole job must not end the guardian: the guest would stay stopped.
    let ignored = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&ignored)).context("failed to ignore a signal")?;
    }
    let link = rustix::io::dup(std::io::stdin()).context("failed to use standard input")?;
    hold::run(link, PATIENCE).context("failed to resume the guest")?;
    Ok(exit_code::CLEAN)
}
