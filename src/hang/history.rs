//! History of a guest's last minute: what the detector's observations have shown, in slots of half a second.
//!
//! Owns the ring of slots, its bound, and the way an interval between two observations is divided among them;
//! refuses to own ages and verdicts (`ages`, `judge`). Updated by the detector with each observation. Its size
//! depends on the number of vCPUs alone: a vCPU has 24 bytes in each slot. [`PastMinute`] is its form in a
//! capture, and is stored in cores.

use std::collections::VecDeque;
use std::time::Duration;

use nmiscope_machine::{HostCounts, HostTimes};
use nmiscope_report::{CpuHistory, History, PastNmis, Series};
use serde::{Deserialize, Serialize};

use super::ages::passed_for;
use super::observation::{Observation, ObservedVcpu};
use super::suspects::{Suspect, Suspects};
use super::verdict::DetectedHang;
use super::wait_graph::Node;
use crate::kernel::CpuActivity;

/// Length of a slot as it is recorded.
const SLOT: Duration = Duration::from_millis(500);

/// Number of slots: a minute, and the slot that has just begun.
const SLOTS: usize = 121;

/// Maximum number of a report's slots, of all vCPUs together: 64 vCPUs have slots of one second. Each slot has
/// some 25 bytes of JSON.
const MAX_REPORTED: usize = 64 * 61;

/// Maximum number of blamed parties by which the beginning of a hang is determined.
const MAX_WALKS: usize = 8;

/// Maximum number of backtraces whose NMIs are remembered.
const MAX_NMIS: usize = 16;

/// Last minute of a guest, in a capture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PastMinute {
    /// The slots of all vCPUs, without suspicions.
    pub history: History,
    /// The suspicions that hold, or lasted for long.
    pub suspects: Vec<Suspect>,
}

/// Recorder of a guest's last minute.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The slots, oldest first, without gaps.
    slots: VecDeque<Slot>,
    /// The last observation, from which the next one's differences are counted.
    last: Option<Last>,
    suspects: Suspects,
    nmis: VecDeque<PastNmis>,
}

/// Slot of all vCPUs, half a second long.
#[derive(Debug, Default)]
struct Slot {
    /// The number of the slot since the start of the clock.
    number: u64,
    /// Wall-clock time that was observed.
    wall: Duration,
    /// Wall-clock time in which the tool had stopped the guest.
    stopped: Duration,
    cpus: Vec<CpuSlot>,
}

/// Slot of one vCPU. Times are in microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct CpuSlot {
    own: Sum,
    ran: Sum,
    ticks: Sum,
    schedules: Sum,
    interrupts: Sum,
    halts: Sum,
}

/// Sum of counts of which some may not be known; unknown if none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum(u32);

impl Default for Sum {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

impl Sum {
    const UNKNOWN: Self = Self(u32::MAX);

    fn get(self) -> Option<u32> {
        (self != Self::UNKNOWN).then_some(self.0)
    }

