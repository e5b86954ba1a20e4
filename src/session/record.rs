//! Everything that a run has to say: told to the listener as it happens, and kept for the report.
//!
//! Owns how many backtraces and hangs a report has, and which backtrace gets the core.

use std::path::PathBuf;
use std::time::Duration;

use nmiscope_report::{Backtrace, Hang, Report, Trigger, summary};

use super::options::{Ended, Event, Policy};
use crate::capture::Capture;
use crate::capture::store::Pending;
use crate::diagnosis::{Diagnosis, milliseconds};

/// How many backtraces of hangs a report has: a guest that goes on may hang again and again.
const MOST_BACKTRACES: usize = 16;

/// How many hangs.
const MOST_HANGS: usize = 1_000;

/// The most hangs of moments that somebody asked for.
const MOST_BY_THE_WAY: usize = 100;

/// How much a backtrace is worth a core: of those that are worth as much, the last one gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Somebody asked for it.
    AskedFor,
    /// The guest hangs.
    Hang,
    /// The run ends with it.
    End,
}

impl Weight {
    /// The weight of a backtrace, by what it was taken for.
    pub fn of(trigger: &Trigger) -> Self {
        match trigger {
            Trigger::Signal { .. } | Trigger::Timer | Trigger::Dump | Trigger::Attach => {
                Self::AskedFor
            }
            Trigger::Hang => Self::Hang,
            Trigger::Starved | Trigger::GuestEnded | Trigger::TimeLimit => Self::End,
        }
    }
}

/// A core that is begun, and what it still lacks.
struct Kept {
    weight: Weight,
    /// The number of its backtrace.
    backtrace: usize,
    pending: anyhow::Result<(Pending, Capture)>,
}

/// The hangs, backtraces and warnings of a run, and the core of one moment.
pub struct Record<'a> {
    /// The hangs that the detector has reported, as it counts them.
    hangs: Vec<Hang>,
    /// The hangs that were found when somebody asked, or when the time was over.
    found_by_the_way: Vec<Hang>,
    /// The number of hangs that were reported and are not among them.
    more_hangs: usize,
    backtraces: Vec<Backtrace>,
    core: Option<Kept>,
    warnings: Vec<String>,
    listener: &'a mut dyn FnMut(Event<'_>),
}

impl<'a> Record<'a> {
    /// A record of nothing yet.
    pub fn new(listener: &'a mut dyn FnMut(Event<'_>)) -> Self {
        let (hangs, found_by_the_way, backtraces, warnings) = Default::default();
        let more_hangs = 0;
        Self { hangs, found_by_the_way, more_hangs, backtraces, core: None, warnings, listener }
    }

    /// Tells the listener of an event.
    pub fn tell(&mut self, event: Event<'_>) {
        (self.listener)(event);
    }

    /// Adds a warning.
    pub fn warn(&mut self, warning: String) {
        (self.listener)(Event::Warning(&warning));
        self.warnings.push(warning);
    }

    /// Adds a warning that may have been given before.
    pub fn warn_once(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warn(warning);
        }
    }

    /// Marks the hang with that number as over.
    pub fn resolved(&mut self, number: usize, elapsed: Duration) {
        let Some(hang) = self.hangs.get_mut(number) else { return };
        hang.resolved_after_ms = Some(milliseconds(elapsed) - hang.at_ms);
        (self.listener)(Event::Resolved(hang));
    }

    /// The place of the next backtrace in the report, if it gets one: of hangs there may be too many.
    pub fn place_for(&mut self, is_verdict: bool, policy: Policy) -> Option<u32> {
        let room = self.backtraces.len() < MOST_BACKTRACES;
        if is_verdict && policy.report && !room {
            self.warn_once(format!(
                "the guest has hung often: of further hangs there are no backtraces (the most is \
                 {MOST_BACKTRACES})"
            ));
        }
        let wanted = !is_verdict || policy.report && room;
        wanted.then_some(self.backtraces.len() as u32)
    }

    /// True if a backtrace of that weight gets the core: one that is there already may be of something
    /// more important.
    pub fn has_room_for(&self, weight: Weight) -> bool {
        self.core.as_ref().is_none_or(|kept| kept.weight <= weight)
    }

    /// Keeps the core of the backtrace that is added next.
    pub fn keep(&mut self, weight: Weight, core: anyhow::Result<Pending>, capture: Capture) {
        let backtrace = self.backtraces.len();
        self.core = Some(Kept { weight, backtrace, pending: core.map(|core| (core, capture)) });
    }

    /// Adds what a capture means: its hangs, which are the detector's if that `is_verdict`, and the
    /// backtrace if it is `wanted`.
    pub fn add(&mut self, diagnosis: Diagnosis, is_verdict: bool, wanted: bool) {
        let Diagnosis { backtrace, hangs } = diagnosis;
        if !hangs.is_empty() {
            (self.listener)(Event::Hangs(&hangs));
        }
        if wanted {
            (self.listener)(Event::Backtrace { backtrace: &backtrace, hangs: &hangs });
        }
        if is_verdict {
            // What was on its way to a verdict has become one.
            self.found_by_the_way.retain(|early| !hangs.iter().any(|hang| is_same(hang, early)));
        }
        // The detector counts its own, and so they have room of their own.
        let (list, most) = match is_verdict {
            true => (&mut self.hangs, MOST_HANGS),
            false => (&mut self.found_by_the_way, MOST_BY_THE_WAY),
        };
        let room = most.saturating_sub(list.len());
        // Whoever asks again is told again, and the report has it once, as it was last.
        if !is_verdict {
            list.retain(|early| !hangs.iter().any(|hang| is_same(hang, early)));
        }
        self.more_hangs += hangs.len().saturating_sub(room);
        list.extend(hangs.into_iter().take(room));
        if wanted {
            self.backtraces.push(backtrace);
        }
    }

    /// Completes the report with all of it, and then the core with the report.
    pub fn finish(mut self, report: Report) -> Ended {
        if self.more_hangs > 0 {
            self.warn(format!("{} more hangs are not in this report", self.more_hangs));
        }
        let Self { mut hangs, found_by_the_way, backtraces, warnings, core, .. } = self;
        hangs.extend(found_by_the_way);
        hangs.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
        let mut report = Report { hangs, backtraces, warnings, ..report };
        report.summary = summary::of_report(&report);
        let core = core.map(|kept| -> anyhow::Result<PathBuf> {
            let (core, capture) = kept.pending?;
            core.finish(&report, kept.backtrace, capture)
        });
        Ended { report, core }
    }
}

/// True for the same hang, found twice.
fn is_same(hang: &Hang, other: &Hang) -> bool {
    (hang.class, &hang.blamed) == (other.class, &other.blamed)
}
