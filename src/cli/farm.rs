//! `nmiscope farm`: a suite to a plan, a plan to a run, its events to whoever wants them, and an exit
//! code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
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
use nmiscope_farm::reporters::{JsonLines, Junit, Markdown, Plain, Reporter, Terminal};
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
use signal_hook::low_level::signal_name;

use super::exit_code::{self, Code};
use super::output::{self, MessageFormat};
use crate::bundled;
use crate::errors::BadRequest;
use crate::signals;

/// `nmiscope farm`.
#[derive(Debug, Args)]
#[command(after_help = FARM_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Farm {
    /// What else there is to do
    #[command(subcommand)]
    pub command: Option<FarmCommand>,
    /// The suite: VMs in TOML, as docs/suite.schema.json says
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    pub suite: Option<PathBuf>,
    /// So many CPUs are given to VMs at a time; one with more vCPUs runs alone [default: those that
    /// this process may use]
    #[arg(short, long, value_name = "CPUS")]
    pub jobs: Option<NonZeroU32>,
    /// So much memory is given to VMs at a time [default: three quarters of what is available]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// The results directory, new or empty [default: one under nmiscope-results, named by the time]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Go on with the run whose results are in --out, if there is one: what is over is not run again
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Only VMs that this expression is of, by name and tag: `boot`, `name(=boot/cpus=8)`,
    /// `name(cpus=(8|16)$)`, `tag(smoke)`, with `and`, `or`, `not` and parentheses; given more than
    /// once, those that any of them is of
    #[arg(long, value_name = "EXPRESSION")]
    pub filter: Vec<Filter>,
    /// Only this part of them: hash:2/8 is by name, and stays the same when others come or go; count:2/8
    /// deals them out evenly
    #[arg(long, value_name = "PART")]
    pub partition: Option<Partition>,
    /// Name the VMs that would run, and run none
    #[arg(long)]
    pub list: bool,
    /// Try a VM that does not do what is expected so many times more [default: as the suite says]
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Run each VM so many times
    #[arg(long, value_name = "N", default_value = "1")]
    pub repeat: NonZeroU32,
    /// Start nothing more once one hangs that should not: with --repeat, to hunt for a rare hang
    #[arg(long)]
    pub until_hang: bool,
    /// Start nothing more once one does not do what is expected
    #[arg(long)]
    pub fail_fast: bool,
    /// In a random order, which this number makes again [default: one of its own, which is printed]
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true)]
    pub shuffle: Option<Option<u64>>,
    /// Hangs that are known, and do not count: [[known]] tables as for `nmiscope triage`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub known: Option<PathBuf>,
    /// Where it is told
    #[command(flatten)]
    pub output_args: OutputArgs,
}

/// Where a farm's results are told, besides in its results directory.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub junit: Option<PathBuf>,
    /// Write a summary in Markdown, as for GITHUB_STEP_SUMMARY
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub summary: Option<PathBuf>,
    /// What to print: text for people, or for programs a line of JSON for each event, as
    /// docs/farm-events.schema.json says
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub message_format: MessageFormat,
}

/// The subcommands of `nmiscope farm`.
#[derive(Debug, Subcommand)]
pub enum FarmCommand {
    /// Make one results directory of those that several machines have made of parts of one suite
    Merge {
        /// The results directories
        #[arg(required = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
        inputs: Vec<PathBuf>,
        /// The one that is made
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        out: PathBuf,
        /// Where it is told
        #[command(flatten)]
        output_args: OutputArgs,
    },
}

const FARM_HELP: &str = "\
Examples:
  nmiscope farm suite.toml -j 4 --out results --junit results.xml
        run all of it, and write what CI systems read
  nmiscope farm suite.toml --out results --resume
        go on where a run was interrupted
  nmiscope farm suite.toml --filter 'tag(storage) and not name(cpus=1$)' --list
        which VMs are these?
  nmiscope farm suite.toml --filter abba --repeat 1000 --until-hang
        run it again and again, until it hangs
  nmiscope farm suite.toml --partition hash:2/8 --out part-2; nmiscope farm merge part-* --out all
        a part of it on each of several machines, and one result
  nmiscope triage nmiscope-results
        what has hung lately, and how often?

Ctrl-C, or SIGTERM, starts no more VMs, and has those that run say where they are; the second time
it ends them at once.

Exit codes, the first that is true:
  4  a VM panicked or crashed, and was not expected to
  3  a VM hung, and was not expected to
  1  a VM did something else than was expected, or not within its time limit
  5  the tool or its host failed: a VM got no verdict, or not all of them have run
  2  usage: the command line, the suite, or a file it names, cannot be used
  0  all did what was expected, or what is known (--known)";