    fn add(&mut self, count: Option<u64>) {
        if let Some(count) = count {
            let sum = u64::from(self.get().unwrap_or(0)).saturating_add(count);
            self.0 = sum.min(u64::from(u32::MAX - 1)) as u32;
        }
    }
}

/// Last observation, from which the next one's increases are counted.
#[derive(Debug)]
struct Last {
    at: Duration,
    vcpus: Vec<LastVcpu>,
}

/// Values of a vCPU when they were last known.
#[derive(Debug, Clone, Copy, Default)]
struct LastVcpu {
    times: Option<HostTimes>,
    counts: HostCounts,
    ticks: Option<u64>,
    schedules: Option<u64>,
    /// The kernel's count of interrupts.
    interrupts: Option<u64>,
}

/// Increases of a vCPU's counts in an interval; `None` where one is not known.
#[derive(Debug, Default)]
struct Increases {
    ticks: Option<u64>,
    schedules: Option<u64>,
    interrupts: Option<u64>,
    halts: Option<u64>,
}

impl LastVcpu {
    /// Updates the values, and returns the increases. A value that is not known now is kept for a later
    /// difference; one that has decreased is of a guest that was reset, and counts anew.
    fn update(&mut self, vcpu: &ObservedVcpu, kernel: Option<&CpuActivity>) -> Increases {
        let increase = |last: &mut Option<u64>, now: Option<u64>| {
            let before = std::mem::replace(last, now.or(*last));
            now?.checked_sub(before?)
        };
        self.times = vcpu.times;
        let counted = increase(&mut self.interrupts, kernel.map(|cpu| cpu.interrupts));
        let delivered = increase(&mut self.counts.interrupts, vcpu.counts.interrupts);
        Increases {
            ticks: increase(&mut self.ticks, kernel.map(|cpu| cpu.tick)),
            schedules: increase(&mut self.schedules, kernel.map(|cpu| cpu.main_loop)),
            // The host may deliver interrupts without counting them.
            interrupts: if kernel.is_some() { counted } else { delivered },
            halts: increase(&mut self.counts.halts, vcpu.counts.halts),
        }
    }
}

/// Interval of the clock, in which something took an `amount` of time.
#[derive(Debug, Clone, Copy)]
struct Interval {
    from: Duration,
    to: Duration,
}

impl Interval {
    fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    /// Returns the part of `amount` that falls into a slot, if it is spread evenly. The parts of all slots
    /// add up to the amount.
    fn share(self, slot: u64, amount: Duration) -> Duration {
        if start_of(slot) <= self.from && self.to <= start_of(slot + 1) {
            return amount;
        }
        let until = |end: Duration| {
            let passed = end.clamp(self.from, self.to).saturating_sub(self.from);
            let share = amount.as_micros() * passed.as_micros();
            Duration::from_micros(
                share.checked_div(self.length().as_micros()).unwrap_or_default() as u64
            )
        };
        until(start_of(slot + 1)).saturating_sub(until(start_of(slot)))
    }
}

fn start_of(slot: u64) -> Duration {
    Duration::from_millis(slot.saturating_mul(SLOT.as_millis() as u64))
}

/// Returns the slot that a moment ends: one on the border belongs to the earlier slot.
fn slot_until(at: Duration) -> u64 {
    at.as_micros().saturating_sub(1).checked_div(SLOT.as_micros()).unwrap_or_default() as u64
}

fn slot_from(at: Duration) -> u64 {
    at.as_micros().checked_div(SLOT.as_micros()).unwrap_or_default() as u64
}

/// Returns the slots from the one of a moment on: an interval ends in the last slot, so that it has few.
fn slots_from(slots: &mut VecDeque<Slot>, at: Duration) -> impl Iterator<Item = &mut Slot> {
    let newest = slots.back().map_or(0, |slot| slot.number);
    let count = newest.saturating_add(1).saturating_sub(slot_from(at)) as usize;
    let start = slots.len().saturating_sub(count);
    slots.range_mut(start..)
}

impl Recorder {
    /// Adds the interval since the last observation. In an interval longer than `longest` the tool itself did
    /// not run, so that a vCPU that sleeps at both ends was not idle for all of it: the host may have stopped
    /// the whole process. Returns true if the observation is the first one of a slot.
    pub fn observe(&mut self, now: &Observation, longest: Duration) -> bool {
        let from = self.last.as_ref().map_or(now.at, |last| last.at);
        let interval = Interval { from, to: now.at };
        let last = self.last.get_or_insert_with(|| Last { at: now.at, vcpus: Vec::new() });
        last.at = now.at.max(from);
        last.vcpus.resize_with(now.vcpus.len(), LastVcpu::default);
        let before: Vec<Option<HostTimes>> = last.vcpus.iter().map(|vcpu| vcpu.times).collect();
        let kernel = now.kernel.known();
        let online = |cpu: u32| kernel.and_then(|kernel| kernel.cpu(cpu));
        let vcpus = (0..).zip(last.vcpus.iter_mut().zip(&now.vcpus));
        let counts: Vec<Increases> =
            vcpus.map(|(cpu, (last, vcpu))| last.update(vcpu, online(cpu))).collect();
        if interval.length().is_zero() {
            return false;
        }
        let newest = self.slots.back().map(|slot| slot.number);
        self.make_slots(interval, now.vcpus.len());
        for slot in slots_from(&mut self.slots, from) {
            slot.wall += interval.share(slot.number, interval.length());
        }
        for (cpu, (before, vcpu)) in before.into_iter().zip(&now.vcpus).enumerate() {
            self.add_times(cpu, before.zip(vcpu.times), interval, longest);
        }
        let Some(slot) = self.slots.back_mut() else { return false };
        for (cpu, counts) in slot.cpus.iter_mut().zip(counts) {
            cpu.ticks.add(counts.ticks);
            cpu.schedules.add(counts.schedules);
            cpu.interrupts.add(counts.interrupts);
            cpu.halts.add(counts.halts);
        }
        newest != Some(slot.number)
    }

