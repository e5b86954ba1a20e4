//! The watch over a running guest: observes it at intervals, and feeds the hang detector.
//!
//! Owns the times of observations and the located structures of the kernel. Refuses to judge (`hang`)
//! and to respond (`live`, which calls this).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::guest::Guest;
use super::observe::{observation, sample, vcpus};
use crate::capture::{StoppedGuest, Timeouts, cpus_to_sample};
use crate::hang::{
    Bounds, Detection, Detector, Observation, ObservedVcpu, Outlook, PastMinute, PollResult,
    Verdict,
};
use crate::kernel::{Depth, KernelAdapter, LocateError, Located, Reading};
use crate::targets::Target;

/// Longest interval between observations of a guest.
pub const POLL: Duration = Duration::from_millis(100);

/// Time that the vCPUs of an unknown kernel have to return their registers for a sample.
const SAMPLE: Duration = Duration::from_millis(50);

/// The hang detector of a running guest, and the state that its observations need.
pub struct Watch {
    detector: Detector,
    bounds: Bounds,
    places: Option<Box<dyn Located>>,
    /// Number of failed attempts to locate the structures.
    failures: u32,
    ready: bool,
    /// Time of the next observation, since the start.
    next: Duration,
    /// Last observed vCPUs of an unknown kernel; empty for a known one.
    last: Vec<ObservedVcpu>,
}

impl Watch {
    /// Creates a watch whose first observation is due [`POLL`] after the start.
    pub fn new(bounds: Bounds) -> Self {
        let detector = Detector::new(bounds.clone(), POLL);
        Self {
            detector,
            bounds,
            places: None,
            failures: 0,
            ready: false,
            last: Vec::new(),
            next: POLL,
        }
    }

    /// Returns the locations of the kernel's structures; `None` before they are found.
    pub fn places(&self) -> Option<&dyn Located> {
        self.places.as_deref()
    }

    /// Marks the guest as ready: from now on its CPUs have to make progress.
    pub fn set_ready(&mut self) {
        self.ready = true;
        // If boot was slow, structures may have been located before they were complete: locate again.
        self.places = None;
        self.detector.set_ready();
    }

    /// Restarts the intervals of a guest that was resumed `at` that time since the start.
    pub fn resumed(&mut self, at: Duration) {
        self.detector.resumed(at);
        self.next = self.next_after(at);
    }

    /// Returns the detector's view of the guest; `None` before the first observation.
    pub fn outlook(&self) -> Option<Outlook> {
        self.detector.outlook()
    }

    /// Returns the bounds of the detector.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Returns the time until the next observation, `elapsed` after the start.
    pub fn due_in(&self, elapsed: Duration) -> Duration {
        self.next.saturating_sub(elapsed)
    }

    /// Returns the time for the observation after one at `at`: when a verdict may be due, or after [`POLL`].
    fn next_after(&self, at: Duration) -> Duration {
        // A bound counts scheduled time, which may take longer by the clock: no tighter loop than this.
        const LEAST: Duration = Duration::from_millis(5);
        at + self.detector.due_in().map_or(POLL, |due| due.clamp(LEAST, POLL))
    }

    /// Observes a running guest `at` that time since the start; `None` if the observation is not yet due.
    pub fn observe(
        &mut self,
        target: &dyn Target,
        guest: &mut Guest<'_>,
        at: Duration,
    ) -> Option<Observed> {
        if at < self.next {
            return None;
        }
        let observed = self.observe_now(target, guest, at);
        self.next = self.next_after(at);
        Some(observed)
    }

    fn observe_now(
        &mut self,
        target: &dyn Target,
        guest: &mut Guest<'_>,
        at: Duration,
    ) -> Observed {
        let known = guest.is_known();
        let mut problem = None;
        if known && self.places.is_none() && self.is_time_to_locate(at) {
            match guest.locate(target) {
                Ok(places) => self.places = Some(places),
                Err(reason) => {
                    self.failures += 1;
                    // The first failure is not reported: a guest that has just crashed fails too, and
                    // the next event reports the crash.
                    problem = (self.ready && self.failures == 2).then_some(reason);
                }
            }
        }
        let kernel = match &self.places {
            _ if !known => Reading::Unknown,
            Some(places) => Reading::from_result(places.state(target, &[], Depth::Counters)),
            None => Reading::Unreadable {
                unreadable: "the kernel's structures have not been found".into(),
            },
        };
        let mut vcpus = vcpus(target, &[]);
        if !known {
            sample_running(target, &mut vcpus, &self.last);
            self.last.clone_from(&vcpus);
        }
        let console_bytes = target.console_bytes().unwrap_or_default();
        let observation = Observation { at, vcpus, console_bytes, kernel };
        Observed { noticed: self.detector.observe(observation), problem }
    }

