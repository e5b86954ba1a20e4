//! Capture: everything that is taken from a guest for one backtrace, as plain data.
//!
//! Owns [`Capture`], the order in which it is taken, and its form in a core. Refuses to own its meaning
//! (`diagnosis`), and the choice of when it is taken and if the guest continues (`session`). Two steps,
//! because the hang detector decides in between: [`StoppedGuest::stop`] stops the guest, finds its kernel
//! and reads the kernel's state; [`StoppedGuest::capture`] takes the rest, in this order:
//!
//! 1. the reservation of the NMI buffers. If a client inside the guest holds them, the guest is resumed
//!    until it releases them, and the moment becomes a later one;
//! 2. host stacks of all vCPUs and sleeping tasks, to whose stacks NMI handlers write, and the log;
//! 3. memory for a core, if one was requested: NMI handlers write to it;
//! 4. NMIs, and the buffers that their handlers answer into;
//! 5. samples: further stacks of blamed CPUs that keep executing. The guest runs in between.
//!
//! Everything but the samples is of one moment. A capture read from a core ([`note`]) is the same struct;
//! its stacks, its kernel's state and the log are made again from the core's memory.
//!
//! | module | owns |
//! |---|---|
//! | `stopped` | a stopped guest: its registers and its kernel's state |
//! | `nmi` | the guest's NMI backtrace protocol, from outside |
//! | `host_stack` | unwinding from outside |
//! | `samples` | stacks at further moments |
//! | `store` | which memory goes into a core, and the core until its note is known |
//! | `note` | the core's note: a capture as JSON |

pub mod host_stack;
mod nmi;
pub mod note;
mod samples;
mod stopped;
pub mod store;

use std::collections::BTreeSet;
use std::time::Duration;

use nmiscope_machine::{NmiRun, VcpuState};
use nmiscope_report::Trigger;
use serde::{Deserialize, Serialize};

use crate::hang::{Detection, PastMinute};
use crate::kernel::{
    KernelState, KernelSymbols, LocateError, Log, LogError, NoBuffer, Reading, SeqBuf,
};
use crate::targets::{MissingPower, NoAnswer, NoSuchWord, Target};
use host_stack::UnwoundStack;
pub use stopped::{StoppedGuest, Timeouts};
use store::{CoreDestination, PendingCore};

/// Raw data of one backtrace of all vCPUs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// The reason why it was taken.
    pub trigger: Trigger,
    /// The time of the request, since the tool's start.
    pub at: Duration,
    /// The captured vCPUs, by number.
    pub cpus: Vec<CpuCapture>,
    /// The kernel's state when the guest was stopped. In a core: as it was read during the run, for a
    /// reader that has no image.
    pub kernel: Reading,
    /// The stacks of tasks that did not run, by task number. Not stored, but made from memory.
    #[serde(skip)]
    pub task_stacks: Vec<Option<UnwoundStack>>,
    /// The kernel's log; `None` for a kernel that has none in memory. Not stored, but made from memory.
    #[serde(skip)]
    pub log: Option<Result<Log, LogError>>,
    /// The reservation of the guest's NMI buffers.
    pub reservation: BufferReservation,
    /// The time from the first NMI to the last buffer read.
    pub elapsed: Duration,
    /// The hangs that it was taken for, with samples; `None` if it was taken for another reason.
    pub found: Option<Detection>,
    /// The minute before it; `None` for a guest that was not watched. Cores of earlier releases have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<PastMinute>,
}

impl Capture {
    /// Unwinds all stacks from the captured registers and the moment's memory.
    pub fn unwind(
        &mut self,
        symbols: Option<&dyn KernelSymbols>,
        memory: &dyn nmiscope_machine::PhysicalMemory,
    ) {
        let states: Vec<_> = self.cpus.iter().map(|cpu| cpu.state.clone()).collect();
        let stacks = host_stack::unwind_all(self.kernel.known(), &states, symbols, memory);
        for (cpu, stack) in self.cpus.iter_mut().zip(stacks.vcpus) {
            cpu.stack = stack;
        }
        self.task_stacks = stacks.tasks;
    }
}

/// Reservation of a guest's NMI buffers by the hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BufferReservation {
    /// The buffers were reserved for the hypervisor.
    Held {
        /// The time until they were reserved.
        waited: Duration,
    },
    /// A client inside the guest holds the buffers.
    Refused {
        /// The guest CPU that holds them; `None` if the value is no CPU's.
        holder: Option<u32>,
        /// The time for which it has held them, by the guest's clock; `None` if the recorded time is
        /// garbage.
        held: Option<Duration>,
        /// The time spent waiting for them.
        waited: Duration,
    },
    /// The buffers were not reserved.
    Unavailable {
        /// The reason why they were not.
        reason: NoReservation,
    },
}

