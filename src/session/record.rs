//! The results of a run: passed to the listener as they come, and kept for the report.
//!
//! Owns the limits on a report's backtraces and hangs, and the choice of the backtrace that gets the
//! core. Refuses to own what a backtrace contains (`diagnosis`). Called by `live`.

use std::time::Duration;

use nmiscope_report::{Backtrace, Hang, Report, Trigger, summary};

use super::options::{Policy, RunEvent};
use crate::capture::Capture;
use crate::capture::store::{PendingCore, UnfinishedCore};
use crate::diagnosis::{Diagnosis, milliseconds};

/// Largest number of backtraces of hangs in a report: a guest that is not killed may hang repeatedly.
const MOST_BACKTRACES: usize = 16;

/// Largest number of hangs in a report that the detector reported.
const MOST_HANGS: usize = 1_000;

/// Largest number of hangs in a report that were found at backtraces on request.
const MOST_ON_REQUEST: usize = 100;

/// Priority of a backtrace for the run's only core; among equals the last one gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CorePriority {
    /// Backtrace on request: by a signal or a timer.
    AskedFor,
    /// Backtrace of a hang that the detector reported.
    Hang,
    /// Backtrace that ends the run.
    End,
}

impl CorePriority {
    /// Returns the priority of a backtrace with this trigger.
    pub fn from_trigger(trigger: &Trigger) -> Self {
        match trigger {
            Trigger::Signal { .. } | Trigger::Timer | Trigger::Dump | Trigger::Attach => {
                Self::AskedFor
            }
            Trigger::Hang => Self::Hang,
            Trigger::Starved | Trigger::GuestEnded | Trigger::TimeLimit => Self::End,
        }
    }
}

/// An unfinished core: its memory is written, the note of the report is missing.
struct KeptCore {
    priority: CorePriority,
    /// The backtrace's index in the report.
    backtrace: usize,
    pending: anyhow::Result<(PendingCore, Capture)>,
}

/// The hangs, backtraces and warnings of a run, and the core of one moment.
pub struct RunRecord<'a> {
    /// Hangs that the detector reported, by its number for them.
    hangs: Vec<Hang>,
    /// Hangs that were found at a backtrace on request, or at the time limit.
    found_on_request: Vec<Hang>,
    /// Number of hangs beyond the limits, which the report leaves out.
    more_hangs: usize,
    backtraces: Vec<Backtrace>,
    core: Option<KeptCore>,
    warnings: Vec<String>,
    listener: &'a mut dyn FnMut(RunEvent<'_>),
}

impl<'a> RunRecord<'a> {
    /// Creates an empty record that passes its events to `listener`.
    pub fn new(listener: &'a mut dyn FnMut(RunEvent<'_>)) -> Self {
        let (hangs, found_on_request, backtraces, warnings) = Default::default();
        let more_hangs = 0;
        Self { hangs, found_on_request, more_hangs, backtraces, core: None, warnings, listener }
    }

    /// Passes an event to the listener.
    pub fn emit(&mut self, event: RunEvent<'_>) {
        (self.listener)(event);
    }

    /// Adds a warning to the report, and passes it to the listener.
    pub fn warn(&mut self, warning: String) {
        (self.listener)(RunEvent::Warning(&warning));
        self.warnings.push(warning);
    }

    /// Adds a warning unless the report already has it.
    pub fn warn_once(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warn(warning);
        }
    }

    /// Marks the detector's hang `number` as resolved, `elapsed` after the start of the run.
    pub fn resolved(&mut self, number: usize, elapsed: Duration) {
        let Some(hang) = self.hangs.get_mut(number) else { return };
        hang.resolved_after_ms = Some(milliseconds(elapsed) - hang.at_ms);
        (self.listener)(RunEvent::Resolved(hang));
    }

    /// Returns the next backtrace's index in the report; `None` if the report does not get it: the policy
    /// wants no backtraces of hangs, or there are too many.
    pub fn place_for(&mut self, is_verdict: bool, policy: Policy) -> Option<u32> {
        let room = self.backtraces.len() < MOST_BACKTRACES;
        if is_verdict && policy.report && !room {
            self.warn_once(format!(
                "the guest has hung often: further hangs are reported without backtraces, of which \
                 there are {MOST_BACKTRACES}"
            ));
        }
        let wanted = !is_verdict || policy.report && room;
        wanted.then_some(self.backtraces.len() as u32)
    }

    /// Returns true if a backtrace of this priority gets the core: no kept one has a higher priority.
    pub fn has_room_for(&self, priority: CorePriority) -> bool {
        self.core.as_ref().is_none_or(|kept| kept.priority <= priority)
    }

    /// Keeps the core of the backtrace that is added next, in place of an earlier one.
    pub fn keep(
        &mut self,
        priority: CorePriority,
        core: anyhow::Result<PendingCore>,
        capture: Capture,
    ) {
        let backtrace = self.backtraces.len();
        self.core =
            Some(KeptCore { priority, backtrace, pending: core.map(|core| (core, capture)) });
    }

    /// Adds a diagnosis: its hangs, which the detector reported if `is_verdict` and which were found on
    /// request otherwise; and its backtrace if it is `wanted`. Suspicions beside a verdict count as found on
    /// request: the detector may report them yet.
    pub fn add(&mut self, diagnosis: Diagnosis, is_verdict: bool, wanted: bool) {
        let Diagnosis { backtrace, hangs } = diagnosis;
        if !hangs.is_empty() {
            (self.listener)(RunEvent::Hangs(&hangs));
        }
        if wanted {
            (self.listener)(RunEvent::Backtrace { backtrace: &backtrace, hangs: &hangs });
        }
        if is_verdict {
            // A hang that was found before its bound had passed is now a verdict.
            self.found_on_request.retain(|early| !hangs.iter().any(|hang| is_same(hang, early)));
        }
        let is_numbered = |hang: &Hang| is_verdict && hang.certainty.is_verdict();
        let (verdicts, others): (Vec<Hang>, Vec<Hang>) = hangs.into_iter().partition(is_numbered);
        // Each request is answered; the report has a hang once, as it was last found.
        self.found_on_request.retain(|early| !others.iter().any(|hang| is_same(hang, early)));
        // The detector numbers its hangs, so they have a list and a limit of their own.
        let lists = [
            (&mut self.hangs, MOST_HANGS, verdicts),
            (&mut self.found_on_request, MOST_ON_REQUEST, others),
        ];
        for (list, most, hangs) in lists {
            let room = most.saturating_sub(list.len());
            self.more_hangs += hangs.len().saturating_sub(room);
            list.extend(hangs.into_iter().take(room));
        }
        if wanted {
            self.backtraces.push(backtrace);
        }
    }

    /// Completes the report with the recorded results, and returns the core that lacks it.
    pub fn finish(mut self, report: Report) -> (Report, Option<UnfinishedCore>) {
        if self.more_hangs > 0 {
            self.warn(format!("{} more hangs are not in this report", self.more_hangs));
        }
        let Self { mut hangs, found_on_request, backtraces, warnings, core, .. } = self;
        hangs.extend(found_on_request);
        hangs.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
        let mut report = Report { hangs, backtraces, warnings, ..report };
        report.summary = summary::summarize(&report);
        let core = core.map(|kept| UnfinishedCore::new(kept.pending, kept.backtrace));
        (report, core)
    }
}

/// Returns true if both are the same hang: equal in class and blame.
fn is_same(hang: &Hang, other: &Hang) -> bool {
    (hang.class, &hang.blamed) == (other.class, &other.blamed)
}
