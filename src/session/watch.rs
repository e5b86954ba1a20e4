//! Watching a guest: how it is observed, and when it is worth to stop it for a closer look.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::guest::Guest;
use super::observe::{observation, sample, vcpus};
use crate::capture::{Bounds as CaptureBounds, Stopped, to_sample};
use crate::hang::{Bounds, Detector, Found, Noticed, Observation, Vcpu, Verdict};
use crate::kernel::{Depth, Kernel, LocateError, Located, Reading};
use crate::targets::Target;

/// How often a guest is observed.
pub const POLL: Duration = Duration::from_millis(100);

/// How long the vCPUs of a guest of which nothing is known have to say how they are.
const SAMPLE: Duration = Duration::from_millis(50);

/// The detector, and what it is shown.
pub struct Watch {
    detector: Detector,
    bounds: Bounds,
    places: Option<Box<dyn Located>>,
    /// How many times they were not to be found.
    failures: u32,
    ready: bool,
    /// When the next look is due, since the start.
    next: Duration,
    /// The vCPUs of a kernel that is not known, when they were last observed.
    last: Vec<Vcpu>,
}

impl Watch {
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

    /// Where the kernel's structures are, once they have been found.
    pub fn places(&self) -> Option<&dyn Located> {
        self.places.as_deref()
    }

    /// From now on the guest's CPUs have to get on.
    pub fn set_ready(&mut self) {
        self.ready = true;
        // One that was late has been looked for before all of it was there.
        self.places = None;
        self.detector.set_ready();
    }

    /// The guest goes on after it was stopped.
    pub fn resumed(&mut self, at: Duration) {
        self.detector.resumed(at);
        self.next = self.next_after(at);
    }

    /// In how long the next look is due, that long after the start.
    pub fn due_in(&self, elapsed: Duration) -> Duration {
        self.next.saturating_sub(elapsed)
    }

    /// When the look after one at that time is worth its while.
    fn next_after(&self, at: Duration) -> Duration {
        // Not much sooner: what is due in its own time may take longer by the clock.
        const LEAST: Duration = Duration::from_millis(5);
        at + self.detector.due_in().map_or(POLL, |due| due.clamp(LEAST, POLL))
    }

    /// Looks at a guest that runs; nothing if it is not yet time to.
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
                    // A guest that has just crashed cannot be looked at either, and the next event
                    // says so.
                    problem = (self.ready && self.failures == 2).then_some(reason);
                }
            }
        }
        let kernel = match &self.places {
            _ if !known => Reading::Unknown,
            Some(places) => Reading::of(places.state(target, Depth::Counters)),
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

    /// The structures are there when the guest is ready. One that is late is stopped for a moment to
    /// look for them, so that it can be said what it waits for.
    fn is_time_to_locate(&self, at: Duration) -> bool {
        let late = self.bounds.of(crate::hang::Class::BootStall).map(|bound| bound / 2);
        self.ready || late.is_some_and(|late| at >= late && self.failures == 0)
    }

    /// Looks at one that stands still, and says what is wrong with it.
    pub fn judge(
        &mut self,
        target: &dyn Target,
        stopped: &Stopped,
        at: Duration,
    ) -> Option<Verdict> {
        self.detector.judge(observation(target, stopped, at))
    }

    /// Looks at one that stands still, and says what is wrong with it or may come to be.
    pub fn find_hangs(
        &mut self,
        target: &dyn Target,
        stopped: &Stopped,
        at: Duration,
    ) -> Option<Found> {
        self.detector.of_moment(observation(target, stopped, at))
    }

    /// Stops a guest that has run on while it was sampled, and returns the CPUs whose hang went on:
    /// of verdicts, or of what was found on the way to one.
    pub fn cpus_to_sample(
        &mut self,
        target: &mut dyn Target,
        kernel: &dyn Kernel,
        started: Instant,
        is_verdict: bool,
    ) -> BTreeSet<u32> {
        let bounds = CaptureBounds::for_vcpus(target.vcpus());
        let stopped = Stopped::stop(target, kernel, self.places(), bounds);
        // It was stopped most of the time: that does not make a hang older.
        let at = started.elapsed();
        self.resumed(at);
        let now = observation(target, &stopped, at);
        let lasting = match is_verdict {
            true => self.detector.lasting(now),
            false => self.detector.of_moment(now).map_or_else(Vec::new, |found| found.hangs),
        };
        to_sample(&lasting, stopped.kernel.known())
    }
}

/// What came of looking at a guest.
pub struct Observed {
    /// What the detector makes of it.
    pub noticed: Noticed,
    /// Why it could not be looked at as it should.
    pub problem: Option<LocateError>,
}

/// Asks the vCPUs how they are, those of which that does not follow from how they were in `last`.
fn sample_running(target: &dyn Target, vcpus: &mut [Vcpu], last: &[Vcpu]) {
    for (vcpu, last) in vcpus.iter_mut().zip(last) {
        vcpu.sample = vcpu.sample_without_asking(last);
    }
    let unknown = (0..).zip(vcpus.iter()).filter(|(_, vcpu)| vcpu.sample.is_none());
    let unknown: Vec<u32> = unknown.map(|(cpu, _)| cpu).collect();
    for (cpu, state) in unknown.iter().zip(target.states(&unknown, SAMPLE)) {
        vcpus[*cpu as usize].sample = state.ok().as_ref().map(sample);
    }
}
