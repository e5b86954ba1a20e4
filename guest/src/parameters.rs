//! The kernel parameters: what they are, what they mean, and what becomes of those that mean
//! nothing. Read once, at boot, from the string that the loader passes.

use core::sync::atomic::Ordering::Relaxed;

use nmiscope_guest::abi;

use crate::machine;
use crate::printk::PRINTK;
use crate::workload::{self, Workload};
use crate::{pr_err, pr_warn};

/// Warnings and worse reach the console: output is slow, and the log has the rest.
const DEFAULT_LOGLEVEL: u32 = 5;

/// The parameters, with their defaults where they are not given.
pub struct KernelParameters {
    /// `workload=NAME`: what to run.
    pub workload: &'static Workload,
    /// `nr_cpus=N`: start no more CPUs than that.
    pub nr_cpus: usize,
    /// `nox2apic`: talk to the local APIC through memory.
    pub allow_x2apic: bool,
    /// `nmi_backtrace=direct`: print from NMI without diverting. Deadlocks; exists to show it.
    direct: bool,
    /// `exit_code=N`: what the workload `exit` leaves with.
    exit_code: u8,
    /// `section_ms=N`: how long the healthy workloads hold still that are just in time. By default a
    /// little less than a second.
    section_ms: u32,
}

impl KernelParameters {
    /// Reads `NAME=VALUE` words. An unknown one is a warning in the log; an unknown workload ends
    /// the VM, since anything else would be mistaken for a result.
    pub fn parse(command_line: &'static str) -> Self {
        let mut parameters = Self {
            workload: workload::DEFAULT,
            nr_cpus: usize::MAX,
            allow_x2apic: true,
            direct: false,
            exit_code: 0,
            section_ms: 850,
        };
        PRINTK.set_console_loglevel(DEFAULT_LOGLEVEL);
        let words = || command_line.split_ascii_whitespace();
        let sets_level = |word: &&str| word.starts_with("loglevel=");
        // The level first, so that what the others have to say is said at the one asked for.
        let others = words().filter(|word| !sets_level(word));
        for word in words().filter(sets_level).chain(others) {
            if parameters.set(word).is_none() {
                pr_warn!("unknown kernel parameter or bad value: {word}");
            }
        }
        parameters
    }

    /// `None` for a word that is not a parameter, or has a value that it cannot have.
    fn set(&mut self, word: &'static str) -> Option<()> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "workload" => match workload::find(value) {
                Some(workload) => self.workload = workload,
                None => {
                    pr_err!("unknown workload: {value}");
                    machine::debug_exit(abi::EXIT_BAD_PARAMETER);
                }
            },
            "nr_cpus" => self.nr_cpus = value.parse().ok().filter(|&count| count > 0)?,
            // `loglevel=N`: messages below N reach the console.
            "loglevel" => PRINTK.set_console_loglevel(value.parse().ok()?),
            "exit_code" => self.exit_code = value.parse().ok()?,
            "section_ms" => self.section_ms = value.parse().ok().filter(|&length| length > 0)?,
            "nox2apic" => self.allow_x2apic = false,
            "nmi_backtrace" => {
                self.direct = match value {
                    "direct" => true,
                    "divert" => false,
                    _ => return None,
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Hands each parameter to the one it concerns.
    pub fn apply(&self) {
        machine::NMI_BACKTRACE_DIRECT.store(self.direct, Relaxed);
        workload::exit::CODE.store(self.exit_code, Relaxed);
        workload::SECTION_NS.store(u64::from(self.section_ms) * 1_000_000, Relaxed);
    }
}
