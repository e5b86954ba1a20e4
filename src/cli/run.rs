//! `nmiscope run`: turns arguments into a session, prints its events, and writes its report.
//!
//! Owns the options, and which file is written when; refuses to own the run itself (`session`). Called by
//! the parent module.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use clap::{Args, ValueEnum, ValueHint};
use nmiscope_farm::line;
use nmiscope_report::destination::{Destination, MOST_KEPT, Placed};
use nmiscope_report::hang_after::{BoundScope, HangAfter};
use nmiscope_report::text::Detail;
use nmiscope_report::units::{parse_duration, parse_size};
use nmiscope_report::{Outcome, Report, json, text};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::exit_code::{self, Code};
use super::guest_parameters::{self, WorkloadParser};
use super::output::{self, Text};
use super::page::PageArgs;
use super::redaction::{self, Redaction};
use crate::bundled;
use crate::capture::store::{CoreDestination, CoreSize, UnfinishedCore};
use crate::errors::BadRequest;
use crate::hang::{Bounds, Class};
use crate::images::{Access, DEBUG_DIRECTORY, DebugSearch, Files};
use crate::session::{self, Ended, GeneralBound, Policy, RunEvent, RunOptions, Sink};
use crate::signals::Unwritten;

const EXAMPLES: &str = "\
Examples:
  nmiscope run
        boot the bundled guest with its demo deadlock, and report the hang
  nmiscope run kernel.elf --append quiet --hang-after soft-lockup=30s
        boot this kernel, and wait longer before a soft lockup is reported
  echo l | nmiscope run --workload idle --stop-after 2s
        pass standard input to the guest's console: the bundled guest answers the
        key l with the call traces of its CPUs
  nmiscope run kernel.elf --time-limit 60s --json report.json --core hang.core
        fail the guest after a minute, and keep a report and a core
  nmiscope run kernel.elf --html hang.html --source-dir src
        write the report as a page for a browser, with source lines

Exit codes:
  0  clean: the guest exited with code 0, or the run was stopped as requested
  1  the guest exited with another code, or exceeded --time-limit
  2  usage: the command line, or a file it names, cannot be used
  3  hang, certain or likely
  4  panic or crash in the guest
  5  the tool or its host failed, or the host did not run the guest (starved)";

