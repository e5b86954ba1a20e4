//! The arguments, with their help. Checked here as far as one argument can be checked alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::bundled;
use crate::hang::{Bounds, Class};
use crate::images::DEBUG_DIRECTORY;
use crate::postmortem::Size;
use crate::session::{Policy, Sink};

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
  nmiscope symbolize --image kernel.elf < console.log
        the same log, with a function and a line behind each address

While a VM runs, Ctrl-\\ or SIGUSR1 prints its backtraces and lets it go on; Ctrl-C ends it.

Exit codes:
  0  clean: the guest left with code 0, or the run was ended as asked
  1  the guest failed: it left with another code
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
    Run(Run),
    /// Make the report again from a core that `run --core` wrote, or print one that is JSON
    Report(Report),
    /// Print function and source line of addresses, or of those in a log on standard input
    Symbolize(Symbolize),
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
    /// 30s unless told otherwise
    #[arg(long, value_name = "[CLASS=]DURATION", default_value = "2s", value_parser = parse_bound)]
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
}

/// A bound: of one class, or of all that have none of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HangAfter {
    whose: Option<Bounded>,
    bound: Option<Duration>,
}

/// What can have a bound of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bounded {
    Class(Class),
    Starved,
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

/// `nmiscope symbolize`.
#[derive(Debug, Args)]
pub struct Symbolize {
    /// The image that the addresses are of [default: the bundled guest]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,
    /// The addresses are where calls return to: look up the call before each
    #[arg(long)]
    pub return_addresses: bool,
    /// Where separate debug files are, by build-id
    #[arg(long, value_name = "DIRECTORY", default_value = DEBUG_DIRECTORY,
          value_hint = ValueHint::DirPath)]
    pub debug_dir: PathBuf,
    /// Addresses, in hexadecimal. With none, standard input is copied, and what it says of call
    /// traces annotated
    #[arg(value_name = "ADDR", value_parser = parse_address)]
    pub addresses: Vec<u64>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    let duration = humantime::parse_duration(text);
    let duration = duration.map_err(|error| format!("{error}, as in 2s or 500ms"))?;
    if duration > LONGEST { Err("longer than a year".into()) } else { Ok(duration) }
}

fn parse_bound(text: &str) -> Result<HangAfter, String> {
    let (whose, bound) = match text.split_once('=') {
        None => (None, text),
        Some(("starved", bound)) => (Some(Bounded::Starved), bound),
        Some(("boot-stall", _)) => return Err("for boot-stall, use --ready-within".into()),
        Some((name, bound)) => {
            let class = Class::from_str(name, false);
            let names = || {
                let names = Class::value_variants().iter().map(|class| class.name());
                names.filter(|name| *name != "boot-stall").collect::<Vec<_>>().join(", ")
            };
            let class = class.map_err(|_| format!("no class `{name}`: {}, starved", names()))?;
            (Some(Bounded::Class(class)), bound)
        }
    };
    const LEAST: Duration = Duration::from_millis(200);
    let bound = Some(parse_duration(bound)?).filter(|bound| !bound.is_zero());
    if bound.is_some_and(|bound| bound < LEAST) {
        return Err("too short to look twice: 200ms at least, or 0 to not look".into());
    }
    Ok(HangAfter { whose, bound })
}

fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "a number of bytes is wanted, as in 64M or 1G".to_owned();
    let upper = text.trim().to_ascii_uppercase();
    let number = upper.trim_end_matches("IB").trim_end_matches('B');
    let (digits, shift) = match number.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if number.ends_with('K') => (digits, 10),
        Some(digits) if number.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (number, 0),
    };
    let count: u64 = digits.trim().parse().map_err(|_| wrong())?;
    count.checked_mul(1 << shift).ok_or_else(wrong)
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
    fn sizes_have_units() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert!(parse_size("M").is_err());
        assert!(parse_size("-1").is_err());
        assert!(parse_size("99999999999G").is_err());
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
        assert!(parse_bound("1ns").is_err());
        assert!(parse_bound("no-such=1s").is_err());
        assert!(parse_bound("boot-stall=1s").is_err());
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
