//! Where a vCPU stands with NMIs, and what became of one that was sent to it.
//!
//! Owns the answers' types; refuses to own how an NMI is sent. Stored in cores.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

/// Where a vCPU stands with NMIs and interrupts. False is also what a target has that cannot tell: of
/// QEMU's monitor only the interrupt shadow is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NmiState {
    /// An NMI has been sent and not yet been delivered.
    pub pending: bool,
    /// An NMI is being delivered.
    pub injected: bool,
    /// The vCPU is inside an NMI handler: it takes no other until its IRET.
    pub masked: bool,
    /// The vCPU is in the shadow of an STI or MOV SS, and takes nothing for one instruction.
    pub interrupt_shadow: bool,
}

/// The outcome of an NMI that a vCPU was to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NmiResult {
    /// The handler ran and said so. The vCPU stands behind the instruction that said it, inside the
    /// handler.
    Finished,
    /// The bound passed first. `after.nmi` says whether the NMI was even delivered.
    Unfinished,
    /// Not sent: the vCPU waits for INIT or a start-up IPI.
    NotStarted,
    /// The vCPU had ended before, other than by asking for the end through a port, or ended while
    /// its handler ran.
    Ended(Outcome),
}

/// One vCPU's NMI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NmiRun {
    /// The vCPU, by its number.
    pub cpu: u32,
    /// True when the NMI was sent.
    pub injected: bool,
    /// The outcome of the NMI.
    pub result: NmiResult,
    /// Where it stood with NMIs when it was stopped again.
    pub after: NmiState,
    /// Wall time from the injection until it was stopped.
    pub wall: Duration,
    /// CPU time that its thread used for that.
    pub run_time: Duration,
}

impl NmiRun {
    /// True if the handler ran to its end.
    pub fn finished(&self) -> bool {
        self.result == NmiResult::Finished
    }
}
