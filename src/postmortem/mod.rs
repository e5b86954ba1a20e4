//! A moment put into a core, and a report made from one: the same as the live one, without KVM and
//! without the VM.
//!
//! Owns what of the guest's memory goes into a core and what the note of ours says; the file itself
//! is `core_file`'s, and what it all means is `diagnosis`'s. A session takes the memory while the
//! guest stands still, before its NMIs, and adds the note when it knows how the run ended.

mod load;
mod take;

use serde::{Deserialize, Serialize};

use crate::capture::Capture;
use crate::hang::Found;
use crate::report::{Report, Trigger};

pub use load::{Stored, report};
pub use take::{Destination, Moment, Pending, Size};

/// What a core's note holds, as JSON: everything that the report needs and that is not in the
/// guest's memory or its image.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// The report, without the backtrace of this core.
    report: Report,
    /// What that backtrace was taken for.
    trigger: Trigger,
    /// When, in milliseconds since the tool's start.
    at_ms: f64,
    /// What was taken.
    taken: Taken,
    /// How long after they were found the hangs of that moment were over, in milliseconds, in their
    /// order.
    resolved_after_ms: Vec<Option<f64>>,
    /// Where the backtrace belongs among those of the report.
    index: usize,
    /// Where its hangs belong among those of the report.
    first_hang: usize,
}

/// What was taken of a guest at one moment, besides its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct Taken {
    /// Its vCPUs, and what the NMIs brought.
    pub capture: Capture,
    /// The hangs that it was taken for, and what they rest on.
    pub found: Option<Found>,
}
