//! `nmiscope run`: arguments to a session, its events to text, its report to a file.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::stdio::dup2_stdout;

use super::arguments::Run;
use super::exit_code::{self, Code};
use super::output::{self, Text};
use crate::destination::Destination;
use crate::errors::BadRequest;
use crate::images::{Access, Files};
use crate::postmortem::Destination as CoreDestination;
use crate::report::{Outcome, Report, text};
use crate::session::{self, Ended, Event, Options, Sink};

/// Where the report goes when nobody says where.
const DEFAULT_JSON: &str = "postmortem.json";

/// Runs a VM. `started` is when the program was.
pub fn run(arguments: &Run, started: Instant) -> anyhow::Result<Code> {
    if let Some(parent) = arguments.die_with {
        die_with(parent)?;
    }
    if arguments.contradicts_itself() {
        let message = "--hang-policy says both kill and continue: which is it?";
        return Err(BadRequest::from_error(anyhow!(message)));
    }
    let destination = destination(arguments)?;
    let stdout_is_data = destination.as_ref().is_some_and(Destination::is_stdout);
    let text = Text::beside(destination.as_ref(), arguments.quiet);
    let files =
        Files::open(arguments.image.as_deref(), Access::Read).map_err(BadRequest::from_error)?;
    let core = arguments.core_file();
    let core = core.map(|path| CoreDestination::open(path, arguments.core_size));
    let core = core.transpose().map_err(BadRequest::from_error)?;
    let options = Options { core, ..options(arguments, stdout_is_data) };
    let Ended { report, core } = session::run(files, &options, started, |event| match event {
        Event::Ready { machine, after } => text.print(&text::ready(machine, after)),
        Event::Warning(warning) => output::warning(warning),
        Event::Hangs(hangs) => text.print(&text::hangs(hangs)),
        Event::Resolved(hang) => text.print(&text::resolved(hang)),
        Event::Outcome(outcome) => text.print(&text::outcome(outcome)),
        Event::Backtrace(backtrace) => text.print(&text::backtrace(backtrace)),
        Event::Stopping { exits } => {
            tracing::info!(?exits, "stopping");
            if arguments.die_with.is_some() {
                close_stdout();
            }
        }
    })?;
    if !told_already(&report.outcome) {
        text.print(&text::outcome(&report.outcome));
    }
    if let Some(destination) = destination.filter(|_| is_wanted(arguments, &report)) {
        text.write(&report, destination)?;
    }
    if let Some(core) = core {
        text.print(&format!("wrote {}\n", core?.display()));
    }
    Ok(exit_code::of_report(&report))
}

/// Whoever has started this process does not outlive it.
fn die_with(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("failed to watch the parent")?;
    // It may have died before that.
    let is_alive = getppid().is_some_and(|pid| pid.as_raw_nonzero().get() == parent);
    ensure!(is_alive, "process {parent} has died, or has not started this one");
    Ok(())
}

/// Tells a farm that the guest is over: it reads the other end.
fn close_stdout() {
    // Not a bare `close`: the next file would be standard output.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(null);
    }
}

/// Opened before the VM starts. Without `--json` a report is written only if there is something in
/// it, but then it must be possible too.
fn destination(arguments: &Run) -> anyhow::Result<Option<Destination>> {
    if arguments.no_json {
        return Ok(None);
    }
    let path = arguments.json.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_JSON));
    let hint = match arguments.json {
        Some(_) => "name another place with --json",
        None => "name another place with --json, or none with --no-json",
    };
    match Destination::open(&path) {
        Ok(destination) => Ok(Some(destination)),
        Err(error) => Err(BadRequest::from_error(anyhow!("{error:#}; {hint}"))),
    }
}

/// A report that was asked for is always written; the other one when it says something.
fn is_wanted(arguments: &Run, report: &Report) -> bool {
    arguments.json.is_some()
        || !report.backtraces.is_empty()
        || !report.hangs.is_empty()
        || exit_code::of_report(report) != exit_code::CLEAN
}

/// Whether the session has told how it ended when it happened.
fn told_already(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Exit { .. } | Outcome::Stopped { .. })
}

fn options(arguments: &Run, stdout_is_data: bool) -> Options {
    let serial = match &arguments.serial {
        Sink::Stdout if stdout_is_data => Sink::Stderr,
        sink => sink.clone(),
    };
    Options {
        image: arguments.image.clone(),
        initrd: arguments.initrd.clone(),
        command_line: arguments.command_line(),
        vcpus: arguments.cpus,
        memory_bytes: arguments.memory,
        bounds: arguments.bounds(),
        policy: arguments.policy(),
        nmi_after: arguments.nmi_after,
        stop_after: arguments.stop_after,
        time_limit: arguments.time_limit,
        nmi_timeout: arguments.nmi_timeout,
        terminal_input: matches!(serial, Sink::Stdout | Sink::Stderr),
        serial,
        // A farm kills its VMs where it has to.
        second_signal_ends: arguments.die_with.is_none(),
        debug_directory: arguments.debug_dir.clone(),
        variables: arguments.args,
        core: None,
    }
}
