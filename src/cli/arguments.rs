//! The arguments, with their help. Checked here as far as one argument can be checked alone.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::bundled;
use crate::farm::filter::Filter;
use crate::farm::partition::Partition;
use crate::hang::{Bounds, Class};
use crate::hang_after::{Bounded, HangAfter};
use crate::images::DEBUG_DIRECTORY;
use crate::postmortem::Size;
use crate::session::{Policy, Sink};
use crate::symbolize::grammar;
use crate::units::{parse_duration, parse_size};

const EXAMPLES: &str = "\
Examples:
  nmiscope run
        boot the bundled guest with its demo deadlock, report it, write postmortem.json
  nmiscope run --workload spin-irqs-off --cpus 8 --json report.json
        another hang, on more vCPUs
  nmiscope run kernel.elf --append 'console=ttyS0' --nmi-after 5s --stop-after 6s
        what is this kernel doing after 5 seconds?
  nmiscope run --workload nmi-stuck --core hang.core; nmiscope report hang.core
        keep the moment, and look at it again, here or elsewhere, without KVM
  nmiscope run --workload spin-irqs-off --args
        the stacks with arguments and locals, as far as the compiler has kept them
  nmiscope run kernel.elf --hang-after 10s --hang-after soft-lockup=30s --hang-policy report,continue
        be more patient, and see whether it recovers
  nmiscope farm suite.toml -j 4 --out results
        many VMs, with a verdict each
  nmiscope symbolize --image vmlinux --modules /lib/modules/6.1.0 < console.log
        the same log, with functions and source lines behind its stack traces
  nmiscope symbolize --image vmlinux 'vfs_write+0x14/0x90' ffffffff81234567
        single places of a trace

While a VM runs, Ctrl-\\ or SIGUSR1 prints its backtraces and lets it go on; Ctrl-C ends it, and so does
SIGTERM, which takes a last backtrace.

Exit codes:
  0  clean: the guest left with code 0, or the run was ended as asked
  1  the guest left with another code, or not within --time-limit; symbolize: nothing was found
  2  usage: the command line, or a file it names, cannot be used
  3  hang
  4  panic or crash in the guest
  5  the tool or its host failed, or the host was too busy to run the guest (starved)";

/// Says why a VM hung: which vCPU is stuck, and where, in source lines, from outside the guest.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// When to use colors; NO_COLOR in the environment is heeded too
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Say more, on standard error: once for what is done, twice for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// When to use colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest, watch it, and report it if it hangs
    Run(Box<Run>),
    /// Make the report again from a core that `run --core` wrote, or print one that is JSON
    Report(Report),
    /// Print functions and lines behind a log's stack traces, or of addresses
    Symbolize(Symbolize),
    /// Run a suite of VMs, one process and one verdict each
    Farm(Box<Farm>),
    /// Group the hangs and crashes of many reports, and say which are new
    Triage(Triage),
    /// Write the bundled guest kernel to a file, for gdb or another VMM
    Guest {
        /// The file
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

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
        let general = self.hang_after.iter().rev().find(|after| after.whose.is_none());
        let general = general.map_or(Some(Bounds::DEFAULT), |after| after.bound);
        let mut bounds = Bounds::new(general);
        // vCPUs that share a core get their turn later.
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        bounds.starved = bounds.starved.map(|bound| bound * self.cpus.div_ceil(cores).max(1));
        let ready_within = Some(self.ready_within).filter(|within| !within.is_zero());
        bounds.set(Class::BootStall, general.and(ready_within));
        for after in &self.hang_after {
            match after.whose {
                Some(Bounded::Class(class)) => bounds.set(class, after.bound),
                Some(Bounded::Starved) => bounds.starved = after.bound,
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

/// `nmiscope report`.
#[derive(Debug, Args)]
#[command(after_help = "The exit code is the one that the run had.")]
pub struct Report {
    /// The core, or a report as JSON, which is only printed
    #[arg(value_hint = ValueHint::FilePath)]
    pub core: PathBuf,
    /// The image that ran [default: the one with the core's build-id: the bundled guest, the file
    /// that ran, or one among the debug files]
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
    pub telling: Telling,
}

/// Where a farm's results are told, besides in its results directory.
#[derive(Debug, Args)]
pub struct Telling {
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
        telling: Telling,
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

/// `nmiscope triage`.
#[derive(Debug, Args)]
#[command(after_help = TRIAGE_HELP)]
pub struct Triage {
    /// Results directories of farms, directories with reports in them, and reports
    #[arg(required_unless_present = "diff", value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// What is known: [[known]] tables with a `signature` (its first 8 digits, or all 16), a `url`, and
    /// maybe a `note` and the last day of it, `until`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub known: Option<PathBuf>,
    /// Say what NEW has that OLD had not, what is gone, and which VMs became flaky
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with = "paths",
          value_hint = ValueHint::AnyPath)]
    pub diff: Option<Vec<PathBuf>>,
    /// How to say it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub message_format: MessageFormat,
}

const TRIAGE_HELP: &str = "\
Of a farm's VMs, those count that did not do what their suite expects. Each kind has a signature
by which the same ones are told: a hang by its class and stacks, a panic or a crash by its message
and function, a time limit that was exceeded by what ran then.

Exit codes:
  0  there is nothing, or all of it is known; with --diff, nothing is new
  1  a time limit was exceeded
  3  hang; with --diff, something is new
  4  panic or crash";

/// For whom it is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `nmiscope symbolize`.
#[derive(Debug, Args)]
pub struct Symbolize {
    /// The image that the text is of: for Linux, the vmlinux with debug information [default: the
    /// bundled guest]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,
    /// Find kernel modules (.ko, .ko.xz, .ko.zst, .ko.gz, .ko.debug) below this directory; may be
    /// repeated
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::AnyPath)]
    pub modules: Vec<PathBuf>,
    /// The kernel ran this far above the addresses of its image (KASLR), in hexadecimal. Wins over a
    /// `Kernel Offset:` line in the text
    #[arg(long, value_name = "OFFSET", value_parser = parse_address)]
    pub offset: Option<u64>,
    /// Look up the call before each argument: all are where calls return to. A place of a trace, such as
    /// func+0x14/0x90, is taken so anyway
    #[arg(long)]
    pub return_addresses: bool,
    /// Where separate debug files are, by build-id
    #[arg(long, value_name = "DIRECTORY", default_value = DEBUG_DIRECTORY,
          value_hint = ValueHint::DirPath)]
    pub debug_dir: PathBuf,
    /// Print a JSON record for each reference, one a line, and nothing of the text
    /// (docs/symbolize.schema.json)
    #[arg(long)]
    pub json: bool,
    /// Print no summary on standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// Addresses in hexadecimal, or `func+0x14/0x90 [mod]` as a trace has it. With none, standard
    /// input is copied, with functions and lines behind its stack traces
    #[arg(value_name = "ADDR", value_parser = parse_reference)]
    pub references: Vec<String>,
}

