//! Where CPUs to blame stand at other moments than the verdict's: numbers only.
//!
//! A CPU that hangs and runs on is somewhere else at every moment. What it hangs in is what stays on
//! its stack, which takes several moments to see. `session` takes them, `diagnosis` says what they
//! have in common.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The stack of a CPU at several moments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuSamples {
    /// The CPU's number.
    pub cpu: u32,
    /// All frames, each once: many samples have the same few.
    frames: Vec<SampledFrame>,
    /// Of each moment the places in `frames`, innermost first.
    stacks: Vec<Vec<u32>>,
}

/// A frame of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampledFrame {
    /// Its guest-virtual address.
    pub at: u64,
    /// The address is that of an instruction that was interrupted; otherwise a call returns to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

impl CpuSamples {
    /// As much of a stack as counts in a signature, and more. A round of a recursion counts once.
    const MAX_DEPTH: usize = 64;
    /// More than a loop has, and little enough for a core's note.
    const MAX_FRAMES: usize = 512;

    /// None yet, of that CPU.
    pub fn new(cpu: u32) -> Self {
        Self { cpu, ..Self::default() }
    }

    /// Adds the stack of a moment, innermost frame first. Of one that is too long, the outer end is
    /// left out; one that is too unlike the others is left out as a whole.
    pub fn add(&mut self, stack: Vec<SampledFrame>) {
        let known = self.frames.len();
        let stack = keep_last_of_each(stack, |&frame| frame).into_iter().take(Self::MAX_DEPTH);
        let places = stack.map(|frame| self.place(frame)).collect();
        if self.frames.len() > Self::MAX_FRAMES {
            self.frames.truncate(known);
        } else {
            self.stacks.push(places);
        }
    }

    fn place(&mut self, frame: SampledFrame) -> u32 {
        let found = self.frames.iter().position(|known| *known == frame);
        let place = found.unwrap_or_else(|| {
            self.frames.push(frame);
            self.frames.len() - 1
        });
        place as u32
    }

    /// How many moments there are.
    pub fn len(&self) -> usize {
        self.stacks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }

    /// The stack of each moment, of what `show` makes of a frame; no deeper and with no more frames
    /// than [`CpuSamples::add`] leaves, whatever has been read from a core.
    pub fn stacks<T: Clone>(&self, show: impl Fn(SampledFrame) -> T) -> Vec<Vec<T>> {
        let frames = self.frames.iter().take(Self::MAX_FRAMES);
        let shown: Vec<T> = frames.map(|&frame| show(frame)).collect();
        let stack = |places: &Vec<u32>| {
            let places = places.iter().take(Self::MAX_DEPTH);
            places.filter_map(|&place| shown.get(place as usize).cloned()).collect()
        };
        self.stacks.iter().map(stack).collect()
    }
}

/// Leaves of those with the same `key` the last, which of a stack is the outermost: how deep a
/// recursion is does not show.
pub fn keep_last_of_each<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let mut once: Vec<T> = items.into_iter().rev().filter(|item| seen.insert(key(item))).collect();
    once.reverse();
    once
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(addresses: impl IntoIterator<Item = u64>) -> Vec<SampledFrame> {
        addresses.into_iter().map(|at| SampledFrame { at, interrupted: false }).collect()
    }

    fn added(stacks: &[Vec<SampledFrame>]) -> Vec<Vec<u64>> {
        let mut samples = CpuSamples::new(0);
        for stack in stacks {
            samples.add(stack.clone());
        }
        samples.stacks(|frame| frame.at)
    }

    #[test]
    fn the_stacks_come_out_as_they_went_in() {
        let stacks = [frames([1, 2, 3]), frames([2, 4]), frames([])];
        assert_eq!(added(&stacks), [vec![1, 2, 3], vec![2, 4], vec![]]);
    }

    #[test]
    fn of_a_recursion_there_is_one_round() {
        let [leaf, odd, even, main] = [1, 2, 3, 4];
        let stack = frames([leaf, odd, even, odd, even, odd, main]);
        assert_eq!(added(&[stack]), [[leaf, even, odd, main]]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let deep = added(&[frames(0..1000)]);
        assert_eq!(deep, [Vec::from_iter(0..CpuSamples::MAX_DEPTH as u64)]);
        let unlike = (0..100).map(|stack| frames(stack * 50..(stack + 1) * 50));
        let kept = added(&unlike.collect::<Vec<_>>());
        assert_eq!(kept.len(), CpuSamples::MAX_FRAMES / 50);
    }

    #[test]
    fn samples_of_a_damaged_core_are_what_is_left_of_them() {
        let text = r#"{"cpu": 0, "frames": [{"at": 7}], "stacks": [[0, 9], [4294967295]]}"#;
        let samples: CpuSamples = serde_json::from_str(text).expect("samples");
        assert_eq!(samples.stacks(|frame| frame.at), [vec![7], vec![]]);
    }
}
