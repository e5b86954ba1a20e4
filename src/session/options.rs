//! The interface of a live session: its options, its events, and its results.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nmiscope_report::{Backtrace, Hang, Machine, Outcome, Report};
use nmiscope_vmm as vmm;

use super::console::{Sink, TextStream};
use super::wake::SignalWatch;
use crate::capture::store::{CoreDestination, UnfinishedCore};
use crate::hang;
use crate::images::DebugSearch;
use crate::signals::Unwritten;

/// Options of a live session: the guest, its limits, and the response to a hang.
#[derive(Debug)]
pub struct RunOptions {
    /// Path of the guest's image; `None` for the bundled guest.
    pub image: Option<PathBuf>,
    /// Path of the initial RAM disk; `None` for a guest without one.
    pub initrd: Option<PathBuf>,
    /// Kernel parameters of the guest, as one string.
    pub command_line: String,
    /// Number of the guest's vCPUs.
    pub vcpus: u32,
    /// Size of the guest's memory in bytes.
    pub memory_bytes: u64,
    /// Bounds after which each class of hangs is reported.
    pub bounds: hang::Bounds,
    /// General bound that the user gave, which some classes do not have; `None` for the default.
    pub general_bound: Option<GeneralBound>,
    /// Stream of the texts of events; `None` for a quiet run, which has warnings alone and no status line.
    pub text: Option<TextStream>,
    /// Response to a hang of the guest.
    pub policy: Policy,
    /// Time of a backtrace on request, since the start; `None` for no such backtrace.
    pub nmi_after: Option<Duration>,
    /// Time of the run's end, since the start; `None` for a run without one.
    pub stop_after: Option<Duration>,
    /// Time limit for the guest to exit by itself, since the start; `None` for no limit.
    pub time_limit: Option<Duration>,
    /// Time that the NMI handlers have together; `None` for a default by the number of vCPUs.
    pub nmi_timeout: Option<Duration>,
    /// Destination of the guest's console output.
    pub serial: Sink,
    /// True to send keys on a terminal to the guest's console.
    pub terminal_input: bool,
    /// Outputs that a second terminating signal loses, as it ends the process at once; `None` if further
    /// signals change nothing.
    pub lost_by_second_signal: Option<Unwritten>,
    /// Places where separate debug files are looked for.
    pub debug: DebugSearch,
    /// True to read the arguments and locals of the frames that the host finds.
    pub variables: bool,
    /// Destination of the core: of the guest's end, of its last hang, or of its last backtrace, the first
    /// of these that there is; `None` for no core.
    pub core: Option<CoreDestination>,
}

/// General bound of hangs that the user gave, and the classes that have another one unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneralBound {
    /// Bound of all classes that have none of their own.
    pub bound: Duration,
    /// True if the bound of an unknown kernel's silence is the default one.
    pub silent_is_implied: bool,
    /// True if the bound of hangs whose waiters are all asleep follows from the general one.
    pub sleepers_are_implied: bool,
    /// True if the time to become ready is the default one.
    pub ready_is_implied: bool,
}

/// Response of a session to a hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// True to take a backtrace. Without it no NMI is sent.
    pub report: bool,
    /// True to end the run. Otherwise the guest runs on, and an event reports when the hang is resolved.
    pub kill: bool,
}

/// Results that a run leaves.
#[derive(Debug)]
pub struct Ended {
    /// The finished report of the run.
    pub report: Report,
    /// Core that lacks the report, to be finished once the report is written; `None` if no core was
    /// requested, or no backtrace was taken.
    pub core: Option<UnfinishedCore>,
    /// Error of the console's sink, other than a closed pipe; `None` if it took all output.
    pub console_failure: Option<io::Error>,
    /// Guard of the signals: they are handled until it is dropped.
    pub signals: SignalWatch,
}

/// Event of a running session, passed to the caller as it happens.
#[derive(Debug)]
pub enum RunEvent<'a> {
    /// The guest has reported that its CPUs are up.
    Ready {
        /// Machine that the guest runs on.
        machine: &'a Machine,
        /// Time since the program's start.
        after: Duration,
    },
    /// A warning was added to the report.
    Warning(&'a str),
    /// A remark on the run that the report does not have.
    Note(&'a str),
    /// Hangs were found in the guest.
    Hangs(&'a [Hang]),
    /// A hang that an earlier event reported has resolved.
    Resolved(&'a Hang),
    /// The run ends with this outcome: a panic, a crash, starvation or the time limit.
    Outcome(&'a Outcome),
    /// A backtrace has been taken.
    Backtrace {
        /// The backtrace.
        backtrace: &'a Backtrace,
        /// The hangs that were found at that moment.
        hangs: &'a [Hang],
    },
    /// The session is about to end the vCPU threads.
    Stopping {
        /// Number of VM exits, by their reason.
        exits: vmm::ExitCounts,
    },
}

impl RunEvent<'_> {
    /// Returns the stream that the event's text goes to, where that of most is `text`; `None` for no text.
    pub fn stream(&self, text: Option<TextStream>) -> Option<TextStream> {
        match self {
            Self::Warning(_) => Some(TextStream::Stderr),
            // Remarks are for people, and a quiet run has none.
            Self::Note(_) => text.map(|_| TextStream::Stderr),
            Self::Stopping { .. } => None,
            _ => text,
        }
    }
}
