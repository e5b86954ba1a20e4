//! `nmiscope run`: arguments to a session, its events to text, its report to a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use clap::{Args, ValueEnum, ValueHint};
use nmiscope_report::destination::Destination;
use nmiscope_report::hang_after::{BoundScope, HangAfter};
use nmiscope_report::text::Detail;
use nmiscope_report::units::{parse_duration, parse_size};
use nmiscope_report::{Outcome, Report, text};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::stdio::dup2_stdout;

use super::exit_code::{self, Code};
use super::output::{self, Text};
use crate::bundled;
use crate::capture::store::{Destination as CoreDestination, Size};
use crate::errors::BadRequest;
use crate::hang::{Bounds, Class};
use crate::images::{Access, DEBUG_DIRECTORY, Files};
use crate::session::{self, Ended, Event, Options, Policy, Sink};

/// `nmiscope run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The guest: an x86-64 ELF kernel with a PVH entry point [default: the bundled guest]
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,
    /// An initial RAM disk for the guest
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub initrd: Option<PathBuf>,
    /// What the guest runs, as its kernel parameter `workload=` [default, for the bundled guest:
    /// abba-deadlock]
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// Kernel parameters, as they are
    #[arg(long, value_name = "PARAMETERS", default_value = "", hide_default_value = true)]
    pub append: String,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub cpus: u32,
    /// Guest memory: bytes, or with K, M or G behind
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    pub memory: u64,
    /// Call it a hang when a vCPU gets nowhere for so long, of the time in which the host lets it; 0
    /// to not look. CLASS=DURATION is for one class of hangs, and can be given more than once:
    /// deadlock, dead-halt, hard-lockup, soft-lockup, lock-wait, livelock, lost-wakeup; silent (no
    /// output from a guest of which nothing is known) and starved (the host does not run it) have
    /// 30s unless told otherwise, starved for each of the vCPUs that share a core
    #[arg(long, value_name = "[CLASS=]DURATION", default_value = "2s")]
    pub hang_after: Vec<HangAfter>,
    /// Call it a hang (boot-stall) when the guest is not ready by then; 0 to not look. A guest of which
    /// nothing is known may have its interrupts off for as long before it takes the first one
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub ready_within: Duration,
    /// What to do about a hang: report it with the stacks of all vCPUs (without it there are no NMIs
    /// and no stacks); write a core of it too (nmiscope.core, or as --core says); kill, to end the run,
    /// or continue, to let the guest go on and say if it recovers
    #[arg(long, value_enum, value_delimiter = ',', default_value = "report,kill")]
    pub hang_policy: Vec<HangPolicy>,
    /// Print the backtraces after this time, and go on
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub nmi_after: Option<Duration>,
    /// End the run after this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub stop_after: Option<Duration>,
    /// The guest has failed if it has not ended after this time: end the run, and say where it was
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub time_limit: Option<Duration>,
    /// How long the vCPUs have to answer their NMIs [default: 1s, and 10ms for each vCPU]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub nmi_timeout: Option<Duration>,
    /// Where the report goes, `-` for standard output [default: postmortem.json, if there is
    /// something to report]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,
    /// Do not write a report
    #[arg(long, conflicts_with = "json")]
    pub no_json: bool,
    /// Write an ELF core of the last backtrace's moment, for `nmiscope report` and gdb
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub core: Option<PathBuf>,
    /// Show the arguments and locals of the frames that the host sees, where the image's DWARF says
    /// where they are: integers, enums, pointers, `&str`
    #[arg(long)]
    pub args: bool,
    /// How much of the guest's memory goes into the core
    #[arg(long, value_enum, default_value_t)]
    pub core_size: Size,
    /// Where the guest's console goes: `stdout`, `none`, or a file
    #[arg(long, value_name = "WHERE", default_value = "stdout", value_parser = parse_sink)]
    pub serial: Sink,
    /// Print nothing but errors, warnings and the guest's console
    #[arg(short, long)]
    pub quiet: bool,
    /// Where separate debug files are, by build-id
    #[arg(long, value_name = "DIRECTORY", default_value = DEBUG_DIRECTORY,
          value_hint = ValueHint::DirPath)]
    pub debug_dir: PathBuf,
    /// End at once when this process, a farm that has started this one, dies; and tell it by the end of
    /// standard output when the guest is over
    #[arg(long, value_name = "PID", hide = true)]
    pub die_with: Option<i32>,
}

