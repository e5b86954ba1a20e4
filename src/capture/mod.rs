//! The moment: everything that is taken from a guest for one backtrace, as plain data.
//!
//! [`nmi`] takes it, with the guest's own protocol; `diagnosis` makes sense of it, anywhere and at
//! any time. Nothing here is interpreted beyond what taking it needs. It can be stored: these structs
//! are part of a core's note (docs/core-format.md).

pub mod nmi;

use std::time::Duration;

use nmiscope_machine::{NmiRun, VcpuState};
use serde::{Deserialize, Serialize};

use crate::kernel::{Reading, SeqBuf};

/// One backtrace of all vCPUs, not yet understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// Whether the buffers were reserved.
    pub reservation: Reservation,
    /// From the first NMI to the last buffer read.
    pub elapsed: Duration,
    /// By vCPU number.
    pub cpus: Vec<CpuCapture>,
    /// What the kernel said of what it was doing, when it was stopped.
    pub kernel: Reading,
}

/// What came of taking the reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reservation {
    /// Taken.
    Held {
        /// How long it took to get.
        waited: Duration,
    },
    /// A client inside the guest has it.
    Refused {
        /// The guest's CPU, if it is one.
        holder: Option<u32>,
        /// How long it has, by the guest's clock; `None` where that makes no sense.
        held: Option<Duration>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The guest has none that can be found.
    Unavailable {
        /// Because.
        reason: String,
    },
}

/// One vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuCapture {
    /// Its state before the NMI, or why there is none.
    pub state: Result<VcpuState, String>,
    /// Its NMI.
    pub nmi: NmiCapture,
    /// Its buffer after the NMI, or why it could not be read.
    pub buffer: Result<SeqBuf, String>,
    /// Bytes that were in the buffer before the NMI and belonged to nobody.
    pub stale_bytes: u32,
    /// Whether the guest's own counter says that the NMI was taken; `None` where there is none.
    pub counted: Option<bool>,
}

/// What became of an NMI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NmiCapture {
    /// The VMM's account.
    Run(Box<NmiRun>),
    /// The vCPU could not take one, or could not be asked.
    NotSent(String),
}
