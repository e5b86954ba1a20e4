//! The command line as a whole: the commands, and the options that all of them have. The options of
//! a command stand beside its action, in the command's file.

#[cfg(feature = "kvm")]
use std::path::PathBuf;

#[cfg(feature = "kvm")]
use clap::ValueHint;
use clap::{Parser, Subcommand};

use super::attach::Attach;
#[cfg(feature = "kvm")]
use super::farm::Farm;
use super::output::Color;
use super::report::Report;
#[cfg(feature = "kvm")]
use super::run::Run;
use super::symbolize::Symbolize;
use super::triage::Triage;

macro_rules! exit_codes {
    () => {
        "\
Exit codes:
  0  clean: the guest left with code 0, or the run was ended as asked
  1  the guest left with another code, or not within --time-limit; symbolize: nothing was found
  2  usage: the command line, or a file it names, cannot be used
  3  hang, certain or likely
  4  panic or crash in the guest
  5  the tool or its host failed, or the host was too busy to run the guest (starved)"
    };
}

#[cfg(feature = "kvm")]
const EXAMPLES: &str = concat!(
    "\
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
  nmiscope attach --qmp vm.sock; nmiscope report guest.dump --image kernel.elf
        a guest in a QEMU that somebody else started, and a dump of one
  nmiscope farm suite.toml -j 4 --out results
        many VMs, with a verdict each
  nmiscope symbolize --image vmlinux --modules /lib/modules/6.1.0 < console.log
        the same log, with functions and source lines behind its stack traces
  nmiscope symbolize --image vmlinux 'vfs_write+0x14/0x90' ffffffff81234567
        single places of a trace

While a VM runs, Ctrl-\\ or SIGUSR1 prints its backtraces and lets it go on; Ctrl-C ends it, and so does
SIGTERM, which takes a last backtrace.

",
    exit_codes!()
);

#[cfg(not(feature = "kvm"))]
const EXAMPLES: &str = concat!(
    "\
Examples:
  nmiscope attach --qmp vm.sock --image kernel.elf
        the stacks and hangs of a guest in a QEMU that somebody else started
  nmiscope report hang.core --image kernel.elf
        look at a stored moment again
  nmiscope symbolize --image vmlinux --modules /lib/modules/6.1.0 < console.log
        the same log, with functions and source lines behind its stack traces
  nmiscope symbolize --image vmlinux 'vfs_write+0x14/0x90' ffffffff81234567
        single places of a trace
  nmiscope triage results
        the hangs and crashes of a farm's VMs, grouped

This program was built without KVM: it starts no VM, and has no guest in it.

",
    exit_codes!()
);

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
    /// Show all frames of stacks, and print progress on standard error (twice: in detail)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest, watch it, and report it if it hangs
    #[cfg(feature = "kvm")]
    Run(Box<Run>),
    /// Report a guest in a QEMU that somebody else started; it is stopped for some milliseconds
    Attach(Attach),
    /// Make a report from a core or from a dump that QEMU wrote, or print one that is JSON
    Report(Report),
    /// Print functions and lines behind a log's stack traces, or of addresses
    Symbolize(Symbolize),
    /// Run a suite of VMs, one process and one verdict each
    #[cfg(feature = "kvm")]
    Farm(Box<Farm>),
    /// Group the hangs and crashes of many reports, and say which are new
    Triage(Triage),
    /// Write the bundled guest kernel to a file, for gdb or another VMM
    #[cfg(feature = "kvm")]
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
    /// Hold a stopped VM for `attach`
    #[command(name = super::attach::GUARDIAN, hide = true)]
    HoldVm,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }
}

#[cfg(all(test, feature = "kvm"))]
mod tests_of_run {
    use std::time::Duration;

    use clap::ValueEnum;

    use super::*;
    use crate::hang::{Bounds, Class};

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
