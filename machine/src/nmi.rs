//! The state of a vCPU's NMIs, and the result of one that was sent to it.
//!
//! Owns the types; refuses to own how an NMI is sent. Stored in cores.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

/// A vCPU's NMI state and interrupt shadow. A field is also false where the target cannot know it: QEMU's
/// monitor reports the interrupt shadow alone.
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

/// The result of an NMI that was meant for a vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NmiResult {
    /// The handler ran and reported its end. The vCPU is inside the handler, behind the instruction that
    /// reported it.
    Finished,
    /// The time limit passed first. `after` says whether the NMI was even delivered.
    Unfinished,
    /// The NMI was not sent: the vCPU waits for INIT or a start-up IPI.
    NotStarted,
    /// The vCPU ended while its handler ran, or had ended before by anything but a write to an exit or
    /// reset port.
    Ended(Outcome),
}

/// An NMI to a single vCPU, with its result and its cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NmiRun {
    /// The number of the vCPU.
    pub cpu: u32,
    /// True when the NMI was sent.
    pub injected: bool,
    /// The result of the NMI.
    pub result: NmiResult,
    /// The NMI state of the vCPU when it was stopped again.
    pub after: NmiState,
    /// Wall time from the injection until the vCPU was stopped.
    pub wall: Duration,
    /// CPU time of the vCPU's thread in that span.
    pub run_time: Duration,
}

impl NmiRun {
    /// True if the handler ran to its end.
    pub fn finished(&self) -> bool {
        self.result == NmiResult::Finished
    }
}