/// Where results go when nobody says where.
const DEFAULT_OUT: &str = "nmiscope-results";

/// So many names are told of a list of them.
const MAX_NAMED: usize = 10;

/// Runs a farm, or merges what farms have left.
pub fn farm(arguments: &Farm) -> anyhow::Result<Code> {
    match (&arguments.command, &arguments.suite) {
        (Some(FarmCommand::Merge { inputs, out, output_args }), _) => {
            merge(inputs, out, output_args)
        }
        (None, Some(suite)) => run(arguments, suite),
        (None, None) => unreachable!("the suite is required without a subcommand"),
    }
}

fn run(arguments: &Farm, path: &Path) -> anyhow::Result<Code> {
    let suite = Suite::load(path).map_err(|error| BadRequest::from_error(error.into()))?;
    let seed = arguments.shuffle.map(|seed| seed.unwrap_or_else(random));
    let plan = plan(arguments, &suite, seed)?;
    if arguments.list {
        list(&suite, &plan, arguments.output_args.message_format)?;
        return Ok(exit_code::CLEAN);
    }
    log_left_out(&suite);
    let planned: BTreeSet<usize> = plan.runs.iter().map(|&(vm, _)| vm).collect();
    let vms: Vec<SuiteVm> = planned.iter().map(|&vm| suite.vms[vm].clone()).collect();
    check_files(&vms)?;
    vmm::check_kvm()?;
    let known = arguments.known.as_deref().map(KnownFailures::load).transpose();
    let known = known.map_err(BadRequest::from_error)?.unwrap_or_default();
    let root = arguments.out.clone().unwrap_or_else(default_out);
    // A file may be asked for in there. What is found to be wrong with it leaves no journal behind.
    results::make_root(&root).map_err(BadRequest::from_error)?;
    let mut reporters = Reporters::new(&arguments.output_args, &root)?;
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
    tracing::info!(budget.cpus, budget.memory, "what VMs are given at a time");
    let options = RunnerOptions {
        program: std::env::current_exe().context("failed to find this program's file")?,
        bundled,
        budget,
        retries: arguments.retries,
        fail_fast: arguments.fail_fast,
        until_hang: arguments.until_hang,
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
    let mut tell = |event: &FarmEvent| reporters.report(event);
    let runner = Runner::new(&vms, runs, &options, (results, &previous), &url, &mut tell);
    forward_signals(runner.sender())?;
    let summary = runner.run(start)?;
    Ok(reporters.code(exit_code::of_farm(&summary.unknown, summary.unfinished)))
}

/// The error of a results directory: the request's where another one is to be named, or else the host's.
fn not_opened(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Refused(error) => BadRequest::from_error(error),
        OpenError::Failed(error) => error,
    }
}

fn merge(inputs: &[PathBuf], out: &Path, output_args: &OutputArgs) -> anyhow::Result<Code> {
    let summary = merge::merge(inputs, out).map_err(BadRequest::from_error)?;
    let mut reporters = Reporters::new(output_args, out)?;
    summary.warnings.iter().for_each(|warning| output::warning(warning));
    if !summary.missing.is_empty() {
        let missing = summary.missing.join(", ");
        output::warning(&format!("there are no results of these parts: {missing}"));
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
    Ok(reporters.code(exit_code::of_farm(&counts, unfinished)))
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
    // A part may well be empty; a suite, or what a filter leaves of it, is a mistake.
    if plan.runs.is_empty() && plan.elsewhere == 0 {
        let message = match suite.vms.len() {
            0 => "the suite has no VM that can run".to_owned(),
            all => format!("--filter is of none of the suite's {all} VMs: --list names them"),
        };
        return Err(BadRequest::from_error(anyhow!(message)));
    }
    Ok(plan)
}

/// Names what would run, once each, in the order in which it would start.
fn list(suite: &Suite, plan: &Plan, format: MessageFormat) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for &(vm, _) in plan.runs.iter().filter(|&&(_, run)| run == 1) {
        let vm = &suite.vms[vm];
        match format {
            MessageFormat::Text => writeln!(out, "{}", vm.name.escape_debug())?,
            MessageFormat::Json => {
                serde_json::to_writer(&mut out, &ListedVm::from(vm))?;
                writeln!(out)?;
            }
        }
    }
    Ok(())
}

/// What of a corpus cannot run with so few vCPUs, or so many.
fn log_left_out(suite: &Suite) {
    for left_out in &suite.left_out {
        tracing::info!(name = left_out.name, reason = left_out.reason, "left out");
    }
}

