//! Paths of a vCPU's row: a band with the host's time, and three lines with counts.
//!
//! Owns the geometry. Each series is one path, and equal neighbouring slots are one step of it: heights have
//! few levels, so that a picture of 64 vCPUs stays small.

use std::fmt::Write as _;

use super::past::Past;
use super::rows::RowLayout;
use crate::history::{CpuHistory, Series};

/// Number of heights of a band or a line, beside none.
const LEVELS: u64 = 4;

/// Path of a row, which shows one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub class: &'static str,
    pub d: String,
}

/// High counts of a slot, of all vCPUs: the heights of the lines are parts of them. One slot in ten may have
/// more, as the one after a pause has, and is no higher.
#[derive(Debug, Clone, Copy, Default)]
pub struct HighCounts {
    ticks: u32,
    schedules: u32,
    interrupts: u32,
}

impl HighCounts {
    pub fn of(past: &Past<'_>) -> Self {
        let high = |series: fn(&CpuHistory) -> Option<&Series>| {
            let of_cpu =
                |cpu| (0..past.slots()).filter_map(move |slot| past.get(series(cpu), slot));
            let all = past.cpus().iter().flat_map(of_cpu);
            let mut counts: Vec<u32> = all.filter(|&count| count > 0).collect();
            counts.sort_unstable();
            counts.get(counts.len() * 9 / 10).copied().unwrap_or(0)
        };
        Self {
            ticks: high(|cpu| cpu.ticks.as_ref()),
            schedules: high(|cpu| cpu.schedules.as_ref()),
            interrupts: high(|cpu| cpu.interrupts.as_ref()),
        }
    }
}

/// Returns the paths of a vCPU. Later ones are drawn over earlier ones.
pub fn paths(past: &Past<'_>, cpu: &CpuHistory, high: HighCounts, layout: RowLayout) -> Vec<Path> {
    let columns = Columns::new(past, layout.columns);
    let (band, lane) = (layout.band, layout.lane);
    let times = |column: &[usize]| past.times(cpu, column.iter().copied());
    let starved = |column: &[usize]| {
        let times = times(column);
        Some(if times.own.is_some() && times.wall > 0 { LEVELS } else { 0 })
    };
    let own = |column: &[usize]| {
        let times = times(column);
        times.own.map(|own| level(own, times.wall))
    };
    let ran = |column: &[usize]| {
        let times = times(column);
        times.ran.map(|ran| level(ran, times.wall))
    };
    let mut paths = vec![
        Path { class: "strip-starved", d: columns.area(starved, band, band) },
        Path { class: "strip-own", d: columns.area(own, band, band) },
        Path { class: "strip-ran", d: columns.area(ran, band, band) },
    ];
    let lanes = [
        ("strip-ticks", cpu.ticks.as_ref(), high.ticks),
        ("strip-schedules", cpu.schedules.as_ref(), high.schedules),
        ("strip-interrupts", cpu.interrupts.as_ref(), high.interrupts),
    ];
    let mut base = String::new();
    for ((class, series, high), y) in lanes.into_iter().zip(layout.lane_bottoms()) {
        let count = |column: &[usize]| {
            let counts = column.iter().filter_map(|&slot| past.get(series, slot));
            let high_of_column = u64::from(high) * column.len() as u64;
            let sum = counts.map(u64::from).reduce(|sum, count| sum + count)?;
            Some(level(sum, high_of_column))
        };
        base.push_str(&columns.line(|column| count(column).is_some(), y));
        paths.push(Path { class, d: columns.area(count, y, lane) });
    }
    let stopped = |column: &[usize]| {
        let stopped: u64 = column.iter().map(|&slot| u64::from(past.stopped(slot))).sum();
        stopped > u64::from(past.slot_ms()) * column.len() as u64 / 4
    };
    paths.push(Path { class: "strip-base", d: base });
    paths.push(Path { class: "strip-stopped", d: columns.line(stopped, band / 2) });
    paths.retain(|path| !path.d.is_empty());
    paths
}

/// Returns the height of a part of a whole: none only for no part.
fn level(part: u64, whole: u64) -> u64 {
    match (part, whole) {
        (0, _) | (_, 0) => 0,
        (part, whole) => (part.saturating_mul(LEVELS) + whole / 2)
            .checked_div(whole)
            .unwrap_or(0)
            .clamp(1, LEVELS),
    }
}

/// Columns of a row: slots that are drawn together.
struct Columns {
    columns: Vec<(Vec<usize>, i32, i32)>,
}

impl Columns {
    fn new(past: &Past<'_>, most: usize) -> Self {
        let together = past.slots().div_ceil(most.max(1)).max(1);
        let slots: Vec<usize> = (0..past.slots()).collect();
        // The last column may be narrow, the others are equal.
        let columns = slots.chunks(together).map(|slots| {
            let from = slots.first().map_or(0, |&slot| past.span(slot).0);
            let to = slots.last().map_or(0, |&slot| past.span(slot).1);
            (slots.to_vec(), from, to)
        });
        Self { columns: columns.collect() }
    }

    /// Returns a path around bars on the line at `bottom`, of at most `height`. Equal neighbours are one step.
    fn area(&self, level: impl Fn(&[usize]) -> Option<u64>, bottom: i32, height: i32) -> String {
        let mut path = String::new();
        let mut above = 0;
        let mut end = None;
        let mut pending = 0;
        for (slots, from, to) in &self.columns {
            let level = level(slots).unwrap_or(0) as i32;
            let top = height * level / LEVELS as i32;
            if end != Some(*from) || (above == 0 && top > 0) {
                close(&mut path, &mut pending, above);
                above = 0;
                if top > 0 {
                    let _ = write!(path, "M{from} {bottom}");
                }
            }
            if top != above {
                step(&mut path, &mut pending, above - top);
                above = top;
            }
            if above > 0 {
                pending += to - from;
            }
            end = Some(*to);
        }
        close(&mut path, &mut pending, above);
        path
    }

    /// Returns a path of lines where `is_there`, at the height `y`.
    fn line(&self, is_there: impl Fn(&[usize]) -> bool, y: i32) -> String {
        let mut path = String::new();
        let mut run: Option<(i32, i32)> = None;
        for (slots, from, to) in &self.columns {
            run = match (run, is_there(slots)) {
                (Some((start, _)), true) => Some((start, *to)),
                (None, true) => Some((*from, *to)),
                (Some((start, end)), false) => {
                    let _ = write!(path, "M{start} {y}H{end}");
                    None
                }
                (None, false) => None,
            };
        }
        if let Some((start, end)) = run {
            let _ = write!(path, "M{start} {y}H{end}");
        }
        path
    }
}

/// Goes right by the `pending` width, and down by `down`.
fn step(path: &mut String, pending: &mut i32, down: i32) {
    if *pending > 0 {
        let _ = write!(path, "h{pending}");
        *pending = 0;
    }
    let _ = write!(path, "v{down}");
}

/// Ends the bars that are open.
fn close(path: &mut String, pending: &mut i32, above: i32) {
    if above > 0 {
        step(path, pending, above);
        path.push('z');
    }
    *pending = 0;
}