/// Reason why NMI buffers were not reserved. Cores store its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum NoReservation {
    /// The capture was requested without NMIs.
    #[error("no NMIs were requested")]
    NotAsked,
    /// The kernel has no buffers.
    #[error("the kernel has no NMI buffers")]
    NoBuffers,
    /// The kernel's structures were not found.
    #[error(transparent)]
    NotFound(#[from] LocateError),
    /// The target's memory cannot be written.
    #[error(transparent)]
    MissingPower(#[from] MissingPower),
    /// The reservation's word is not in memory.
    #[error(transparent)]
    NoSuchWord(#[from] NoSuchWord),
    /// Reason read from a core, as text.
    #[error("{0}")]
    Stored(String),
}

impl From<NoReservation> for String {
    fn from(reason: NoReservation) -> Self {
        crate::error_chain(&reason)
    }
}

impl From<String> for NoReservation {
    fn from(text: String) -> Self {
        if text == Self::NotAsked.to_string() { Self::NotAsked } else { Self::Stored(text) }
    }
}

/// Capture of one vCPU, before and after its NMI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuCapture {
    /// The state before the NMI, or the reason why there is none.
    pub state: Result<VcpuState, NoAnswer>,
    /// The stack before the NMI; `None` for a vCPU without a position. Not stored, but made from memory.
    #[serde(skip)]
    pub stack: Option<UnwoundStack>,
    /// The outcome of the NMI.
    pub nmi: NmiCapture,
    /// The buffer after the NMI, or the reason why it could not be read.
    pub buffer: Result<SeqBuf, NoBuffer>,
    /// The number of bytes left in an unused buffer before the NMI.
    pub stale_bytes: u32,
    /// True if the guest's own counter shows that the NMI was taken; `None` without a counter.
    pub counted: Option<bool>,
}

/// Outcome of an NMI to one vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NmiCapture {
    /// Account by the VMM of an NMI that was sent, or could not be taken.
    Run(Box<NmiRun>),
    /// No NMI was sent, for this reason.
    NotSent(NotSent),
}

impl NmiCapture {
    /// Returns true unless the vCPU is still inside the handler, below which its stack does not change.
    fn is_over(&self) -> bool {
        match self {
            Self::Run(run) => run.finished(),
            Self::NotSent(_) => true,
        }
    }
}

/// Reason why a vCPU was not sent an NMI. Cores store its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum NotSent {
    /// The capture was requested without NMIs.
    #[error("no NMIs were requested")]
    NotAsked,
    /// The guest has no NMI handler: an NMI would end it.
    #[error("it has no NMI handler: it is still booting, has been reset, or never had one")]
    NoHandler,
    /// The kernel has no buffers: an answer could not be read.
    #[error("the kernel has no buffer to answer an NMI into")]
    NoBuffers,
    /// The kernel's structures were not found: an answer could not be read.
    #[error("there is no buffer to read an answer from: {0}")]
    NotFound(LocateError),
    /// The target cannot send NMIs.
    #[error(transparent)]
    MissingPower(#[from] MissingPower),
    /// The vCPU did not answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The target gave no account of this vCPU.
    #[error("the target did not say what became of it")]
    NoAccount,
    /// Reason read from a core, as text.
    #[error("{0}")]
    Stored(String),
}

impl From<NotSent> for String {
    fn from(reason: NotSent) -> Self {
        reason.to_string()
    }
}

impl From<String> for NotSent {
    fn from(text: String) -> Self {
        if text == Self::NotAsked.to_string() { Self::NotAsked } else { Self::Stored(text) }
    }
}

/// Request for a capture: the reason for it, and the means.
pub struct CaptureRequest<'a> {
    /// The reason why it is taken.
    pub trigger: Trigger,
    /// The time of the request, since the tool's start.
    pub at: Duration,
    /// The hangs that it is taken for; `None` if it is taken for another reason.
    pub found: Option<Detection>,
    /// The minute before it; `None` for a guest that was not watched.
    pub history: Option<PastMinute>,
    /// True to send NMIs to the vCPUs.
    pub nmis: bool,
    /// The symbols to unwind by, with variables if requested.
    pub symbols: Option<&'a dyn KernelSymbols>,
    /// The core that the memory is written to; `None` for no core.
    pub core: Option<&'a CoreDestination>,
    /// The way samples are taken; `None` to take none.
    pub sampling: Option<Sampling<'a>>,
}

/// Limit of sampling, and the check of its result.
pub struct Sampling<'a> {
    /// The wall-clock time after which sampling stops.
    pub time_limit: Duration,
    /// The check that the hangs lasted while they were sampled.
    pub recheck: RecheckHangs<'a>,
}

/// Callback that stops a guest after sampling, and returns the CPUs to be sampled whose hang has lasted.
pub type RecheckHangs<'a> = &'a mut dyn FnMut(&mut dyn Target) -> BTreeSet<u32>;

impl StoppedGuest {
    /// Takes the rest of the capture; the guest is stopped afterwards. A failure is recorded in the
    /// capture, or in place of the core.
    pub fn capture(
        mut self,
        target: &mut dyn Target,
        request: CaptureRequest<'_>,
    ) -> (Capture, Option<anyhow::Result<PendingCore>>) {
        let CaptureRequest { trigger, at, found, history, nmis, symbols, core, sampling } = request;
        let reservation = match nmis {
            true => nmi::reserve(&mut self, target),
            false => BufferReservation::Unavailable { reason: NoReservation::NotAsked },
        };
        let stacks = self.unwind(target, symbols);
        let log = self.read_log(target);
        let pending = core.map(|core| {
            let stacks = stacks.vcpus.iter().chain(&stacks.tasks).flatten();
            core.begin(&self, stacks, target, symbols)
        });
        let held = matches!(reservation, BufferReservation::Held { .. });
        let (mut cpus, elapsed) = nmi::send_and_collect(&self, target, nmis, held);
        for (cpu, stack) in cpus.iter_mut().zip(stacks.vcpus) {
            cpu.stack = stack;
        }
        let (kernel, task_stacks) = (self.kernel, stacks.tasks);
        let mut capture = Capture {
            trigger,
            at,
            cpus,
            kernel,
            task_stacks,
            log,
            reservation,
            elapsed,
            found,
            history,
        };
        if let Some(sampling) = sampling {
            capture.sample(target, symbols, sampling);
        }
        (capture, pending)
    }
}

/// Returns the CPUs of `hangs` that are to be sampled.
pub fn cpus_to_sample(
    hangs: &[crate::hang::DetectedHang],
    kernel: Option<&KernelState>,
) -> BTreeSet<u32> {
    hangs.iter().flat_map(|hang| hang.cpus_to_sample(kernel)).collect()
}
