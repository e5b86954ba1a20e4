//! History within bounds: the newest slots of the first vCPUs, and the place of each moment on the time axis.
//!
//! Owns the bounds on a history that may come from anywhere, and the axis. Used by every part of the strips.

use crate::history::{CpuHistory, History, PastNmis, PastSuspicion, Series};
use crate::report::Backtrace;

/// Width of the picture, in pixels.
pub const WIDTH: i32 = 760;

/// Place of the axis's beginning, in pixels; labels are left of it.
pub const LEFT: i32 = 140;

/// Width of the time axis, in pixels.
const PLOT: i32 = 600;

/// Maximum number of slots that are drawn: twice as many as the tool records.
const MAX_SLOTS: usize = 240;

/// Maximum number of vCPUs that are examined.
const MAX_CPUS: usize = 1024;

/// Maximum number of suspicions, and of backtraces with NMIs.
const MAX_EVENTS: usize = 16;

/// Lengths of the time axis in seconds, each with the distance of its labels.
const AXES: [(u32, u32); 8] =
    [(2, 1), (5, 1), (10, 2), (15, 5), (20, 5), (30, 5), (40, 10), (60, 10)];

/// Bounded view of a backtrace's history.
pub struct Past<'a> {
    history: &'a History,
    /// The number of the first slot that is drawn.
    first: usize,
    slots: usize,
    /// The length of the axis in seconds, and the distance of its labels.
    axis: (u32, u32),
}

/// Time that a vCPU had, in milliseconds; `None` where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Times {
    pub wall: u64,
    pub own: Option<u64>,
    pub ran: Option<u64>,
}

impl<'a> Past<'a> {
    /// Returns the history of a backtrace; `None` if it has none, or one without slots.
    pub fn new(backtrace: &'a Backtrace) -> Option<Self> {
        let history = backtrace.history.as_ref()?;
        let slots = history.wall_ms.0.len();
        let length = history.ends_at_ms - history.starts_at_ms;
        let has_length = length > 0.0 && length.is_finite() && history.slot_ms > 0;
        if slots == 0 || history.cpus.is_empty() || !has_length {
            return None;
        }
        let first = slots.saturating_sub(MAX_SLOTS);
        let mut past = Self { history, first, slots: slots - first, axis: (0, 0) };
        let seconds = past.length_ms() / 1000.0;
        let fits = |(length, _): &(u32, u32)| f64::from(*length) >= seconds - 0.5;
        let long = (seconds.min(1e6).ceil() as u32, (seconds.min(1e6) / 4.0).ceil() as u32);
        past.axis = AXES.into_iter().find(fits).unwrap_or(long);
        Some(past)
    }

    /// Returns the number of vCPUs, drawn or not.
    pub fn vcpus(&self) -> usize {
        self.history.cpus.len()
    }

    /// Returns the vCPUs that are examined.
    pub fn cpus(&self) -> &'a [CpuHistory] {
        &self.history.cpus[..self.history.cpus.len().min(MAX_CPUS)]
    }

    pub fn suspicions(&self) -> impl Iterator<Item = &'a PastSuspicion> {
        self.history.suspicions.iter().take(MAX_EVENTS)
    }

    /// Returns the backtraces whose NMIs lie in the drawn time, the last ones first.
    pub fn nmis(&self) -> impl Iterator<Item = &'a PastNmis> {
        let start = self.starts_at();
        let nmis = self.history.nmis.iter().rev().take(MAX_EVENTS);
        nmis.filter(move |nmis| nmis.at_ms >= start)
    }

    /// Returns the length of a slot, in milliseconds.
    pub fn slot_ms(&self) -> u32 {
        self.history.slot_ms
    }

    /// Returns the end of the history, in milliseconds since the tool's start.
    pub fn ends_at(&self) -> f64 {
        self.history.ends_at_ms
    }

    fn starts_at(&self) -> f64 {
        self.start_of(0)
    }

    /// Returns the drawn time, in milliseconds.
    pub fn length_ms(&self) -> f64 {
        (self.ends_at() - self.starts_at()).max(0.0)
    }

    /// Returns the labels of the axis, in seconds before the end.
    pub fn axis_seconds(&self) -> impl Iterator<Item = u32> {
        (0..=self.axis.0).step_by(self.axis.1.max(1) as usize).take(MAX_EVENTS)
    }

    /// Returns the place of a moment on the axis, in pixels. Moments outside of the axis are at its ends.
    pub fn x(&self, at_ms: f64) -> i32 {
        let before = (self.ends_at() - at_ms) / (f64::from(self.axis.0.max(1)) * 1000.0);
        LEFT + PLOT - (before.clamp(0.0, 1.0) * f64::from(PLOT)).round() as i32
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Returns the start of a slot, in milliseconds since the tool's start.
    pub fn start_of(&self, slot: usize) -> f64 {
        let number = (self.first + slot) as f64;
        (self.history.starts_at_ms + number * f64::from(self.slot_ms())).min(self.ends_at())
    }

    /// Returns the places at which a slot begins and ends.
    pub fn span(&self, slot: usize) -> (i32, i32) {
        (self.x(self.start_of(slot)), self.x(self.start_of(slot + 1)))
    }

    /// Returns the number that a series has for a slot.
    pub fn get(&self, series: Option<&Series>, slot: usize) -> Option<u32> {
        series?.get(self.first + slot)
    }

    /// Returns the time of a slot in which the tool had stopped the guest, in milliseconds.
    pub fn stopped(&self, slot: usize) -> u32 {
        self.get(self.history.stopped_ms.as_ref(), slot).unwrap_or(0)
    }

    /// Returns the time that a vCPU had in slots, together.
    pub fn times(&self, cpu: &CpuHistory, slots: impl Iterator<Item = usize>) -> Times {
        let mut times = Times::default();
        for slot in slots {
            let add = |sum: &mut Option<u64>, series: &Option<Series>| {
                if let Some(time) = self.get(series.as_ref(), slot) {
                    *sum = Some(sum.unwrap_or(0) + u64::from(time));
                }
            };
            let wall = self.get(Some(&self.history.wall_ms), slot);
            times.wall += u64::from(wall.unwrap_or(0));
            add(&mut times.own, &cpu.own_ms);
            add(&mut times.ran, &cpu.ran_ms);
        }
        times
    }

    /// Returns the sum of a series; `None` if no number of it is known.
    pub fn total(&self, series: Option<&Series>) -> Option<u64> {
        let known = (0..self.slots).filter_map(|slot| self.get(series, slot));
        known.map(u64::from).reduce(|sum, count| sum + count)
    }
}
