//! The moment: everything that is taken from a guest for one backtrace, as plain data.
//!
//! Owns [`Capture`], the order in which it is taken, and its form in a core. Refuses to know what it
//! means (`diagnosis`), when it is taken and whether the guest runs on afterwards (`session`). Two steps,
//! because the hang detector decides in between: [`StoppedGuest::stop`] stops the guest, finds its kernel
//! and reads the kernel's state; [`StoppedGuest::capture`] takes the rest, in this order:
//!
//! 1. the reservation of the NMI buffers. A guest whose own client has them runs on for it, and the
//!    moment becomes a later one;
//! 2. host stacks of all vCPUs and sleeping tasks, to whose stacks NMI handlers write, and the log;
//! 3. memory for a core, if one is wanted: NMI handlers write to it;
//! 4. NMIs, and the buffers that their handlers answer into;
//! 5. samples: further stacks of blamed CPUs that run on. The guest runs in between.
//!
//! Everything but the samples is of one moment. A capture read from a core ([`note`]) is the same
//! struct; its stacks, its kernel's state and the log are made from the core's memory.
//!
//! | module | owns |
//! |---|---|
//! | `stopped` | a guest that stands still, its registers and its kernel's state |
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

use crate::hang::Detection;
use crate::kernel::{
    KernelState, KernelSymbols, LocateError, Log, LogError, NoBuffer, Reading, SeqBuf,
};
use crate::targets::{MissingPower, NoAnswer, NoSuchWord, Target};
use host_stack::UnwoundStack;
pub use stopped::{StoppedGuest, Timeouts};
use store::{CoreDestination, PendingCore};

/// One backtrace of all vCPUs, not yet understood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// The reason why it was taken.
    pub trigger: Trigger,
    /// The time at which it was asked for, since the tool's start.
    pub at: Duration,
    /// The vCPUs, by number.
    pub cpus: Vec<CpuCapture>,
    /// The kernel's state when the guest was stopped. In a core: as the run read it, for a reader that
    /// has no image to read it by.
    pub kernel: Reading,
    /// The stacks of tasks that did not run, by task number. Made from memory: not stored.
    #[serde(skip)]
    pub task_stacks: Vec<Option<UnwoundStack>>,
    /// The kernel's log; `None` for a kernel that has none in memory. Made from memory: not stored.
    #[serde(skip)]
    pub log: Option<Result<Log, LogError>>,
    /// The hold on the guest's NMI buffers.
    pub reservation: BufferReservation,
    /// The time from the first NMI to the last buffer read.
    pub elapsed: Duration,
    /// The hangs that it was taken for, and samples of those to blame; `None` if it was taken for
    /// something else.
    pub found: Option<Detection>,
}

impl Capture {
    /// Unwinds all stacks, by registers and memory of the moment.
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

/// The hold on a guest's NMI buffers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BufferReservation {
    /// They were taken.
    Held {
        /// How long it took to get them.
        waited: Duration,
    },
    /// A client inside the guest has them.
    Refused {
        /// The guest's CPU, if it is one.
        holder: Option<u32>,
        /// How long it has had them, by the guest's clock; `None` where that makes no sense.
        held: Option<Duration>,
        /// How long they were waited for.
        waited: Duration,
    },
    /// They were not taken.
    Unavailable {
        /// The reason.
        reason: NoReservation,
    },
}

/// The reason why NMI buffers were not reserved. Stored in cores as its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum NoReservation {
    /// Nobody asked for NMIs.
    #[error("no NMIs were asked for")]
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
    /// The word of the reservation is not in memory.
    #[error(transparent)]
    NoSuchWord(#[from] NoSuchWord),
    /// The reason that is stored in a core.
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

/// One vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuCapture {
    /// The state before the NMI, or why there is none.
    pub state: Result<VcpuState, NoAnswer>,
    /// The stack before the NMI; `None` for one that cannot be seen. Made from memory: not stored.
    #[serde(skip)]
    pub stack: Option<UnwoundStack>,
    /// The NMI.
    pub nmi: NmiCapture,
    /// The buffer after the NMI, or why it could not be read.
    pub buffer: Result<SeqBuf, NoBuffer>,
    /// Bytes that were in the buffer before the NMI and belonged to nobody.
    pub stale_bytes: u32,
    /// True where the guest's own counter says that the NMI was taken; `None` where there is no counter.
    pub counted: Option<bool>,
}