    /// Returns true if the kernel's structures are to be located: the guest is ready, or half of the
    /// boot-stall bound has passed. The latter tries once, so that a report can name what the boot waits for.
    fn is_time_to_locate(&self, at: Duration) -> bool {
        let late = self.bounds.get(crate::hang::Class::BootStall).map(|bound| bound / 2);
        self.ready || late.is_some_and(|late| at >= late && self.failures == 0)
    }

    /// Judges a stopped guest; `None` if no verdict is due.
    pub fn judge(
        &mut self,
        target: &dyn Target,
        stopped: &StoppedGuest,
        at: Duration,
    ) -> Option<Verdict> {
        self.detector.judge(observation(target, stopped, at))
    }

    /// Finds the hangs of a stopped guest, including those whose bounds have not passed.
    pub fn find_hangs(
        &mut self,
        target: &dyn Target,
        stopped: &StoppedGuest,
        at: Duration,
    ) -> Option<Detection> {
        self.detector.hangs_now(observation(target, stopped, at))
    }

    /// Returns the last minute of a stopped guest; `None` if it has just started.
    pub fn past_minute(
        &mut self,
        target: &dyn Target,
        stopped: &StoppedGuest,
        at: Duration,
    ) -> Option<PastMinute> {
        self.detector.past_minute(observation(target, stopped, at))
    }

    /// Adds the NMIs that were sent for a backtrace `at` that time since the start.
    pub fn nmis_sent(&mut self, at: Duration, cpus: Vec<u32>) {
        self.detector.nmis_sent(at, cpus);
    }

    /// Stops a guest that ran while it was sampled, and returns the CPUs to sample again: those whose
    /// hang persists. With `is_verdict` these are the hangs of verdicts, otherwise all that are found.
    pub fn cpus_to_sample(
        &mut self,
        target: &mut dyn Target,
        kernel: &dyn KernelAdapter,
        started: Instant,
        is_verdict: bool,
    ) -> BTreeSet<u32> {
        let bounds = Timeouts::for_vcpus(target.vcpus());
        let stopped = StoppedGuest::stop(target, kernel, self.places(), bounds);
        // The guest was stopped for most of the time, which does not age a hang.
        let at = started.elapsed();
        self.resumed(at);
        let now = observation(target, &stopped, at);
        let ongoing = match is_verdict {
            true => self.detector.ongoing(now),
            false => self.detector.hangs_now(now).map_or_else(Vec::new, |found| found.hangs),
        };
        cpus_to_sample(&ongoing, stopped.kernel.known())
    }
}

/// Result of one observation of a guest.
pub struct Observed {
    /// Conclusions of the hang detector.
    pub noticed: PollResult,
    /// Reason why the kernel's structures were not located, to be reported once; `None` otherwise.
    pub problem: Option<LocateError>,
}

/// Samples the vCPUs' registers, except where the sample follows from the one in `last`.
fn sample_running(target: &dyn Target, vcpus: &mut [ObservedVcpu], last: &[ObservedVcpu]) {
    for (vcpu, last) in vcpus.iter_mut().zip(last) {
        vcpu.sample = vcpu.derived_sample(last);
    }
    let unknown = (0..).zip(vcpus.iter()).filter(|(_, vcpu)| vcpu.sample.is_none());
    let unknown: Vec<u32> = unknown.map(|(cpu, _)| cpu).collect();
    for (cpu, state) in unknown.iter().zip(target.states(&unknown, SAMPLE)) {
        vcpus[*cpu as usize].sample = state.ok().as_ref().map(sample);
    }
}
