//! Note of a core, as JSON: a capture, and the report of its run.
//!
//! Owns both forms: version 4, which is written, and version 3, which can also be read. The capture's
//! memory is in the core itself (`elf_core`); kernel state and stacks are made from it again.
//! docs/core-format.md describes the members.

use std::time::Duration;

use nmiscope_report::{Backtrace, Hang, Report, Trigger, former, summary};
use serde::{Deserialize, Serialize};

use super::{BufferReservation, Capture, CpuCapture};
use crate::elf_core::Core;
use crate::hang::Detection;
use crate::kernel::Reading;

/// Note of a core: everything that the report needs and that is neither in the guest's memory nor in its
/// image.
#[derive(Debug, Serialize, Deserialize)]
pub struct CaptureNote {
    /// The report, without this core's backtrace and the hangs of that moment.
    pub report: Report,
    /// The capture that the core was written for.
    pub capture: Capture,
    /// The time from each of the capture's hangs, in their order, to its end, in milliseconds; `None` if
    /// it had no end.
    resolved_after_ms: Vec<Option<f64>>,
    /// The index of the backtrace in the report.
    index: usize,
    /// The index of its first hang in the report.
    first_hang: usize,
}

impl CaptureNote {
    /// Makes a note from a report by removing the backtrace with that index, which must exist.
    pub(super) fn new(mut report: Report, index: usize, capture: Capture) -> Self {
        report.backtraces.remove(index);
        let is_of_this = |hang: &Hang| hang.backtrace == Some(index as u32);
        let first_hang = report.hangs.iter().position(is_of_this).unwrap_or(report.hangs.len());
        let (of_this, others) = report.hangs.into_iter().partition::<Vec<Hang>, _>(is_of_this);
        report.hangs = others;
        let resolved_after_ms = of_this.iter().map(|hang| hang.resolved_after_ms).collect();
        Self { report, capture, resolved_after_ms, index, first_hang }
    }

    /// Removes the earlier backtraces, which the live report has.
    pub(super) fn leave_out_backtraces(&mut self) {
        self.report.backtraces.clear();
        self.report.warnings.push("earlier backtraces did not fit into the core".into());
    }

    /// Reads the note of a core of either version.
    ///
    /// # Errors
    /// The note is damaged.
    pub fn read(core: &Core<'_>) -> Result<Self, serde_json::Error> {
        let note = match core.version() {
            3 => serde_json::from_slice(core.note()).map(Version3::into_note)?,
            _ => serde_json::from_slice::<Self>(core.note())?,
        };
        let version = note.report.schema_version;
        if former::is_read(version.into()) {
            return Ok(note);
        }
        Err(serde::de::Error::custom(format_args!(
            "its report has schema version {version}, which this nmiscope does not read"
        )))
    }

    /// Returns the index of the backtrace in the report, from which earlier ones may have been removed.
    pub fn index(&self) -> usize {
        self.index.min(self.report.backtraces.len())
    }

    /// Completes the report with its capture's backtrace and hangs.
    pub fn complete(self, backtrace: Backtrace, mut hangs: Vec<Hang>) -> Report {
        let index = self.index();
        let Self { mut report, resolved_after_ms, first_hang, .. } = self;
        for (hang, resolved) in hangs.iter_mut().zip(resolved_after_ms) {
            hang.resolved_after_ms = resolved;
        }
        let first = first_hang.min(report.hangs.len());
        report.hangs.splice(first..first, hangs);
        report.backtraces.insert(index, backtrace);
        former::upgrade(&mut report);
        report.summary = summary::summarize(&report);
        report
    }
}

/// Note of version 3. Its core may lack the read-only memory with the source lines of locks and waits, so
/// that the kernel's state is taken from the note.
#[derive(Deserialize)]
struct Version3 {
    report: Report,
    trigger: Trigger,
    at_ms: f64,
    taken: Taken,
    resolved_after_ms: Vec<Option<f64>>,
    index: usize,
    first_hang: usize,
}

#[derive(Deserialize)]
struct Taken {
    capture: CaptureOfVersion3,
    found: Option<Detection>,
}

#[derive(Deserialize)]
struct CaptureOfVersion3 {
    reservation: BufferReservation,
    elapsed: Duration,
    cpus: Vec<CpuCapture>,
    kernel: Reading,
}

impl Version3 {
    fn into_note(self) -> CaptureNote {
        let Self { report, trigger, at_ms, taken, resolved_after_ms, index, first_hang } = self;
        let Taken { capture, found } = taken;
        let CaptureOfVersion3 { reservation, elapsed, cpus, kernel } = capture;
        // The number was made from whole microseconds; casts saturate.
        let at = Duration::from_micros((at_ms * 1000.0).round() as u64);
        let capture = Capture {
            trigger,
            at,
            cpus,
            kernel,
            task_stacks: Vec::new(),
            log: None,
            reservation,
            elapsed,
            found,
            history: None,
        };
        CaptureNote { report, capture, resolved_after_ms, index, first_hang }
    }
}