fn parse_sink(text: &str) -> Result<Sink, String> {
    Ok(match text {
        "stdout" | "-" => Sink::Stdout,
        "stderr" => Sink::Stderr,
        "none" => Sink::None,
        "" => return Err("`stdout`, `none` or the name of a file is wanted".into()),
        path => Sink::File(path.into()),
    })
}

/// Checks that the text names code; it is read again where the image is known.
fn parse_reference(text: &str) -> Result<String, String> {
    grammar::argument(text).map(|_| text.to_owned()).ok_or_else(|| {
        "an address in hexadecimal is wanted, as in ffffffff80201234, or a place in a function, as in \
         'vfs_write+0x14/0x90'"
            .into()
    })
}

fn parse_address(text: &str) -> Result<u64, String> {
    let digits = text.trim_start_matches("0x");
    u64::from_str_radix(digits, 16)
        .map_err(|_| "an address in hexadecimal is wanted, as in ffffffff80201234".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn bounds_are_for_all_classes_or_for_one() {
        let bounds = |arguments: &[&str]| {
            let all = ["nmiscope", "run"].iter().chain(arguments);
            match Arguments::try_parse_from(all).unwrap().command {
                Command::Run(run) => run.bounds(),
                _ => unreachable!("`run` was given"),
            }
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for class in Class::value_variants() {
            assert_eq!(bounds(&[]).of(*class), Bounds::default().of(*class));
        }
        let given = bounds(&["--hang-after", "9s", "--hang-after", "livelock=1m"]);
        assert_eq!(given.of(Class::HardLockup), seconds(9));
        assert_eq!(given.of(Class::Livelock), seconds(60));
        assert_eq!(given.of(Class::BootStall), seconds(30));
        // One class alone leaves the others what they are.
        let given = bounds(&["--hang-after", "soft-lockup=0", "--ready-within", "5s"]);
        assert_eq!(given.of(Class::SoftLockup), None);
        assert_eq!(given.of(Class::Deadlock), seconds(2));
        assert_eq!(given.of(Class::BootStall), seconds(5));
        assert!(!bounds(&["--hang-after", "0"]).any());
    }

    #[test]
    fn the_demo_is_for_the_bundled_guest_only() {
        let command_line = |arguments: &[&str]| {
            let all = ["nmiscope", "run"].iter().chain(arguments);
            match Arguments::try_parse_from(all).unwrap().command {
                Command::Run(run) => run.command_line(),
                _ => unreachable!("`run` was given"),
            }
        };
        assert_eq!(command_line(&[]), "workload=abba-deadlock");
        assert_eq!(command_line(&["--append", "loglevel=8"]), "workload=abba-deadlock loglevel=8");
        assert_eq!(command_line(&["kernel"]), "");
        assert_eq!(command_line(&["kernel", "--workload", "idle"]), "workload=idle");
    }
}