/// Command-line arguments of `nmiscope run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// Guest to boot: an x86-64 ELF kernel with a PVH entry point [default: the bundled guest]
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,
    /// Initial RAM disk for the guest
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub initrd: Option<PathBuf>,
    /// Workload for the guest to run, passed as its kernel parameter `workload=` [default for the bundled
    /// guest: abba-deadlock; `nmiscope list workloads` names them]
    #[arg(long, value_name = "NAME", value_parser = WorkloadParser, hide_possible_values = true)]
    pub workload: Option<String>,
    /// Further kernel parameters, passed to the guest unchanged
    #[arg(long, value_name = "PARAMETERS", default_value = "", hide_default_value = true)]
    pub append: String,
    /// Number of the guest's vCPUs
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub cpus: u32,
    /// Guest memory in bytes, or in units of K, M or G
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    pub memory: u64,
    /// Report a hang after a vCPU makes no progress for this long, not counting time that it waited for a
    /// host CPU (idle time counts); 0 disables detection
    ///
    /// CLASS=DURATION sets the bound of one class of hangs, and may be repeated: deadlock, dead-halt,
    /// hard-lockup, soft-lockup, lock-wait, livelock, lost-wakeup, silent (an unknown kernel prints
    /// nothing; 30s by default), starved (the host does not run a vCPU; by default 30s times the number
    /// of vCPUs that share a core). sleepers=DURATION sets that of hangs whose waiters all sleep, in
    /// classes that are not named: 120s by default, or sixty times a shorter general bound. A cycle of
    /// locks does not wait for it.
    #[arg(long, value_name = "[CLASS=]DURATION", default_values = ["2s", "sleepers=120s"])]
    pub hang_after: Vec<HangAfter>,
    /// Report a hang (boot-stall) when the guest is not ready after this long; 0 disables detection
    ///
    /// An unknown kernel may keep its interrupts off for as long before it takes its first one.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub ready_within: Duration,
    /// Respond to a hang in these ways, separated by commas
    ///
    /// Without report or core no NMI is sent and no stack is taken. The core goes to nmiscope.core, or to
    /// the file of --core.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "report,kill")]
    pub hang_policy: Vec<HangPolicy>,
    /// Print the backtraces of all vCPUs after this time, and let the guest run on
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub nmi_after: Option<Duration>,
    /// End the run after this time, which is not a failure
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub stop_after: Option<Duration>,
    /// Fail the guest if it has not exited after this time: report its backtraces, and end the run
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub time_limit: Option<Duration>,
    /// Wait this long for the vCPUs to answer their NMIs [default: 1s, plus 10ms for each vCPU]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub nmi_timeout: Option<Duration>,
    /// Write the report as JSON to this file, `-` for standard output [default: postmortem.json, if there
    /// is something to report]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json: Option<PathBuf>,
    /// Write no report as JSON
    #[arg(long, conflicts_with = "json")]
    pub no_json: bool,
    /// Options of the report as a page
    #[command(flatten)]
    pub page: PageArgs,
    /// Write an ELF core for `nmiscope report` and gdb: of the guest's end, its last hang, or its last
    /// backtrace, the first of these that there is
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub core: Option<PathBuf>,
    /// Show the arguments and local variables of the frames that the host reads: integers, enums, pointers
    /// and `&str` that the image's DWARF can locate
    #[arg(long)]
    pub locals: bool,
    /// Leave out of the report, in every form, what the guest printed or held: log, console, names of
    /// tasks, registers, addresses, values of variables; and kernel parameters, paths and the host's name
    /// (docs/privacy.md). The guest's console goes nowhere then, unless --serial says where
    #[arg(long)]
    pub redact: bool,
    /// Amount of the guest's memory that goes into the core
    #[arg(long, value_enum, default_value_t)]
    pub core_size: CoreSize,
    /// Send the guest's console to `stdout`, `none`, or a file
    #[arg(long, value_name = "WHERE", default_value = "stdout", value_parser = parse_sink,
          default_value_if("redact", "true", Some("none")))]
    pub serial: Sink,
    /// Print nothing but errors, warnings and the guest's console
    #[arg(short, long)]
    pub quiet: bool,
    /// Directory of separate debug files, by build-id, and of other files that debug information refers to;
    /// may be repeated, and is searched in order
    #[arg(long, value_name = "DIRECTORY", default_value = DEBUG_DIRECTORY,
          value_hint = ValueHint::DirPath)]
    pub debug_dir: Vec<PathBuf>,
    /// End at once when this process, the farm that started this one, dies; tell the farm on standard output
    /// when the guest has ended, and the error that ends this process
    #[arg(long, value_name = "PID", hide = true)]
    pub die_with: Option<i32>,
}

/// Response to a hang, as `--hang-policy` lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HangPolicy {
    /// Take a backtrace of all vCPUs.
    Report,
    /// Take a backtrace of all vCPUs, and write a core.
    Core,
    /// End the run after the report.
    Kill,
    /// Let the guest run on, and report whether it recovers.
    Continue,
}

impl RunArgs {
    /// Returns the bounds of all classes of hangs.
    pub fn bounds(&self) -> Bounds {
        let general = self.hang_after.iter().rev().find(|after| after.scope.is_none());
        let general = general.map_or(Some(Bounds::DEFAULT), |after| after.bound);
        let mut bounds = Bounds::new(general);
        let named = |after: &&HangAfter| after.scope == Some(BoundScope::Sleepers);
        let sleepers = self.hang_after.iter().rev().find(named).map(|after| after.bound);
        bounds.set_sleepers(sleepers.unwrap_or(general.map(Bounds::sleepers_for)));
        // vCPUs that share a core wait for each other's turns.
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        bounds.starved = bounds.starved.map(|bound| bound * self.cpus.div_ceil(cores).max(1));
        let ready_within = Some(self.ready_within).filter(|within| !within.is_zero());
        bounds.set(Class::BootStall, general.and(ready_within));
        for after in &self.hang_after {
            match after.scope {
                Some(BoundScope::Class(class)) => bounds.set(class, after.bound),
                Some(BoundScope::Starved) => bounds.starved = after.bound,
                Some(BoundScope::Sleepers) | None => {}
            }
        }
        bounds
    }