    /// Adds the time that a vCPU had in an interval: its running time evenly, and its idle time at the end,
    /// as far as the tool observed it.
    fn add_times(
        &mut self,
        cpu: usize,
        times: Option<(HostTimes, HostTimes)>,
        interval: Interval,
        longest: Duration,
    ) {
        let Some((before, now)) = times else { return };
        let passed = passed_for(Some(before), Some(now), interval.length());
        let idle = passed.own.saturating_sub(passed.ran).min(longest);
        let at_end =
            Interval { from: interval.from.max(interval.to.saturating_sub(longest)), ..interval };
        for slot in slots_from(&mut self.slots, interval.from) {
            let Some(of_cpu) = slot.cpus.get_mut(cpu) else { continue };
            let ran = interval.share(slot.number, passed.ran);
            let idle = at_end.share(slot.number, idle);
            of_cpu.ran.add(Some(ran.as_micros() as u64));
            of_cpu.own.add(Some((ran + idle).as_micros() as u64));
        }
    }

    /// Makes the slots up to the end of an interval, in place of the oldest ones.
    fn make_slots(&mut self, interval: Interval, vcpus: usize) {
        let end = slot_until(interval.to);
        // A clock that has jumped leaves no room for older slots.
        let oldest = end.saturating_sub(SLOTS as u64 - 1);
        let next = match self.slots.back() {
            Some(slot) => slot.number + 1,
            None => slot_from(interval.from),
        };
        for number in next.max(oldest)..=end {
            let is_full = self.slots.len() >= SLOTS;
            let is_gap = self.slots.back().is_some_and(|slot| slot.number + 1 != number);
            let mut slot = if is_full { self.slots.pop_front() } else { None }.unwrap_or_default();
            if is_gap {
                self.slots.clear();
            }
            slot.cpus.clear();
            slot.cpus.resize_with(vcpus, CpuSlot::default);
            self.slots.push_back(Slot { number, cpus: slot.cpus, ..Slot::default() });
        }
    }

    /// Marks the time until `at` as one in which the tool had stopped the guest.
    pub fn resumed(&mut self, at: Duration) {
        let Some(last) = &mut self.last else { return };
        let interval = Interval { from: last.at, to: at };
        if interval.length().is_zero() {
            return;
        }
        last.at = at;
        let vcpus = last.vcpus.len();
        self.make_slots(interval, vcpus);
        for slot in slots_from(&mut self.slots, interval.from) {
            slot.stopped += interval.share(slot.number, interval.length());
        }
    }

    /// Takes all hangs of an observation, due or not.
    pub fn suspect(&mut self, now: &Observation, hangs: &[DetectedHang]) {
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.update(now.at, hangs, |hang| self.beginning(now, hang));
        self.suspects = suspects;
    }

    /// Returns the time at which a hang began: its age is own time, which passes more slowly than the clock on
    /// a vCPU that the host does not always run.
    fn beginning(&self, now: &Observation, hang: &DetectedHang) -> Duration {
        let kernel = now.kernel.known();
        let cpu_of = |node: &Node| match *node {
            Node::Cpu(cpu) => Some(cpu),
            Node::Task(task) => Some(kernel?.task(task)?.cpu),
            Node::Lock(_) | Node::Queue(_) => None,
        };
        // The age is that of one party, and which one is not known: the shortest way back is certain.
        let cpus = hang.blamed.iter().filter_map(cpu_of).take(MAX_WALKS);
        let by_clock = now.at.saturating_sub(hang.age);
        cpus.map(|cpu| self.before(now.at, cpu as usize, hang.age)).max().unwrap_or(by_clock)
    }

