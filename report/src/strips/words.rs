//! History of a vCPU in words: when it last made progress, and the time that the host gave it since.
//!
//! Owns the sentences; refuses to own a verdict. A vCPU that is halted for good and one that idles without
//! ticks look alike in counts alone.

use super::past::{Past, Times};
use crate::history::{CpuHistory, Series};

/// Row of the table that has the picture in words.
pub struct TableRow {
    pub cpus: String,
    pub sentence: String,
    pub ticks: String,
    pub schedules: String,
    pub interrupts: String,
    pub own: String,
    pub wall: String,
}

/// Time of a vCPU since its last progress.
struct Tail {
    /// The kind of progress: a tick or an interrupt.
    kind: &'static str,
    /// The number of slots since the last one with progress.
    slots: usize,
    times: Times,
}

/// Returns the numbers of a vCPU over the whole history.
pub fn totals(past: &Past<'_>, index: usize, cpus: String) -> TableRow {
    let Some(cpu) = past.cpus().get(index) else {
        let none = String::new;
        return TableRow {
            cpus,
            sentence: none(),
            ticks: none(),
            schedules: none(),
            interrupts: none(),
            own: none(),
            wall: none(),
        };
    };
    let count = |series: &Option<Series>| match past.total(series.as_ref()) {
        Some(total) => total.to_string(),
        None => "not known".into(),
    };
    let times = past.times(cpu, 0..past.slots());
    TableRow {
        cpus,
        sentence: sentence(past, index),
        ticks: count(&cpu.ticks),
        schedules: count(&cpu.schedules),
        interrupts: count(&cpu.interrupts),
        own: times.own.map_or_else(|| "not known".into(), |own| seconds(own as f64)),
        wall: seconds(times.wall as f64),
    }
}

/// Returns a vCPU's history as a sentence without its subject and its full stop.
pub fn sentence(past: &Past<'_>, index: usize) -> String {
    let Some(cpu) = past.cpus().get(index) else { return String::new() };
    let Some(tail) = tail(past, cpu) else {
        return "neither ticks nor interrupts are known".into();
    };
    let Tail { kind, slots, times } = &tail;
    if !tail.is_long(past) {
        let all = past.times(cpu, 0..past.slots());
        let starved = if is_starved(all) { ": starved" } else { "" };
        return format!("{kind}s until the end{}{starved}", given("", all));
    }
    let which = match *slots >= past.slots() {
        true => format!("no {kind} in all {}", seconds(times.wall as f64)),
        false => format!("no {kind} for the last {}", seconds(times.wall as f64)),
    };
    let starved = if tail.is_starved() { ": starved" } else { "" };
    format!("{which}{}{starved}", given(" of them", *times))
}

/// Returns a vCPU's state in a few words: empty for one that makes progress.
pub fn status(past: &Past<'_>, cpu: &CpuHistory) -> String {
    let all = past.times(cpu, 0..past.slots());
    match tail(past, cpu) {
        Some(tail) if tail.is_long(past) && tail.is_starved() => "starved".into(),
        Some(tail) if tail.is_long(past) => {
            let kind = if tail.kind == "tick" { "tick" } else { "irq" };
            format!("no {kind} {}", seconds(tail.times.wall as f64))
        }
        _ if is_starved(all) => "starved".into(),
        _ => String::new(),
    }
}

/// Returns the host's part of a time, as the end of a sentence.
fn given(of: &str, times: Times) -> String {
    match (times.own, times.ran) {
        (Some(own), Some(ran)) => {
            let idle = own.saturating_sub(ran);
            let wall = match of {
                "" => format!(" of {}", seconds(times.wall as f64)),
                of => of.to_owned(),
            };
            format!(
                "; it ran for {} and was idle for {}{wall}",
                seconds(ran as f64),
                seconds(idle as f64)
            )
        }
        _ => String::new(),
    }
}

fn is_starved(times: Times) -> bool {
    times.own.is_some_and(|own| own < times.wall / 2)
}

impl Tail {
    /// Returns true for a time that is more than a pause between two events: a second, and two slots.
    fn is_long(&self, past: &Past<'_>) -> bool {
        self.times.wall >= u64::from(past.slot_ms()).saturating_mul(2).max(1000)
            || self.slots >= past.slots()
    }

    fn is_starved(&self) -> bool {
        is_starved(self.times)
    }
}

/// Returns the time since a vCPU's last tick, or since its last interrupt where ticks are not known; `None`
/// if neither is.
fn tail(past: &Past<'_>, cpu: &CpuHistory) -> Option<Tail> {
    let known = |series: &Option<Series>| past.total(series.as_ref()).is_some();
    let (kind, series) = match (known(&cpu.ticks), known(&cpu.interrupts)) {
        (true, _) => ("tick", cpu.ticks.as_ref()),
        (false, true) => ("interrupt", cpu.interrupts.as_ref()),
        (false, false) => return None,
    };
    let has_progress = |slot: &usize| past.get(series, *slot).is_some_and(|count| count > 0);
    let last = (0..past.slots()).rev().find(has_progress);
    let from = last.map_or(0, |last| last + 1);
    let times = past.times(cpu, from..past.slots());
    Some(Tail { kind, slots: past.slots() - from, times })
}

/// Returns a duration of that many milliseconds in words.
pub fn seconds(milliseconds: f64) -> String {
    format!("{:.1} s", milliseconds / 1000.0)
}