    /// Returns the general bound, if it is not the default one, and which bounds are beside it unasked.
    pub fn general_bound(&self) -> Option<GeneralBound> {
        let general = self.hang_after.iter().rev().find(|after| after.scope.is_none())?;
        let bound = general.bound.filter(|bound| *bound != Bounds::DEFAULT)?;
        let is_implied = |scope| !self.hang_after.iter().any(|after| after.scope == Some(scope));
        Some(GeneralBound {
            bound,
            silent_is_implied: is_implied(BoundScope::Class(Class::Silent)),
            sleepers_are_implied: is_implied(BoundScope::Sleepers),
            ready_is_implied: self.ready_within == Bounds::DEFAULT_LONG,
        })
    }

    /// Returns the session's response to a hang.
    pub fn policy(&self) -> Policy {
        let has = |policy| self.hang_policy.contains(&policy);
        Policy {
            report: has(HangPolicy::Report) || has(HangPolicy::Core) || self.core.is_some(),
            kill: has(HangPolicy::Kill) || !has(HangPolicy::Continue),
        }
    }

    /// Returns the path of the core; `None` if none was requested.
    pub fn core_file(&self) -> Option<&Path> {
        let of_policy = self.hang_policy.contains(&HangPolicy::Core);
        self.core.as_deref().or_else(|| of_policy.then(|| Path::new(DEFAULT_CORE)))
    }

    /// Returns true if the policy asks both to end the run and to let the guest run on.
    pub fn contradicts_itself(&self) -> bool {
        let has = |policy| self.hang_policy.contains(&policy);
        has(HangPolicy::Kill) && has(HangPolicy::Continue)
    }

    /// Returns the guest's kernel parameters: the workload, then those of `--append`.
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
#[error("expected `stdout`, `none` or the name of a file")]
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

/// File of the report without `--json`, in the working directory.
const DEFAULT_JSON: &str = "postmortem.json";

/// File of the core without `--core`, in the working directory.
const DEFAULT_CORE: &str = "nmiscope.core";

/// Runs a VM to the end of its session. `started` is the time at which the program started.
pub fn run(arguments: &RunArgs, detail: Detail, started: Instant) -> anyhow::Result<Code> {
    let Some(farm) = arguments.die_with else { return run_guest(arguments, detail, started) };
    die_with(farm)?;
    run_guest(arguments, detail, started)
        .inspect_err(|error| line::send_error(&format!("{error:#}")))
}

fn run_guest(arguments: &RunArgs, detail: Detail, started: Instant) -> anyhow::Result<Code> {
    if arguments.contradicts_itself() {
        let message = "--hang-policy has both kill and continue: use one of them";
        return Err(BadRequest::from_error(anyhow!(message)));
    }
    if arguments.redact && arguments.core_file().is_some() {
        return Err(redaction::refused_for_core());
    }
    guest_parameters::check(
        arguments.image.is_none(),
        arguments.workload.as_deref(),
        &arguments.append,
        &arguments.command_line(),
    )?;
    let destination = destination(arguments)?;
    let page = arguments.page.open(destination.as_ref())?;
    let stdout_is_data = destination.iter().chain(&page).any(Destination::is_stdout);
    let text = Text::beside(destination.iter().chain(&page), arguments.quiet);
    let files =
        Files::open(arguments.image.as_deref(), Access::Read).map_err(BadRequest::from_error)?;
    if let Some(path) = &arguments.image {
        files.check_code(path).map_err(BadRequest::from_error)?;
    }
    let core = arguments.core_file();
    let open = |path| {
        let core = CoreDestination::open(path, arguments.core_size)?;
        // A name that the user chose is the user's to reuse.
        if arguments.core.is_some() { Ok(core) } else { core.keeping_existing() }
    };
    let core = core.map(open);
    let core = core.transpose().map_err(BadRequest::from_error)?;
    let outputs = Outputs { arguments, destination, page, text };
    let unwritten = outputs.unwritten();
    let stream = text.stream();
    let options =
        RunOptions { core, text: stream, ..options(arguments, stdout_is_data, unwritten.clone()) };
    let mut redaction = Redaction::new(arguments.redact);
    if redaction.is_on() {
        text.print(&text::redaction());
    }
    let ended = session::run(files, &options, started, |event| match event {
        RunEvent::Ready { machine, after } => text.print(&text::ready(machine, after)),
        RunEvent::Warning(warning) => output::warning(&redaction.warning(warning)),
        RunEvent::Note(note) if !arguments.quiet => output::note(note),
        RunEvent::Note(_) => {}
        RunEvent::Hangs(hangs) => text.print(&text::hangs(&redaction.part(hangs))),
        RunEvent::Resolved(hang) => text.print(&text::resolved(&redaction.part(hang))),
        RunEvent::Outcome(outcome) => text.print(&text::outcome(&redaction.part(outcome))),
        RunEvent::Backtrace { backtrace, hangs } => {
            let (backtrace, hangs) = (redaction.part(backtrace), redaction.part(hangs));
            text.print(&text::backtrace(&backtrace, hangs.iter(), detail));
        }
        RunEvent::Stopping { exits } => {
            tracing::info!(?exits, "stopping");
            if arguments.die_with.is_some() {
                line::send_guest_ended();
            }
        }
    })?;
    // Signals are handled until the last output is written.
    let Ended { report, core, console_failure, signals: _signals } = ended;
    if options.serial == Sink::Stdout {
        console_failure.map(output::stdout_failed);
    }
    outputs.write(&redaction.part(&report), core, &unwritten)
}

/// Outputs of a run, but for its console and the texts of its events.
struct Outputs<'a> {
    arguments: &'a RunArgs,
    destination: Option<Destination>,
    page: Option<Destination>,
    text: Text,
}