/// The outcome of an NMI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NmiCapture {
    /// The VMM's account of one that was sent, or could not be taken.
    Run(Box<NmiRun>),
    /// None was sent, for this reason.
    NotSent(NotSent),
}

impl NmiCapture {
    /// True unless the vCPU is inside its handler: there it stays where it was, below the handler.
    fn is_over(&self) -> bool {
        match self {
            Self::Run(run) => run.finished(),
            Self::NotSent(_) => true,
        }
    }
}

/// The reason why a vCPU was not sent an NMI. Stored in cores as its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum NotSent {
    /// Nobody asked for NMIs.
    #[error("no NMIs were asked for")]
    NotAsked,
    /// An NMI would end the guest.
    #[error("it has no NMI handler: it is still booting, has been reset, or never had one")]
    NoHandler,
    /// Nobody could read the answer.
    #[error("the kernel has no buffer to answer an NMI into")]
    NoBuffers,
    /// The target cannot send one.
    #[error(transparent)]
    MissingPower(#[from] MissingPower),
    /// The vCPU did not answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The target said nothing of this vCPU.
    #[error("the target did not say what became of it")]
    NoAccount,
    /// The reason that is stored in a core.
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

/// A capture to be taken: the reason for it, and the means.
pub struct CaptureRequest<'a> {
    /// The reason why it is taken.
    pub trigger: Trigger,
    /// The time at which it was asked for, since the tool's start.
    pub at: Duration,
    /// The hangs that it is taken for.
    pub found: Option<Detection>,
    /// True to send NMIs to the vCPUs.
    pub nmis: bool,
    /// The symbols to unwind by, with variables if those are wanted.
    pub symbols: Option<&'a dyn KernelSymbols>,
    /// The core that the memory goes into.
    pub core: Option<&'a CoreDestination>,
    /// The samples that are taken, if any.
    pub sampling: Option<Sampling<'a>>,
}

/// How samples are taken.
pub struct Sampling<'a> {
    /// The time that they may take; by the clock.
    pub time_limit: Duration,
    /// The judge of whether the hangs go on meanwhile.
    pub recheck: RecheckHangs<'a>,
}

/// Stops a guest that has run on while it was sampled, and returns the hangs that went on, as CPUs that
/// were to be sampled.
pub type RecheckHangs<'a> = &'a mut dyn FnMut(&mut dyn Target) -> BTreeSet<u32>;

impl StoppedGuest {
    /// Takes everything else of the moment. The guest stands still afterwards. Whatever goes wrong is
    /// in the capture, or in place of the core.
    pub fn capture(
        mut self,
        target: &mut dyn Target,
        request: CaptureRequest<'_>,
    ) -> (Capture, Option<anyhow::Result<PendingCore>>) {
        let CaptureRequest { trigger, at, found, nmis, symbols, core, sampling } = request;
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
        let mut capture =
            Capture { trigger, at, cpus, kernel, task_stacks, log, reservation, elapsed, found };
        if let Some(sampling) = sampling {
            capture.sample(target, symbols, sampling);
        }
        (capture, pending)
    }
}

/// The CPUs of `hangs` whose stacks are worth more than one look.
pub fn cpus_to_sample(
    hangs: &[crate::hang::DetectedHang],
    kernel: Option<&KernelState>,
) -> BTreeSet<u32> {
    hangs.iter().flat_map(|hang| hang.cpus_to_sample(kernel)).collect()
}