/// Images and RAM disks that are not there are told of before anything runs, all at once.
fn check_files(vms: &[SuiteVm]) -> anyhow::Result<()> {
    let files = vms.iter().flat_map(|vm| [&vm.image, &vm.initrd]).flatten();
    let files: BTreeSet<&PathBuf> = files.collect();
    let wrong: Vec<String> = files
        .into_iter()
        .filter_map(|file| Some(format!("{}: {}", file.display(), File::open(file).err()?)))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let more = match wrong.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let wrong = wrong[..wrong.len().min(MAX_NAMED)].join("; ");
    Err(BadRequest::from_error(anyhow!("the suite's files cannot be read: {wrong}{more}")))
}

/// What is not as an earlier run has left it.
fn warn_of_changes(previous: &PreviousRun) {
    let names = |names: &BTreeSet<String>| {
        let some: Vec<&str> = names.iter().take(MAX_NAMED).map(String::as_str).collect();
        let more = names.len() - some.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", some.join(", "))
    };
    if !previous.changed.is_empty() {
        let names = names(&previous.changed);
        output::warning(&format!("these are not what they were, and run again: {names}"));
    }
    if !previous.gone.is_empty() {
        let names = names(&previous.gone);
        output::warning(&format!("these are not planned any more, and do not count: {names}"));
    }
    if previous.damaged > 0 {
        let lines = previous.damaged;
        output::warning(&format!("skipped lines of the journal that are damaged: {lines}"));
    }
}

/// A directory of its own for each run, in the order of time.
fn default_out() -> PathBuf {
    let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    // Colons are for Windows shares and for `PATH`s what slashes are for files.
    Path::new(DEFAULT_OUT).join(now.replace(':', "-"))
}

/// A number that nobody can foresee, and that need not be a secret.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// A VM takes a few files, and often a program may have a thousand unless it asks for more.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What is refused is not needed yet; the VM for which it is says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// One that comes so soon after another is the same: whoever ends a farm may send one to it, and one to
/// its control group or its terminal.
const REPEAT_WINDOW: Duration = Duration::from_millis(200);

/// Tells the runner of signals that ask to end, until the process does.
fn forward_signals(to: Sender<RunnerMessage>) -> anyhow::Result<()> {
    let failed = "failed to watch for signals";
    let mut signals = Signals::new(signals::that_end()).context(failed)?;
    let watch = move || {
        let mut last: Option<Instant> = None;
        for signal in signals.forever() {
            let is_repeat = last.is_some_and(|last| last.elapsed() < REPEAT_WINDOW);
            last = Some(Instant::now());
            if is_repeat {
                continue;
            }
            let name = signal_name(signal).unwrap_or("a signal");
            if to.send(RunnerMessage::Signal(name)).is_err() {
                break;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(watch).context(failed)?;
    Ok(())
}

/// Those who are told. One that fails is told no more, and the run goes on: the journal has it all.
struct Reporters {
    reporters: Vec<Box<dyn Reporter>>,
    /// One of them has failed, other than because nobody reads it any more.
    failed: bool,
}

impl Reporters {
    fn new(output_args: &OutputArgs, root: &Path) -> anyhow::Result<Self> {
        let mut reporters: Vec<Box<dyn Reporter>> = Vec::new();
        let root = || root.to_owned();
        let has_terminal = io::stderr().is_terminal();
        match output_args.message_format {
            MessageFormat::Json => {
                reporters.push(Box::new(JsonLines::new(Box::new(io::stdout()))));
                if has_terminal && !io::stdout().is_terminal() {
                    reporters.push(Box::new(Terminal::new(root())));
                }
            }
            MessageFormat::Text if has_terminal && io::stdout().is_terminal() => {
                reporters.push(Box::new(Terminal::new(root())));
            }
            MessageFormat::Text => {
                reporters.push(Box::new(Plain::new(Box::new(anstream::stdout()), root())));
            }
        }
        if let Some(file) = &output_args.junit {
            reporters.push(Box::new(Junit::new(open_destination(file)?, root())));
        }
        if let Some(file) = &output_args.summary {
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
                    *failed = true;
                }
                false
            }
        });
    }

    /// Of what an earlier run on the same directory has told.
    fn note_earlier(&mut self, event: &FarmEvent) {
        for reporter in &mut self.reporters {
            reporter.note_earlier(event);
        }
    }

    /// The code of a run that has one, and of which all had to be told.
    fn code(&self, code: Code) -> Code {
        if self.failed && code == exit_code::CLEAN { exit_code::TOOL_FAILED } else { code }
    }
}

/// That a file can be written is found out before the VMs run.
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