impl Outputs<'_> {
    /// Name of the backtrace among the outputs that a signal loses.
    const BACKTRACE: &'static str = "the last backtrace";

    /// Returns all outputs, by their names for messages.
    fn unwritten(&self) -> Unwritten {
        let backtrace = Some(Self::BACKTRACE.into());
        let outputs = [backtrace, self.report_name(), self.page_name(), self.core_name()];
        Unwritten::new(outputs.into_iter().flatten())
    }

    fn report_name(&self) -> Option<String> {
        let path = self.destination.as_ref().map(Destination::path);
        path.map(|path| match path {
            Some(path) => format!("the report {}", path.display()),
            None => "the report".into(),
        })
    }

    fn page_name(&self) -> Option<String> {
        let path = self.arguments.page.html.as_deref();
        path.map(|path| format!("the page {}", path.display()))
    }

    fn core_name(&self) -> Option<String> {
        self.arguments.core_file().map(|path| format!("the core {}", path.display()))
    }

    /// Prints the outcome, and writes the report, then the core, which takes longer and may fail for its
    /// size. Returns the exit code of the run.
    ///
    /// # Errors
    /// The report could not be written. The core is, nevertheless.
    fn write(
        &self,
        report: &Report,
        core: Option<UnfinishedCore>,
        unwritten: &Unwritten,
    ) -> anyhow::Result<Code> {
        if !is_already_printed(&report.outcome) {
            self.text.print(&text::outcome(&report.outcome));
        }
        unwritten.written(Self::BACKTRACE);
        let written = self.write_report(report);
        self.report_name().inspect(|name| unwritten.written(name));
        let written = written.and(self.arguments.page.write(report, self.page.as_ref(), self.text));
        self.page_name().inspect(|name| unwritten.written(name));
        let core = core.map(|core| core.finish(report)).transpose();
        if let Ok(Some(Placed { written: Some(path), kept })) = &core {
            if let Some(kept) = kept {
                self.text.kept(DEFAULT_CORE, kept);
            }
            let image = self.arguments.image.as_deref();
            let image = image.map_or(output::CoreImage::Bundled, output::CoreImage::File);
            self.text.print(&output::wrote_core(path, image));
        }
        if let (Err(error), Ok(()), Some(_)) = (&core, &written, self.arguments.die_with) {
            // The error is in this process's own file too, which is on the same disk.
            line::send_error(&format!("{error:#}"));
        }
        self.core_name().inspect(|name| unwritten.written(name));
        let code = exit_code::with_core(exit_code::for_report(report), core);
        written.map(|()| code)
    }

    fn write_report(&self, report: &Report) -> anyhow::Result<()> {
        let wanted = self.destination.as_ref().filter(|_| is_wanted(self.arguments, report));
        let Some(destination) = wanted else { return Ok(()) };
        // A name that the user chose is the user's to reuse.
        if self.arguments.json.is_some() {
            return self.text.write(report, destination);
        }
        let Placed { written, kept } =
            destination.write_and_keep(json::text(report)?.as_bytes())?;
        if let Some(kept) = kept {
            self.text.kept(DEFAULT_JSON, &kept);
        }
        if let Some(written) = written {
            self.text.wrote(&written);
        }
        Ok(())
    }
}

