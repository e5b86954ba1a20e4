//! The end of a live session: the VM and the console ended within their deadlines, and the report completed.
//!
//! Owns the longest time that this takes; refuses to own the outcome. Called by the parent module.

use std::io;
use std::time::{Duration, SystemTime};

use nmiscope_report::{Outcome, Report, SCHEMA_VERSION, Source, Tool};

use super::backtrace::sampling_time;
use super::{Session, machine};
use crate::capture::Timeouts;
use crate::capture::store::UnfinishedCore;
use crate::diagnosis::milliseconds;
use crate::session::console;
use crate::session::options::RunEvent;
use crate::session::origin::Origin;
use crate::session::sign_of_life::SignsOfLife;

/// Time for the vCPU threads to end.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Returns the longest time from the time limit to the end of a process whose console has a file of its own,
/// as in a farm: a capture, the end of the vCPUs and of the console, and `writing` for the report and the
/// core. Where console and text share a stream there is no such time: both wait for their reader.
pub fn longest_ending(vcpus: u32, writing: Duration) -> Duration {
    Timeouts::for_vcpus(vcpus).longest_capture()
        + sampling_time(true)
        // No text is in that file, so that the console waits for it once, at its end.
        + console::PAUSE
        + SHUTDOWN
        + writing
}

impl Session<'_> {
    /// Ends the VM and the console. Returns the report, the core without it, and the error of the console's
    /// sink.
    pub(super) fn finish(
        mut self,
        outcome: Outcome,
    ) -> (Report, Option<UnfinishedCore>, Option<io::Error>) {
        self.signs = SignsOfLife::new(None);
        self.record.emit(RunEvent::Stopping { exits: self.vm.exit_counts() });
        // A failure is a warning: the threads end with the process, and the report is complete.
        if let Err(error) = self.vm.shutdown(SHUTDOWN) {
            self.record.warn(format!("failed to {}", crate::error_chain(&error)));
        }
        self.console.finish(self.options.text);
        let console_failure = self.console.take_failure();
        if let Some(error) = &console_failure {
            self.record.warn(format!("the guest's console could not be written: {error}"));
        }
        if self.console.dropped() > 0 {
            let dropped = self.console.dropped();
            self.record
                .warn(format!("{dropped} bytes of the guest's console were not read in time"));
        }
        let origin = Origin::here(self.captured_at.unwrap_or_else(SystemTime::now));
        let report = Report {
            schema_version: SCHEMA_VERSION,
            summary: String::new(),
            redacted: false,
            source: Source::Live,
            captured_at: origin.captured_at,
            host: origin.host,
            tool: Tool {
                name: env!("CARGO_PKG_NAME").into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            image: self.guest.report(),
            machine: machine(self.options),
            ready_after_ms: self.ready_after.map(milliseconds),
            outcome,
            hangs: Vec::new(),
            backtraces: Vec::new(),
            warnings: Vec::new(),
            console_tail: self.console.tail(),
            visit: None,
        };
        for remark in self.options.debug.notes.texts() {
            self.record.warn_once(remark);
        }
        let (report, core) = self.record.finish(report);
        (report, core, console_failure)
    }
}
