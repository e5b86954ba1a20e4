//! The kernel parameters: their names, values and defaults. Parsed once, at boot, from the command line
//! that the loader passes; unknown parameters get a warning.

use core::sync::atomic::Ordering::Relaxed;

use nmiscope_guest::abi;

use crate::machine;
use crate::printk::PRINTK;
use crate::workload::{self, Workload};
use crate::{pr_err, pr_warn};

/// Default console loglevel: warnings and worse. Console output is slow, and the log has the rest.
const DEFAULT_LOGLEVEL: u32 = 5;

/// Values of the kernel parameters; defaults for those not given.
pub struct KernelParameters {
    /// `workload=NAME`: the workload to run.
    pub workload: &'static Workload,
    /// `nr_cpus=N`: the most CPUs to start, the boot CPU included.
    pub nr_cpus: usize,
    /// `nox2apic` makes it false: use the local APIC in xAPIC mode, through memory.
    pub allow_x2apic: bool,
    /// `nmi_backtrace=direct`: print from NMI without diverting printk. It can deadlock, and exists to
    /// show that.
    direct: bool,
    /// `exit_code=N`: exit code of the workload `exit`.
    exit_code: u8,
    /// `section_ms=N`: length in milliseconds of the long sections of some healthy workloads. The default
    /// is a little less than a second, which is not yet a hang.
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
        // The loglevel first, so that it holds for messages about the other parameters.
        let others = words().filter(|word| !sets_level(word));
        for word in words().filter(sets_level).chain(others) {
            if parameters.set(word).is_none() {
                pr_warn!("unknown kernel parameter or bad value: {word}");
            }
        }
        parameters
    }

    /// Sets a parameter from its word; returns `None` for an unknown parameter or a bad value.
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

    /// Stores each parameter with the code that uses it.
    pub fn apply(&self) {
        machine::NMI_BACKTRACE_DIRECT.store(self.direct, Relaxed);
        workload::exit::CODE.store(self.exit_code, Relaxed);
        workload::SECTION_NS.store(u64::from(self.section_ms) * 1_000_000, Relaxed);
    }
}
