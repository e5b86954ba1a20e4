//! `nmiscope farm`: plans and runs a suite, passes its events to reporters, and returns an exit code.
//!
//! Owns the options, the checks before the first VM and the choice of reporters; refuses to own the runs
//! themselves (the crate `farm`). Called by the parent module.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand, ValueHint};
use nmiscope_farm::budget::Resources;
use nmiscope_farm::event::{EVENT_SCHEMA_VERSION, EventKind, FarmEvent, FarmStarted, Status};
use nmiscope_farm::filter::Filter;
use nmiscope_farm::partition::Partition;
use nmiscope_farm::plan::{self, Plan};
use nmiscope_farm::reporters::{
    IndexPage, JsonLines, Junit, Markdown, Plain, Reporter, StatusLevel, Terminal, TextOptions,
};
use nmiscope_farm::results::{self, BundledGuest, OpenError, PreviousRun, Results};
use nmiscope_farm::runner::{Runner, RunnerMessage, RunnerOptions};
use nmiscope_farm::suite::{ListedVm, Suite, SuiteVm};
use nmiscope_farm::triage::KnownFailures;
use nmiscope_farm::{journal, merge};
use nmiscope_report::destination::Destination;
use nmiscope_report::units::parse_size;
use nmiscope_vmm as vmm;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::iterator::Signals;

use super::debug_search;
use super::exit_code::{self, Code};
use super::output::{self, MessageFormat};
use super::suite_files;
use super::triage::is_plumbing;
use crate::bundled;
use crate::errors::BadRequest;
use crate::session::longest_ending;
use crate::signals::{self, Repeats};

/// Arguments of `nmiscope farm`.
#[derive(Debug, Args)]
#[command(after_help = FARM_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Farm {
    /// Subcommand; `None` to run a suite
    #[command(subcommand)]
    pub command: Option<FarmCommand>,
    /// Suite of VMs to run, in TOML (docs/suite.schema.json is its schema)
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    pub suite: Option<PathBuf>,
    /// Give running VMs at most this many CPUs at a time; a VM with more vCPUs runs alone [default: the
    /// CPUs that this process may use]
    #[arg(short, long, value_name = "CPUS")]
    pub jobs: Option<NonZeroU32>,
    /// Give running VMs at most this much memory at a time [default: three quarters of the available
    /// memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Write results to this directory, which is new or empty [default: one under nmiscope-results, named
    /// by the time]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Resume the run in --out, if there is one: VMs with a verdict do not run again
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Run only VMs whose name or tags match this expression: `boot`, `name(=boot/cpus=8)`,
    /// `name(cpus=(8|16)$)`, `tag(smoke)`, with `and`, `or`, `not` and parentheses. If given more than
    /// once, one match is enough
    #[arg(long, value_name = "EXPRESSION")]
    pub filter: Vec<Filter>,
    /// Run only this part of the VMs: hash:2/8 selects by name, so that a VM keeps its part when others
    /// are added; count:2/8 makes parts of equal size
    #[arg(long, value_name = "PART")]
    pub partition: Option<Partition>,
    /// List the VMs that would run, and run none; as JSON, one line for each VM
    /// (docs/farm-list.schema.json)
    #[arg(long)]
    pub list: bool,
    /// Retry a VM that does not end as expected up to this many times [default: as the suite says]
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Run each VM this many times
    #[arg(long, value_name = "N", default_value = "1")]
    pub repeat: NonZeroU32,
    /// Start no more VMs after an unexpected hang; with --repeat, hunts for a rare hang
    #[arg(long)]
    pub until_hang: bool,
    /// Start no more VMs after one that does not end as expected
    #[arg(long)]
    pub fail_fast: bool,
    /// Run VMs in a random order; the same SEED gives the same order [default: a random seed, which is
    /// printed]
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true)]
    pub shuffle: Option<Option<u64>>,
    /// Do not count the hangs listed in this file as failures: `[[known]]` tables, as for `nmiscope triage`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub known: Option<PathBuf>,
    /// Directory of separate debug files, by build-id, and of other files that debug information refers
    /// to; may be repeated, and is searched in order [default: /usr/lib/debug]
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub debug_dir: Vec<PathBuf>,
    /// Output of the run
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments that select a farm's output, in addition to its results directory.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Write results to this file as JUnit XML
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub junit: Option<PathBuf>,
    /// Write a summary to this file in Markdown, as for GITHUB_STEP_SUMMARY
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub summary: Option<PathBuf>,
    /// Print text for people, or JSON for programs: one line for each event
    /// (docs/farm-events.schema.json)
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub message_format: MessageFormat,
    /// Print a line for these tries, each level with those before it, and then the summary
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t)]
    pub status_level: StatusLevel,
    /// Print no text but errors and warnings
    #[arg(short, long, conflicts_with = "status_level")]
    pub quiet: bool,
}

