//! What a session is asked for, what it tells meanwhile, and what it leaves.

use std::path::PathBuf;
use std::time::Duration;

use nmiscope_report::{Backtrace, Hang, Machine, Outcome, Report};
use nmiscope_vmm as vmm;

use super::console::Sink;
use crate::capture::store::Destination;
use crate::hang;

/// What to run, and what to do about it.
#[derive(Debug)]
pub struct Options {
    /// The image; `None` for the bundled guest.
    pub image: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel parameters.
    pub command_line: String,
    /// vCPUs.
    pub vcpus: u32,
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// How long what may last before it is a hang.
    pub bounds: hang::Bounds,
    /// What to do about a hang.
    pub policy: Policy,
    /// Take a backtrace this long after the start.
    pub nmi_after: Option<Duration>,
    /// End the run this long after the start.
    pub stop_after: Option<Duration>,
    /// The guest should have ended by itself this long after the start.
    pub time_limit: Option<Duration>,
    /// How long the NMI handlers have, all together; `None` for what suits that many vCPUs.
    pub nmi_timeout: Option<Duration>,
    /// Where the guest's console goes.
    pub serial: Sink,
    /// Whether keys on a terminal go to the guest's console.
    pub terminal_input: bool,
    /// Whether a second signal that asks to end does so at once.
    pub second_signal_ends: bool,
    /// Where separate debug files are.
    pub debug_directory: PathBuf,
    /// Whether to read the arguments and locals of the frames that the host sees.
    pub variables: bool,
    /// Where a core goes: of how the guest ended, of its last hang, or of the last backtrace.
    pub core: Option<Destination>,
}

/// What to do about a hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Take a backtrace. Without it there are no NMIs.
    pub report: bool,
    /// End the run; otherwise the guest goes on, and it is said if the hang is over.
    pub kill: bool,
}

/// What a run leaves.
#[derive(Debug)]
pub struct Ended {
    /// What is to be said of it.
    pub report: Report,
    /// The core, or why there is none; `None` if none was asked for, or nothing worth one happened.
    pub core: Option<anyhow::Result<PathBuf>>,
}

/// What happens during a run, as it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// The guest says that its CPUs are up.
    Ready {
        /// The machine it runs on.
        machine: &'a Machine,
        /// How long it took, from the tool's start.
        after: Duration,
    },
    /// There is something to look out for.
    Warning(&'a str),
    /// The guest hangs.
    Hangs(&'a [Hang]),
    /// A hang that was told of is over.
    Resolved(&'a Hang),
    /// Something is wrong, or the guest is over.
    Outcome(&'a Outcome),
    /// A backtrace has been taken.
    Backtrace {
        /// The backtrace.
        backtrace: &'a Backtrace,
        /// The hangs that were found at that moment.
        hangs: &'a [Hang],
    },
    /// The vCPUs are about to be ended.
    Stopping {
        /// How often they came out of the guest.
        exits: vmm::ExitCounts,
    },
}