/// What to do about a hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HangPolicy {
    /// Take a backtrace of all vCPUs.
    Report,
    /// The same, and write a core of the moment.
    Core,
    /// End the run.
    Kill,
    /// Let the guest go on.
    Continue,
}

impl Run {
    /// The bounds of all classes of hangs.
    pub fn bounds(&self) -> Bounds {
        let general = self.hang_after.iter().rev().find(|after| after.scope.is_none());
        let general = general.map_or(Some(Bounds::DEFAULT), |after| after.bound);
        let mut bounds = Bounds::new(general);
        // vCPUs that share a core get their turn later.
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        bounds.starved = bounds.starved.map(|bound| bound * self.cpus.div_ceil(cores).max(1));
        let ready_within = Some(self.ready_within).filter(|within| !within.is_zero());
        bounds.set(Class::BootStall, general.and(ready_within));
        for after in &self.hang_after {
            match after.scope {
                Some(BoundScope::Class(class)) => bounds.set(class, after.bound),
                Some(BoundScope::Starved) => bounds.starved = after.bound,
                None => {}
            }
        }
        bounds
    }

    /// What to do about a hang.
    pub fn policy(&self) -> Policy {
        let has = |policy| self.hang_policy.contains(&policy);
        Policy {
            report: has(HangPolicy::Report) || has(HangPolicy::Core) || self.core.is_some(),
            kill: has(HangPolicy::Kill) || !has(HangPolicy::Continue),
        }
    }

    /// Where a core goes, if one is to be written.
    pub fn core_file(&self) -> Option<&Path> {
        const DEFAULT: &str = "nmiscope.core";
        let of_policy = self.hang_policy.contains(&HangPolicy::Core);
        self.core.as_deref().or_else(|| of_policy.then(|| Path::new(DEFAULT)))
    }

    /// Whether it is asked for both, to end the run and to let the guest go on.
    pub fn contradicts_itself(&self) -> bool {
        let has = |policy| self.hang_policy.contains(&policy);
        has(HangPolicy::Kill) && has(HangPolicy::Continue)
    }

    /// The guest's kernel parameters.
    pub fn command_line(&self) -> String {
        let default = self.image.is_none().then_some(bundled::DEFAULT_WORKLOAD);
        let workload = self.workload.as_deref().or(default);
        let workload = workload.map(|name| format!("workload={name}"));
        let given = Some(self.append.trim().to_owned()).filter(|words| !words.is_empty());
        workload.into_iter().chain(given).collect::<Vec<_>>().join(" ")
    }
}

/// The argument of `--serial` is empty.
#[derive(Debug, thiserror::Error)]
#[error("`stdout`, `none` or the name of a file is wanted")]
struct NoSink;

fn parse_sink(text: &str) -> Result<Sink, NoSink> {
    Ok(match text {
        "stdout" | "-" => Sink::Stdout,
        "stderr" => Sink::Stderr,
        "none" => Sink::None,
        "" => return Err(NoSink),
        path => Sink::File(path.into()),
    })
}

/// Where the report goes when nobody says where.
const DEFAULT_JSON: &str = "postmortem.json";

/// Runs a VM. `started` is when the program was.
pub fn run(arguments: &Run, detail: Detail, started: Instant) -> anyhow::Result<Code> {
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
        Event::Backtrace { backtrace, hangs } => {
            text.print(&text::backtrace(backtrace, hangs, detail));
        }
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