/// Subcommands of `nmiscope farm`.
#[derive(Debug, Subcommand)]
pub enum FarmCommand {
    /// Merge the results of a suite's parts, run on several hosts, into one results directory
    Merge {
        /// Results directories to merge
        #[arg(required = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
        inputs: Vec<PathBuf>,
        /// Write the merged results to this directory, which is new or empty
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        out: PathBuf,
        /// Output of the merge
        #[command(flatten)]
        output: OutputArgs,
    },
}

const FARM_HELP: &str = "\
Examples:
  Run a suite, and write a JUnit file for CI:
    nmiscope farm suite.toml -j 4 --out results --junit results.xml
  Resume an interrupted run:
    nmiscope farm suite.toml --out results --resume
  List the VMs that a filter selects:
    nmiscope farm suite.toml --list --filter 'tag(storage) and not tag(slow)'
  Run a VM again and again until it hangs:
    nmiscope farm suite.toml --filter abba --repeat 1000 --until-hang
  Run one of eight parts on this host, and merge all parts on one host:
    nmiscope farm suite.toml --partition hash:2/8 --out part-2
    nmiscope farm merge part-* --out all
  Print only what fails, and the summary:
    nmiscope farm suite.toml --status-level fail
  Print the report of a VM, or list those of a farm:
    nmiscope report nmiscope-results/2026-11-28T14-20-32.000Z
  Open the page of a run in a browser:
    xdg-open results/index.html
  Group the hangs of earlier runs:
    nmiscope triage nmiscope-results

After Ctrl-C or SIGTERM no more VMs start, and running VMs write their reports
and end. A second signal ends them at once.

Exit codes, the first that applies:
  4  a VM panicked or crashed unexpectedly
  3  a VM hung unexpectedly
  1  a VM ended in another unexpected way, or exceeded its time limit
  5  the tool or its host failed: a VM got no verdict, or did not run
  2  usage: the command line, the suite, or a file it names is invalid
  0  all VMs ended as expected, or by failures that are known (--known)";

/// Parent of results directories without `--out`.
const DEFAULT_OUT: &str = "nmiscope-results";

/// Maximum number of names shown of a list.
const MAX_NAMED: usize = 10;

/// Runs a suite, or merges the results of earlier runs.
pub fn farm(arguments: &Farm) -> anyhow::Result<Code> {
    match (&arguments.command, &arguments.suite) {
        (Some(FarmCommand::Merge { inputs, out, output }), _) => merge(inputs, out, output),
        (None, Some(suite)) => run(arguments, suite),
        (None, None) => unreachable!("the suite is required without a subcommand"),
    }
}

