//! Source lines around the places of a report's stacks.
//!
//! Owns which places are wanted, and how many lines around each are shown; refuses to own the reading of files
//! (the command line, which knows the folders that may be read). Called by `html`.

use std::collections::{BTreeMap, BTreeSet};

use crate::text::focus::{Focus, Rank};
use crate::{Cpu, Frame, Report};

/// The most places whose lines are shown.
const MAX_PLACES: usize = 200;
/// Lines that are shown before the line of a place, and after it.
const AROUND: u32 = 3;
/// The most characters of a line that are shown.
const MAX_WIDTH: usize = 200;

/// A line of a source file and those around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// Number of the first line, from 1.
    pub first: u32,
    /// Text of the lines, without their ends.
    pub lines: Vec<String>,
}

/// Source lines around places, by file and line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<String, BTreeMap<u32, Excerpt>>);

impl Sources {
    /// Returns the places of a report's frames, each file with its lines: 200 places at most, those of blamed vCPUs
    /// and tasks first. A redacted report has none.
    pub fn wanted(report: &Report) -> BTreeMap<&str, BTreeSet<u32>> {
        let mut wanted: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        if report.redacted {
            return wanted;
        }
        let mut left = MAX_PLACES;
        for frame in frames(report) {
            for function in &frame.functions {
                let (Some(file), Some(line)) = (&function.file, function.line) else { continue };
                if left > 0 && wanted.entry(file).or_default().insert(line) {
                    left -= 1;
                }
            }
        }
        wanted
    }

    /// Adds the lines around some lines of a file. A line beyond the file's end is left out: the file is another.
    pub fn add(&mut self, file: &str, lines: &BTreeSet<u32>, text: &str) {
        let all: Vec<&str> = text.lines().collect();
        let excerpts = lines.iter().filter_map(|&line| {
            let first = line.checked_sub(AROUND).unwrap_or(1).max(1);
            let index = usize::try_from(line).ok()?.checked_sub(1)?;
            all.get(index)?;
            let last = (index + AROUND as usize + 1).min(all.len());
            let around = all.get(first as usize - 1..last)?;
            let cut = |line: &&str| line.chars().take(MAX_WIDTH).collect();
            Some((line, Excerpt { first, lines: around.iter().map(cut).collect() }))
        });
        self.0.entry(file.to_owned()).or_default().extend(excerpts);
    }

    /// Returns the lines around a place; `None` where its file is not known.
    pub fn get(&self, file: &str, line: u32) -> Option<&Excerpt> {
        self.0.get(file)?.get(&line)
    }
}

/// Returns the frames of all stacks, those of blamed parties first.
fn frames(report: &Report) -> impl Iterator<Item = &Frame> {
    let mut stacks: Vec<(Rank, &[Frame])> = Vec::new();
    for (index, backtrace) in (0..).zip(&report.backtraces) {
        let hangs = report.hangs.iter().filter(|hang| hang.backtrace == Some(index));
        let focus = Focus::new(backtrace, hangs);
        for cpu in &backtrace.cpus {
            let rank = focus.rank_of_cpu(cpu);
            stacks.extend(stacks_of(cpu).map(|frames| (rank, frames)));
        }
        for task in &backtrace.tasks {
            let stack = task.host_stack.as_ref().map(|stack| stack.frames.as_slice());
            stacks.extend(stack.map(|frames| (focus.rank_of_task(task), frames)));
        }
    }
    stacks.sort_by_key(|(rank, _)| *rank);
    stacks.into_iter().flat_map(|(_, frames)| frames)
}

fn stacks_of(cpu: &Cpu) -> impl Iterator<Item = &[Frame]> {
    let trace = cpu.guest_trace.as_ref().map(|trace| trace.frames.as_slice());
    trace.into_iter().chain(cpu.host_stack.as_ref().map(|stack| stack.frames.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_lines_are_shown_on_either_side() {
        let text: String = (1..=20).map(|line| format!("line {line}\n")).collect();
        let mut sources = Sources::default();
        sources.add("a.rs", &[0, 1, 10, 19, 21].into(), &text);
        let shown = |line| {
            let excerpt = sources.get("a.rs", line)?;
            let last = excerpt.lines.last()?.clone();
            Some((excerpt.first, excerpt.lines.len(), last))
        };
        assert_eq!(shown(1), Some((1, 4, "line 4".into())));
        assert_eq!(shown(10), Some((7, 7, "line 13".into())));
        assert_eq!(shown(19), Some((16, 5, "line 20".into())));
        assert_eq!((shown(0), shown(21), shown(2)), (None, None, None));
    }
}