/// Has the kernel kill this process when `parent`, the farm that started it, dies.
///
/// # Errors
/// `parent` is not, or no longer, the parent of this process.
fn die_with(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("failed to watch the parent")?;
    // The parent may have died before the call.
    let is_alive = getppid().is_some_and(|pid| pid.as_raw_nonzero().get() == parent);
    ensure!(is_alive, "process {parent} has died, or has not started this one");
    Ok(())
}

/// Opens the report's file, before the VM starts. The default file is opened too, although it is only
/// written when there is something to report: it must be possible then.
fn destination(arguments: &RunArgs) -> anyhow::Result<Option<Destination>> {
    if arguments.no_json {
        return Ok(None);
    }
    let path = arguments.json.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_JSON));
    let hint = match arguments.json {
        Some(_) => "name another place with --json",
        None => "name another place with --json, or none with --no-json",
    };
    match Destination::open(&path) {
        Ok(destination) if arguments.json.is_none() && !destination.can_keep_existing() => {
            let message = format!(
                "{DEFAULT_JSON} and {MOST_KEPT} earlier ones exist: remove some, or {hint}"
            );
            Err(BadRequest::from_error(anyhow!(message)))
        }
        Ok(destination) => Ok(Some(destination)),
        Err(error) => Err(BadRequest::from_error(anyhow!("{error:#}; {hint}"))),
    }
}

/// Returns true if the report is to be written: always with `--json`, otherwise if it has a backtrace, a
/// hang or an exit code other than 0.
fn is_wanted(arguments: &RunArgs, report: &Report) -> bool {
    arguments.json.is_some()
        || !report.backtraces.is_empty()
        || !report.hangs.is_empty()
        || exit_code::for_report(report) != exit_code::CLEAN
}

/// Returns true if the session has already reported this outcome as an event.
fn is_already_printed(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Exit { .. } | Outcome::Stopped { .. })
}

fn options(arguments: &RunArgs, stdout_is_data: bool, unwritten: Unwritten) -> RunOptions {
    let serial = match &arguments.serial {
        Sink::Stdout if stdout_is_data => Sink::Stderr,
        sink => sink.clone(),
    };
    RunOptions {
        image: arguments.image.clone(),
        initrd: arguments.initrd.clone(),
        command_line: arguments.command_line(),
        vcpus: arguments.cpus,
        memory_bytes: arguments.memory,
        bounds: arguments.bounds(),
        general_bound: arguments.general_bound(),
        text: None,
        policy: arguments.policy(),
        nmi_after: arguments.nmi_after,
        stop_after: arguments.stop_after,
        time_limit: arguments.time_limit,
        nmi_timeout: arguments.nmi_timeout,
        terminal_input: matches!(serial, Sink::Stdout | Sink::Stderr),
        serial,
        // A farm sends further signals itself, and kills its VMs when they do not end.
        lost_by_second_signal: Some(unwritten).filter(|_| arguments.die_with.is_none()),
        // A guest that runs does not wait for servers.
        debug: DebugSearch::in_directories(&arguments.debug_dir),
        variables: arguments.locals,
        core: None,
    }
}