fn run(arguments: &Farm, path: &Path) -> anyhow::Result<Code> {
    let suite = Suite::load(path).map_err(|error| BadRequest::from_error(error.into()))?;
    let seed = arguments.shuffle.map(|seed| seed.unwrap_or_else(random));
    let plan = plan(arguments, &suite, seed)?;
    if arguments.list {
        list(&suite, &plan, arguments.output.message_format)?;
        return Ok(exit_code::CLEAN);
    }
    log_left_out(&suite);
    let planned: BTreeSet<usize> = plan.runs.iter().map(|&(vm, _)| vm).collect();
    let vms: Vec<SuiteVm> = planned.iter().map(|&vm| suite.vms[vm].clone()).collect();
    suite_files::check(&vms)?;
    vmm::check_kvm()?;
    let known = arguments.known.as_deref().map(KnownFailures::load).transpose();
    let known = known.map_err(BadRequest::from_error)?.unwrap_or_default();
    let root = arguments.out.clone().unwrap_or_else(default_out);
    // Output files may lie in this directory. It exists before they are checked, but has no journal if
    // they are faulty.
    results::make_root(&root).map_err(BadRequest::from_error)?;
    let hunt = arguments.until_hang && arguments.repeat.get() > 1;
    let mut reporters = Reporters::new(&arguments.output, hunt, &root)?;
    let bundled = BundledGuest::new(bundled::image());
    let opened = Results::open(&root, &vms, &bundled, arguments.resume);
    let (results, previous) = opened.map_err(not_opened)?;
    warn_of_changes(&previous);
    previous.events.iter().for_each(|event| reporters.note_earlier(event));

    raise_file_limit();
    let budget = Resources::available();
    let budget = Resources {
        cpus: arguments.jobs.map_or(budget.cpus, u32::from),
        memory: arguments.memory.unwrap_or(budget.memory),
    };
    tracing::info!(budget.cpus, budget.memory, "resources for running VMs");
    let options = RunnerOptions {
        run_options: debug_search::options(&arguments.debug_dir)?,
        program: std::env::current_exe().context("failed to find this program's file")?,
        bundled,
        budget,
        retries: arguments.retries,
        fail_fast: arguments.fail_fast,
        until_hang: arguments.until_hang,
        exit_grace: |vm| longest_ending(vm.cpus, WRITING),
    };
    let places: BTreeMap<usize, usize> =
        planned.iter().enumerate().map(|(place, &vm)| (vm, place)).collect();
    let runs = plan.runs.iter().map(|&(vm, run)| (places[&vm], run));
    let is_done =
        |&(vm, run): &(usize, u32)| previous.done.contains_key(&(suite.vms[vm].name.clone(), run));
    let start = FarmStarted {
        schema_version: EVENT_SCHEMA_VERSION,
        tool: env!("CARGO_PKG_VERSION").into(),
        suite: path.display().to_string(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        planned: plan.runs.len() as u64,
        done: plan.runs.iter().filter(|run| is_done(run)).count() as u64,
        lost: previous.lost.iter().map(|id| id.name.clone()).collect(),
        stale: previous.changed.union(&previous.gone).cloned().collect(),
        seed,
        partition: arguments.partition.map(|partition| partition.to_string()),
        cpus: budget.cpus,
        memory_bytes: budget.memory,
    };
    let url = |signature: &str| known.find(signature).map(|entry| entry.url.clone());
    let mut report = |event: &FarmEvent| reporters.report(event);
    let runner = Runner::new(&vms, runs, &options, (results, &previous), &url, &mut report);
    forward_signals(runner.sender())?;
    let summary = runner.run(start)?;
    Ok(reporters.code(exit_code::for_farm(&summary.unknown, summary.unfinished)))
}

/// Attributes the error of a results directory to the request, if another directory is to be named, or to
/// the host.
fn not_opened(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Refused(error) => BadRequest::from_error(error),
        OpenError::Failed(error) => error,
    }
}

