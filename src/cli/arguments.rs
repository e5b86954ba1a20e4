//! The command line as a whole: the commands, and the options that all of them share. The options of
//! a command stand beside its action, in the command's file.
//!
//! Owns the order of commands and the text of the main help; refuses to own the actions of commands.
//! Called by the parent module.

#[cfg(feature = "kvm")]
use std::path::PathBuf;

#[cfg(feature = "kvm")]
use clap::ValueHint;
use clap::{Parser, Subcommand};

use super::attach::AttachArgs;
#[cfg(feature = "kvm")]
use super::farm::Farm;
#[cfg(feature = "kvm")]
use super::list::ListArgs;
use super::output::Color;
use super::report::ReportArgs;
#[cfg(feature = "kvm")]
use super::run::RunArgs;
use super::symbolize::SymbolizeArgs;
use super::triage::Triage;

macro_rules! exit_codes {
    () => {
        "\
Exit codes:
  0  clean: the guest exited with code 0, or the run was stopped as requested
  1  the guest exited with another code or not in time; symbolize: nothing found
  2  usage: the command line, or a file it names, cannot be used
  3  hang, certain or likely
  4  panic or crash in the guest
  5  the tool or its host failed, or the host did not run the guest (starved)"
    };
}

#[cfg(feature = "kvm")]
const EXAMPLES: &str = concat!(
    "\
Examples:
  nmiscope run
        boot the bundled guest with its demo deadlock, report the hang, and
        write postmortem.json
  nmiscope run --workload spin-irqs-off --cpus 8 --json report.json
        another hang, on more vCPUs
  nmiscope run kernel.elf --append quiet --nmi-after 5s --stop-after 6s
        print what this kernel is doing after 5 seconds
  nmiscope run --workload nmi-stuck --core hang.core
  nmiscope report hang.core
        store the hang in a core, and report it again elsewhere, without KVM
  nmiscope run --workload spin-irqs-off --locals
        show stacks with arguments and locals, where the compiler kept them
  nmiscope run kernel.elf --hang-after 10s --hang-after soft-lockup=30s
        wait longer before a hang is reported
  nmiscope run kernel.elf --hang-policy report,continue
        report a hang, and see whether the guest recovers
  nmiscope attach --qmp vm.sock
        report a guest in a QEMU that is already running
  nmiscope report guest.dump --image kernel.elf
        report a guest from a dump that QEMU or libvirt wrote
  nmiscope farm suite.toml -j 4 --out results
        run many VMs, with one verdict each
  nmiscope symbolize --image vmlinux --modules /lib/modules/6.1.0 < log
        copy a console log, with functions and lines behind its stack traces
  nmiscope symbolize --image vmlinux 'vfs_write+0x14/0x90' ffffffff81234567
        look up single addresses of a stack trace

While a VM runs, Ctrl-\\ or SIGUSR1 prints its backtraces and lets it run on.
Ctrl-C ends the run; SIGTERM takes a last backtrace and then ends it. On a
terminal a status line shows the vCPUs that make progress, and what is suspected.

",
    exit_codes!()
);

#[cfg(not(feature = "kvm"))]
const EXAMPLES: &str = concat!(
    "\
Examples:
  nmiscope attach --qmp vm.sock --image kernel.elf
        report a guest in a QEMU that is already running
  nmiscope report hang.core --image kernel.elf
        report the guest in a stored core again
  nmiscope symbolize --image vmlinux --modules /lib/modules/6.1.0 < log
        copy a console log, with functions and lines behind its stack traces
  nmiscope symbolize --image vmlinux 'vfs_write+0x14/0x90' ffffffff81234567
        look up single addresses of a stack trace
  nmiscope triage results
        group the hangs and crashes of a farm's VMs

This program was built without KVM: it starts no VM and contains no guest.

",
    exit_codes!()
);

/// Heading of the options that all commands share.
const GLOBAL: &str = "Global options";
/// Position of these options in the help, behind a command's own.
const LAST: usize = 1000;

