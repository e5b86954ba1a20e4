//! Samples: stacks of blamed CPUs at further moments, as numbers.
//!
//! A CPU that hangs and keeps executing is elsewhere at every moment. The code that it hangs in stays on
//! its stack, which several samples show. `capture` takes them, `diagnosis` compares them. Stored in
//! cores.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Stacks of a CPU at several moments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuSamples {
    /// The number of the sampled CPU.
    pub cpu: u32,
    /// All frames, each once: many samples share the same few.
    frames: Vec<SampledFrame>,
    /// The stack of each moment, as indices into `frames`, innermost first.
    stacks: Vec<Vec<u32>>,
}

/// Frame of a sampled stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampledFrame {
    /// The guest-virtual address of the frame.
    pub at: u64,
    /// True if the address is that of an interrupted instruction; otherwise a call returns to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

impl CpuSamples {
    /// The most frames of a stack: more than count in a signature. A round of a recursion counts once.
    const MAX_DEPTH: usize = 64;
    /// The most different frames: more than a loop has, and few enough for a core's note.
    const MAX_FRAMES: usize = 512;

    /// Makes an empty set of samples of a CPU.
    pub fn new(cpu: u32) -> Self {
        Self { cpu, ..Self::default() }
    }

    /// Adds the stack of a moment, innermost frame first. The outer end of a stack that is too long is
    /// left out, and so is a whole stack that would exceed the bound on different frames.
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

    /// Returns the number of stacks.
    pub fn len(&self) -> usize {
        self.stacks.len()
    }

    /// Returns true if there are no stacks.
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }

    /// Returns the stack of each moment, with `show` applied to each frame; bounded as
    /// [`CpuSamples::add`] bounds them, even if a core has more.
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

/// Keeps the last of all items with the same `key`: in a stack, the outermost, so that the depth of a
/// recursion does not show.
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
    fn stacks_come_out_as_they_went_in() {
        let stacks = [frames([1, 2, 3]), frames([2, 4]), frames([])];
        assert_eq!(added(&stacks), [vec![1, 2, 3], vec![2, 4], vec![]]);
    }

    #[test]
    fn one_round_of_a_recursion_is_kept() {
        let [leaf, odd, even, main] = [1, 2, 3, 4];
        let stack = frames([leaf, odd, even, odd, even, odd, main]);
        assert_eq!(added(&[stack]), [[leaf, even, odd, main]]);
    }

    #[test]
    fn depth_and_number_of_frames_are_bounded() {
        let deep = added(&[frames(0..1000)]);
        assert_eq!(deep, [Vec::from_iter(0..CpuSamples::MAX_DEPTH as u64)]);
        let unlike = (0..100).map(|stack| frames(stack * 50..(stack + 1) * 50));
        let kept = added(&unlike.collect::<Vec<_>>());
        assert_eq!(kept.len(), CpuSamples::MAX_FRAMES / 50);
    }

    #[test]
    fn indices_out_of_bounds_in_a_core_are_left_out() {
        let text = r#"{"cpu": 0, "frames": [{"at": 7}], "stacks": [[0, 9], [4294967295]]}"#;
        let samples: CpuSamples = serde_json::from_str(text).expect("samples");
        assert_eq!(samples.stacks(|frame| frame.at), [vec![7], vec![]]);
    }
}