fn merge(inputs: &[PathBuf], out: &Path, output: &OutputArgs) -> anyhow::Result<Code> {
    let summary = merge::merge(inputs, out).map_err(BadRequest::from_error)?;
    let mut reporters = Reporters::new(output, false, out)?;
    summary.warnings.iter().for_each(|warning| output::warning(warning));
    if !summary.missing.is_empty() {
        let missing = summary.missing.join(", ");
        output::warning(&format!("no results were given for these parts: {missing}"));
    }
    let mut last: BTreeMap<(String, u32), Option<Status>> = BTreeMap::new();
    for event in journal::read(out)?.events {
        reporters.report(&event);
        if let EventKind::VmFinished(finished) = event.kind
            && !finished.again
        {
            let counts = finished.known.is_none().then_some(finished.status);
            last.insert((finished.id.name, finished.id.run), counts);
        }
    }
    let mut counts = BTreeMap::new();
    for status in last.into_values().flatten() {
        *counts.entry(status).or_insert(0) += 1;
    }
    let unfinished = !summary.missing.is_empty() || summary.finished.not_run > 0;
    Ok(reporters.code(exit_code::for_farm(&counts, unfinished)))
}

fn plan(arguments: &Farm, suite: &Suite, seed: Option<u64>) -> anyhow::Result<Plan> {
    let options = plan::PlanOptions {
        filter: Filter::any_of(arguments.filter.clone()),
        partition: arguments.partition,
        repeat: arguments.repeat,
        seed,
    };
    let plan = Plan::new(&suite.vms, &options);
    let plan = plan.map_err(|error| BadRequest::from_error(error.into()))?;
    // A part may be empty, but an empty suite or a filter that selects nothing is a mistake.
    if plan.runs.is_empty() && plan.elsewhere == 0 {
        let message = match suite.vms.len() {
            0 => "the suite has no VM that can run".to_owned(),
            all => format!("--filter selects none of the suite's {all} VMs: --list names them"),
        };
        return Err(BadRequest::from_error(anyhow!(message)));
    }
    Ok(plan)
}

/// Prints the VMs that would run, once each, in the order in which they would start.
fn list(suite: &Suite, plan: &Plan, format: MessageFormat) -> anyhow::Result<()> {
    let mut out = output::stdout();
    for &(vm, _) in plan.runs.iter().filter(|&&(_, run)| run == 1) {
        let vm = &suite.vms[vm];
        match format {
            MessageFormat::Text => writeln!(out, "{}", vm.name.escape_debug())?,
            MessageFormat::Json => {
                writeln!(out, "{}", serde_json::to_string(&ListedVm::from(vm))?)?
            }
        }
    }
    out.flush()?;
    Ok(())
}

/// Logs the workloads of the corpus that cannot run with the suite's number of vCPUs.
fn log_left_out(suite: &Suite) {
    for left_out in &suite.left_out {
        tracing::info!(name = left_out.name, reason = left_out.reason, "left out");
    }
}

/// Warns about differences from the run that is resumed.
fn warn_of_changes(previous: &PreviousRun) {
    let names = |names: &BTreeSet<String>| {
        let some: Vec<&str> = names.iter().take(MAX_NAMED).map(String::as_str).collect();
        let more = names.len() - some.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", some.join(", "))
    };
    if !previous.changed.is_empty() {
        let names = names(&previous.changed);
        output::warning(&format!("these VMs have changed and run again: {names}"));
    }
    if !previous.gone.is_empty() {
        let names = names(&previous.gone);
        output::warning(&format!("these VMs are no longer planned and do not count: {names}"));
    }
    if previous.damaged > 0 {
        let lines = previous.damaged;
        output::warning(&format!("skipped damaged lines of the journal: {lines}"));
    }
}

/// Returns a directory for this run alone, which sorts by time.
fn default_out() -> PathBuf {
    let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    // Colons are special in Windows shares and in `PATH`.
    Path::new(DEFAULT_OUT).join(now.replace(':', "-"))
}