/// Reports why a VM hung: the vCPU that is stuck and its source lines, from outside the guest.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 80)]
pub struct Arguments {
    /// Subcommand that was given, with its own arguments.
    #[command(subcommand)]
    pub command: Command,
    /// Use colors always, never, or on a terminal without NO_COLOR in the environment (auto)
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, help_heading = GLOBAL,
          display_order = LAST)]
    pub color: Color,
    /// Show all frames of stacks, and trace on standard error the steps that are taken and what the hang
    /// detector sees (-vv: in detail)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL,
          display_order = LAST)]
    pub verbose: u8,
}

/// The program's subcommands, with their arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest, watch it, and report it when it hangs
    #[cfg(feature = "kvm")]
    Run(Box<RunArgs>),
    /// Report a guest in a running QEMU; stops it for milliseconds
    Attach(AttachArgs),
    /// Report a core or a dump that QEMU wrote, or print a JSON report
    Report(ReportArgs),
    /// Print functions and lines for a log's stack traces or addresses
    Symbolize(SymbolizeArgs),
    /// Run a suite of VMs, with one process and one verdict for each
    #[cfg(feature = "kvm")]
    Farm(Box<Farm>),
    /// Group the hangs and crashes of many reports, and mark new ones
    Triage(Triage),
    /// List the workloads of the bundled guest, or the classes of hangs
    #[cfg(feature = "kvm")]
    List(ListArgs),
    /// Write the bundled guest kernel to a file, for gdb or another VMM
    #[cfg(feature = "kvm")]
    Guest {
        /// File to write the guest's ELF image to
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Print a completion script for a shell
    Completions {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
    /// Print the manual page in roff
    Man,
    /// Guard a VM that `attach` has stopped, so that it always resumes
    #[command(name = super::attach::GUARDIAN, hide = true)]
    HoldVm,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn claps_own_checks_of_the_command_line_pass() {
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
    fn hang_after_sets_the_bound_of_all_classes_or_of_one() {
        let bounds = |arguments: &[&str]| {
            let all = ["nmiscope", "run"].iter().chain(arguments);
            match Arguments::try_parse_from(all).unwrap().command {
                Command::Run(run) => run.bounds(),
                _ => unreachable!("`run` was given"),
            }
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for class in Class::value_variants() {
            assert_eq!(bounds(&[]).get(*class), Bounds::default().get(*class));
        }
        let given = bounds(&["--hang-after", "9s", "--hang-after", "livelock=1m"]);
        assert_eq!(given.get(Class::HardLockup), seconds(9));
        assert_eq!(given.get(Class::Livelock), seconds(60));
        assert_eq!(given.get(Class::BootStall), seconds(30));
        // The bound of one class leaves the others at their defaults.
        let given = bounds(&["--hang-after", "soft-lockup=0", "--ready-within", "5s"]);
        assert_eq!(given.get(Class::SoftLockup), None);
        assert_eq!(given.get(Class::Deadlock), seconds(2));
        assert_eq!(given.get(Class::BootStall), seconds(5));
        assert!(!bounds(&["--hang-after", "0"]).any());
        assert!(bounds(&["--hang-after", "0", "--hang-after", "sleepers=9s"]).any());
    }

    #[test]
    fn sleepers_have_a_bound_of_their_own_unless_their_class_is_named() {
        let sleepers = |arguments: &[&str]| {
            let all = ["nmiscope", "run"].iter().chain(arguments);
            let Command::Run(run) = Arguments::try_parse_from(all).unwrap().command else {
                unreachable!("`run` was given")
            };
            [Class::LockWait, Class::LostWakeup].map(|class| run.bounds().get_for(class, true))
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let rows: [(&[&str], _); 8] = [
            (&[], [seconds(120); 2]),
            (&["--hang-after", "soft-lockup=9s"], [seconds(120); 2]),
            (&["--hang-after", "1s"], [seconds(60); 2]),
            (&["--hang-after", "5s"], [seconds(120); 2]),
            (&["--hang-after", "200s"], [seconds(200); 2]),
            (&["--hang-after", "0"], [None; 2]),
            (&["--hang-after", "sleepers=7s", "--hang-after", "1s"], [seconds(7); 2]),
            (&["--hang-after", "lost-wakeup=3s", "--hang-after", "sleepers=0"], [None, seconds(3)]),
        ];
        for (arguments, bounds) in rows {
            assert_eq!(sleepers(arguments), bounds, "{arguments:?}");
        }
    }

    #[test]
    fn only_the_bundled_guest_gets_the_demo_workload() {
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