    /// Returns the time since which a vCPU has had that much own time, to a slot, until `at`. Time before the
    /// oldest slot, or in which own time is not known, counts in full.
    fn before(&self, at: Duration, cpu: usize, own: Duration) -> Duration {
        let (mut end, mut left) = (at, own);
        for slot in self.slots.iter().rev() {
            let start = start_of(slot.number).min(end);
            let counted = slot.cpus.get(cpu).and_then(|cpu| cpu.own.get());
            let had = match counted {
                Some(own) => Duration::from_micros(own.into()),
                None => end - start,
            };
            if had >= left {
                let part = (end - start).as_micros() * left.as_micros();
                let part = part.checked_div(had.as_micros()).unwrap_or_default();
                return end - Duration::from_micros(part as u64);
            }
            (end, left) = (start, left - had);
        }
        end.saturating_sub(left)
    }

    /// Adds the NMIs that were sent for a backtrace `at` that time.
    pub fn nmis_sent(&mut self, at: Duration, cpus: Vec<u32>) {
        if cpus.is_empty() {
            return;
        }
        if self.nmis.len() >= MAX_NMIS {
            self.nmis.pop_front();
        }
        self.nmis.push_back(PastNmis { at_ms: milliseconds(at), cpus });
    }

    /// Returns the last minute; `None` before the second observation.
    pub fn past_minute(&self) -> Option<PastMinute> {
        let last = self.last.as_ref()?;
        let vcpus = last.vcpus.len();
        // Neighbouring slots become one until all fit.
        let merged = (self.slots.len() * vcpus).div_ceil(MAX_REPORTED).max(1);
        let mut groups: Vec<Vec<&Slot>> = Vec::new();
        for slot in &self.slots {
            match groups.last_mut() {
                Some(group) if group[0].number / merged as u64 == slot.number / merged as u64 => {
                    group.push(slot);
                }
                _ => groups.push(vec![slot]),
            }
        }
        let first = groups.first()?[0].number / merged as u64 * merged as u64;
        let (starts_at, ends_at) = (start_of(first), last.at);
        let of_all = |time: fn(&Slot) -> Duration| -> Series {
            let sum = |group: &Vec<&Slot>| group.iter().map(|slot| time(slot)).sum::<Duration>();
            groups.iter().map(|group| Some(rounded(sum(group)))).collect()
        };
        let has_stopped = self.slots.iter().any(|slot| !slot.stopped.is_zero());
        let history = History {
            starts_at_ms: milliseconds(starts_at),
            ends_at_ms: milliseconds(ends_at),
            slot_ms: SLOT.as_millis() as u32 * merged as u32,
            wall_ms: of_all(|slot| slot.wall),
            stopped_ms: has_stopped.then(|| of_all(|slot| slot.stopped)),
            cpus: (0..vcpus).map(|cpu| cpu_history(cpu, &groups)).collect(),
            suspicions: Vec::new(),
            nmis: self
                .nmis
                .iter()
                .filter(|nmis| nmis.at_ms >= milliseconds(starts_at))
                .cloned()
                .collect(),
        };
        Some(PastMinute { history, suspects: self.suspects.shown(starts_at) })
    }
}

/// Returns the series of a vCPU from groups of slots. A series without a known number is absent.
fn cpu_history(cpu: usize, groups: &[Vec<&Slot>]) -> CpuHistory {
    let series = |value: fn(&CpuSlot) -> Sum, unit: u32| -> Option<Series> {
        let sum = |group: &Vec<&Slot>| {
            let known = group.iter().filter_map(|slot| value(slot.cpus.get(cpu)?).get());
            let sum = known.map(u64::from).reduce(|sum, count| sum + count)?;
            let rounded = (sum + u64::from(unit) / 2) / u64::from(unit);
            Some(rounded.try_into().unwrap_or(u32::MAX))
        };
        let series: Series = groups.iter().map(sum).collect();
        series.0.iter().any(Option::is_some).then_some(series)
    };
    CpuHistory {
        cpu: cpu as u32,
        own_ms: series(|slot| slot.own, 1000),
        ran_ms: series(|slot| slot.ran, 1000),
        ticks: series(|slot| slot.ticks, 1),
        schedules: series(|slot| slot.schedules, 1),
        interrupts: series(|slot| slot.interrupts, 1),
        halts: series(|slot| slot.halts, 1),
    }
}

/// Returns a duration in whole milliseconds.
fn rounded(time: Duration) -> u32 {
    ((time.as_micros() + 500) / 1000).try_into().unwrap_or(u32::MAX)
}

/// Returns a moment as reports have it, in milliseconds.
fn milliseconds(at: Duration) -> f64 {
    at.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests;