/// Returns an unpredictable number, which need not be secret.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Raises the limit of open files: a VM needs a few, and the usual limit is a thousand.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // A refusal matters only to the VM that then lacks a file, and that VM reports it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Forwards signals that ask the process to end to the runner, which ends its VMs at once after a second
/// one.
fn forward_signals(to: Sender<RunnerMessage>) -> anyhow::Result<()> {
    let failed = "failed to watch for signals";
    let mut signals = Signals::new(signals::terminating()).context(failed)?;
    let watch = move || {
        let mut repeats = Repeats::default();
        let counted =
            signals.forever().filter(|&signal| !repeats.is_repeat(signal, Instant::now()));
        for (count, signal) in counted.enumerate() {
            let name = signals::name(signal);
            if count > 0 {
                let lost = "the reports of VMs that have not ended";
                output::warning(&format!(
                    "running VMs are killed by a second signal, {name}; lost: {lost}"
                ));
            }
            if to.send(RunnerMessage::Signal(name)).is_err() {
                break;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(watch).context(failed)?;
    Ok(())
}

/// Time that a VM's process has for its report and its core, after the capture. The host may be busy, and
/// its disk slow.
const WRITING: Duration = Duration::from_secs(15);

/// Reporters of a run. One that fails is dropped, and the run continues, since the journal has all events.
struct Reporters {
    reporters: Vec<Box<dyn Reporter>>,
    /// True if a reporter of a file failed. Errors of standard output are recorded where it is written.
    failed: bool,
}

impl Reporters {
    fn new(output: &OutputArgs, hunt: bool, root: &Path) -> anyhow::Result<Self> {
        let mut reporters: Vec<Box<dyn Reporter>> = Vec::new();
        let root = || root.to_owned();
        let has_terminal = io::stderr().is_terminal() && !output.quiet;
        let options = TextOptions { status_level: output.status_level, hunt };
        match output.message_format {
            MessageFormat::Json => {
                reporters.push(Box::new(JsonLines::new(Box::new(output::stdout()))));
                if has_terminal && !io::stdout().is_terminal() {
                    reporters.push(Box::new(Terminal::new(root(), options)));
                }
            }
            MessageFormat::Text if output.quiet => {}
            MessageFormat::Text if has_terminal && io::stdout().is_terminal() => {
                reporters.push(Box::new(Terminal::new(root(), options)));
            }
            MessageFormat::Text => {
                let stdout = output::Stdout::through(anstream::stdout());
                reporters.push(Box::new(Plain::new(Box::new(stdout), root(), options)));
            }
        }
        // The page comes first: the others name it.
        let page =
            Destination::open(&root().join(results::INDEX)).map_err(BadRequest::from_error)?;
        reporters.push(Box::new(IndexPage::new(page, root(), is_plumbing)));
        if let Some(file) = &output.junit {
            reporters.push(Box::new(Junit::new(open_destination(file)?, root())));
        }
        if let Some(file) = &output.summary {
            reporters.push(Box::new(Markdown::new(open_destination(file)?, root())));
        }
        Ok(Self { reporters, failed: false })
    }

    fn report(&mut self, event: &FarmEvent) {
        let failed = &mut self.failed;
        self.reporters.retain_mut(|reporter| match reporter.report(event) {
            Ok(()) => true,
            Err(error) => {
                if !output::is_broken_pipe(&error) {
                    output::error(&error);
                    *failed |= !output::is_of_stdout(&error);
                }
                false
            }
        });
    }

    /// Records an event of the earlier run that is resumed.
    fn note_earlier(&mut self, event: &FarmEvent) {
        for reporter in &mut self.reporters {
            reporter.note_earlier(event);
        }
    }

    /// Returns the exit code of the run, or of a failed reporter if the run has no failure.
    fn code(&self, code: Code) -> Code {
        if self.failed && code == exit_code::CLEAN { exit_code::TOOL_FAILED } else { code }
    }
}

/// Opens an output file before any VM runs, so that a faulty one is noticed in time.
fn open_destination(file: &Path) -> anyhow::Result<Destination> {
    let destination = Destination::open(file).map_err(BadRequest::from_error)?;
    if destination.is_stdout() {
        let error = anyhow!("standard output is for events: name a file instead of -");
        return Err(BadRequest::from_error(error));
    }
    Ok(destination)
}

#[cfg(test)]
mod tests {
    #[test]
    fn suites_allow_as_many_vcpus_as_the_vmm() {
        assert_eq!(nmiscope_farm::suite::MAX_VCPUS, nmiscope_vmm::MAX_VCPUS);
    }
}
