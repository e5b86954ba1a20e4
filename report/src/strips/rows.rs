//! Rows of the strips: one for each vCPU, or one for several whose histories look alike.
//!
//! Owns the size of the rows, and which are drawn.

use super::LaneName;
use super::past::Past;
use super::paths::{HighCounts, Path, paths};
use super::words;

/// Maximum number of parties of a suspicion that are looked at, as a report's writer has it.
const MAX_PARTIES: usize = 64;

/// Maximum number of vCPUs that each have a row, and of rows.
const MAX_ROWS: usize = 64;

/// Sizes of a row, in pixels.
#[derive(Debug, Clone, Copy)]
pub struct RowLayout {
    pub height: i32,
    pub band: i32,
    /// Height of a line's bars.
    pub lane: i32,
    /// Distance from one line to the next.
    lane_step: i32,
    /// True if each line of each row has its name.
    pub names: bool,
    /// Maximum number of columns that a row is drawn in.
    pub columns: usize,
}

impl RowLayout {
    fn for_rows(rows: usize) -> Self {
        match rows {
            0..=16 => {
                Self { height: 60, band: 12, lane: 8, lane_step: 13, names: true, columns: 240 }
            }
            17..=32 => {
                Self { height: 40, band: 9, lane: 6, lane_step: 8, names: false, columns: 61 }
            }
            _ => Self { height: 40, band: 9, lane: 6, lane_step: 8, names: false, columns: 41 },
        }
    }

    /// Returns the places of the lines below their bars.
    pub fn lane_bottoms(self) -> [i32; 3] {
        [1, 2, 3].map(|lane| self.band + self.lane_step * lane)
    }

    /// Returns the names of the band and the lines.
    pub fn lane_names(self) -> Vec<LaneName> {
        let [ticks, schedules, interrupts] = self.lane_bottoms();
        let names = [
            (self.band - 2, "host time"),
            (ticks, "ticks"),
            (schedules, "schedules"),
            (interrupts, "interrupts"),
        ];
        names.map(|(y, text)| LaneName { y, text }).into()
    }
}

/// Row of one or several vCPUs.
pub struct CpuRow {
    /// The index of the first vCPU in the history.
    pub first: usize,
    /// The names of all its vCPUs.
    pub cpus: String,
    /// The short form of the names.
    pub label: String,
    pub status: String,
    /// True if a suspicion is of a vCPU of the row.
    pub suspected: bool,
    pub paths: Vec<Path>,
}

/// Rows of a picture, and the number of vCPUs without one of their own.
pub struct CpuRows {
    pub layout: RowLayout,
    pub shown: Vec<CpuRow>,
    /// The number of vCPUs that share a row with others.
    pub folded: usize,
    /// The number of vCPUs that are not drawn.
    pub left_out: usize,
}

/// Look of a vCPU, by which rows are folded.
#[derive(PartialEq, Eq)]
struct Look {
    status: String,
    suspected: bool,
    paths: Vec<Path>,
}

/// Makes the rows. More vCPUs than rows are folded: those that look alike share one. If there are still more,
/// suspected vCPUs have their rows first.
pub fn rows(past: &Past<'_>) -> CpuRows {
    let layout = RowLayout::for_rows(past.vcpus().min(MAX_ROWS));
    let high = HighCounts::of(past);
    let folds = past.vcpus() > MAX_ROWS;
    let mut looks: Vec<(Look, Vec<usize>)> = Vec::new();
    for (index, cpu) in past.cpus().iter().enumerate() {
        let suspected = since(past, cpu.cpu);
        let mut look = Look {
            status: words::status(past, cpu),
            suspected: !suspected.is_empty(),
            paths: paths(past, cpu, high, layout),
        };
        if !suspected.is_empty() {
            look.paths.push(Path { class: "strip-since", d: suspected });
        }
        match looks.iter_mut().find(|(other, _)| folds && *other == look) {
            Some((_, members)) => members.push(index),
            None => looks.push((look, vec![index])),
        }
    }
    let numbers = |members: &[usize]| -> Vec<u32> {
        members.iter().filter_map(|&index| Some(past.cpus().get(index)?.cpu)).collect()
    };
    if looks.len() > MAX_ROWS {
        looks.sort_by_key(|(look, members)| (!look.suspected, members.first().copied()));
        looks.truncate(MAX_ROWS);
        looks.sort_by_key(|(_, members)| members.first().copied());
    }
    let drawn: usize = looks.iter().map(|(_, members)| members.len()).sum();
    let folded = looks.iter().map(|(_, members)| members.len()).filter(|&count| count > 1).sum();
    let row = |(look, members): (Look, Vec<usize>)| CpuRow {
        first: members.first().copied().unwrap_or(0),
        cpus: names(&numbers(&members)),
        label: match &numbers(&members)[..] {
            [cpu] => format!("cpu{cpu}"),
            cpus => format!("{} vCPUs", cpus.len()),
        },
        status: look.status,
        suspected: look.suspected,
        paths: look.paths,
    };
    let shown = looks.into_iter().map(row).collect();
    CpuRows { layout, shown, folded, left_out: past.vcpus() - drawn }
}

/// Returns bars over the times in which a vCPU was suspected.
fn since(past: &Past<'_>, cpu: u32) -> String {
    let name = format!("cpu{cpu}");
    let of_cpu = past
        .suspicions()
        .filter(|suspicion| suspicion.parties.iter().take(MAX_PARTIES).any(|party| *party == name));
    let bar = |from: f64, to: f64| {
        let (from, to) = (past.x(from), past.x(to));
        format!("M{from}-5H{}v3H{from}z", to.max(from + 2))
    };
    of_cpu
        .map(|suspicion| {
            bar(suspicion.began_at_ms, suspicion.ended_at_ms.unwrap_or_else(|| past.ends_at()))
        })
        .collect()
}

/// Returns the names of vCPUs: `cpu0 to cpu3, cpu7`.
fn names(cpus: &[u32]) -> String {
    const MOST: usize = 16;
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(cpu) => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let name = |&(first, last): &(u32, u32)| match last - first {
        0 => format!("cpu{first}"),
        1 => format!("cpu{first}, cpu{last}"),
        _ => format!("cpu{first} to cpu{last}"),
    };
    let mut names: Vec<String> = ranges.iter().take(MOST).map(name).collect();
    if ranges.len() > MOST {
        names.push("and more".into());
    }
    names.join(", ")
}
