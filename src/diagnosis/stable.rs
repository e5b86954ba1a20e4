//! Stable functions: those that stay on a stack over several moments, which are the loop that a CPU runs
//! without its occasional calls.
//!
//! Owns that choice, and the names of samples, which are addresses until they get here. Called by
//! `signature` and `hangs`.

use std::collections::BTreeMap;

use nmiscope_machine::VirtualAddress;
use nmiscope_report::Frame;
use nmiscope_symbolizer::ProgramCounter;

use super::Resolver;
use crate::hang::{CpuSamples, SampledFrame};

/// Samples of a detection with names: by CPU, the stacks of all moments.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<u32, Vec<Vec<Frame>>>);

impl Samples {
    /// Looks up the addresses of samples.
    pub fn new(samples: &[CpuSamples], resolver: &Resolver<'_>) -> Self {
        let named = |samples: &CpuSamples| samples.stacks(|frame| named(frame, resolver));
        Self(samples.iter().map(|samples| (samples.cpu, named(samples))).collect())
    }

    /// Returns the stacks of a CPU, one for each sample.
    pub fn stacks_of(&self, cpu: u32) -> impl Iterator<Item = &[Frame]> {
        self.0.get(&cpu).into_iter().flatten().map(Vec::as_slice)
    }
}

fn named(frame: SampledFrame, resolver: &Resolver<'_>) -> Frame {
    let address = VirtualAddress(frame.at);
    let counter = match frame.interrupted {
        true => ProgramCounter::Interrupted(address),
        false => ProgramCounter::Return(address),
    };
    resolver.frame(counter, true)
}

/// Item on a stack: a function or an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item<T> {
    /// The function's name, or the address.
    pub value: T,
    /// True if the next instruction may be in another function: this one is inlined into the interrupted
    /// function.
    pub fleeting: bool,
}

/// Share of the moments at which a stable item is on the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// More than nine tenths, for a CPU that never returns. Its loop is always there, and a tenth is left
    /// for failed samples.
    NearlyAll,
    /// More than a third, for a CPU that returns to its main loop, which alone is always there. The
    /// function that it hangs in takes half of its time or more, and the functions called from there
    /// seldom so much.
    Third,
}

impl Share {
    fn is_reached_by(self, seen: usize, all: usize) -> bool {
        match self {
            Self::NearlyAll => seen * 10 > all * 9,
            Self::Third => seen * 3 > all,
        }
    }
}

/// Returns the items on more than `share` of the stacks, in the order of the stacks; a fleeting item must
/// be on nearly all of them. No stack has an item twice.
///
/// A small loop may be in each of two inlined functions for half of the time, and the more frequent one
/// would be chance. A function that the loop itself is inlined into is always there.
pub fn stable_items<T: Ord + Copy>(stacks: &[Vec<Item<T>>], share: Share) -> Vec<T> {
    if let [stack] = stacks {
        return stack.iter().map(|item| item.value).collect();
    }
    let mut seen: BTreeMap<T, Seen> = BTreeMap::new();
    for (moment, stack) in stacks.iter().enumerate() {
        for (place, item) in stack.iter().enumerate() {
            let seen = seen.entry(item.value).or_insert_with(|| Seen::nowhere(stacks.len()));
            seen.places[moment] = Some(place);
            seen.fleeting += usize::from(item.fleeting);
        }
    }
    seen.retain(|_, seen| seen.stays(share));
    // Two items on one stack show which is further in.
    let depth = |inner: &Seen| seen.values().filter(|other| other.is_mostly_inside(inner)).count();
    let mut stable: Vec<(usize, T)> =
        seen.iter().map(|(&value, places)| (depth(places), value)).collect();
    stable.sort_unstable();
    stable.into_iter().map(|(_, value)| value).collect()
}

/// Positions of an item on the stacks.
struct Seen {
    /// Distances from the inner end, by moment; `None` where the item is not on the stack.
    places: Vec<Option<usize>>,
    /// The number of moments at which it was fleeting.
    fleeting: usize,
}

impl Seen {
    fn nowhere(moments: usize) -> Self {
        Self { places: vec![None; moments], fleeting: 0 }
    }

    fn stays(&self, share: Share) -> bool {
        let (all, seen) = (self.places.len(), self.places.iter().flatten().count());
        share.is_reached_by(seen - self.fleeting, all) || Share::NearlyAll.is_reached_by(seen, all)
    }

    fn is_mostly_inside(&self, other: &Self) -> bool {
        let both = || self.places.iter().zip(&other.places);
        let shared_moments = || both().filter_map(|(one, other)| one.zip(*other));
        shared_moments().filter(|(one, other)| one < other).count() * 2 > shared_moments().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable_items<'a>(stacks: &[&[&'a str]]) -> Vec<&'a str> {
        let item = |what: &&'a str| Item { value: *what, fleeting: false };
        let stacks: Vec<_> = stacks.iter().map(|stack| stack.iter().map(item).collect()).collect();
        super::stable_items(&stacks, Share::Third)
    }

    #[test]
    fn occasional_calls_of_a_loop_are_not_stable() {
        let stacks: [&[&str]; 4] = [
            &["read_clock", "poll", "main"],
            &["poll", "main"],
            &["store", "touch", "poll", "main"],
            &["poll", "main"],
        ];
        assert_eq!(stable_items(&stacks), ["poll", "main"]);
    }

    #[test]
    fn an_item_at_a_third_of_the_moments_is_not_stable() {
        assert_eq!(stable_items(&[&["a", "main"], &["main"], &["main"]]), ["main"]);
        assert_eq!(stable_items(&[&["a", "main"], &["main"], &["a", "main"]]), ["a", "main"]);
    }

    #[test]
    fn the_order_is_that_of_the_stacks_even_if_none_has_all() {
        let stacks: [&[&str]; 3] =
            [&["z_inner", "m_middle"], &["m_middle", "a_outer"], &["z_inner", "a_outer"]];
        assert_eq!(stable_items(&stacks), ["z_inner", "m_middle", "a_outer"]);
    }

    #[test]
    fn stacks_without_common_items_have_no_stable_ones() {
        assert!(stable_items(&[]).is_empty());
        assert!(stable_items(&[&[], &["a"], &["b"]]).is_empty());
    }

    #[test]
    fn a_fleeting_item_must_be_on_nearly_all_stacks() {
        let stacks = |with: usize| -> Vec<Vec<Item<&str>>> {
            let fleeting = |moment| (moment < with).then_some(Item { value: "f", fleeting: true });
            let main = Item { value: "main", fleeting: false };
            (0..20).map(|moment| fleeting(moment).into_iter().chain([main]).collect()).collect()
        };
        let stable_items = |with| super::stable_items(&stacks(with), Share::Third);
        assert_eq!(stable_items(12), ["main"]);
        assert_eq!(stable_items(19), ["f", "main"]);
    }

    #[test]
    fn a_cpu_that_never_returns_has_only_constant_items() {
        let helped =
            [Item { value: "help", fleeting: false }, Item { value: "loop", fleeting: false }];
        let stacks = |with: usize| -> Vec<_> {
            (0..20).map(|moment| helped[usize::from(moment >= with)..].to_vec()).collect()
        };
        assert_eq!(super::stable_items(&stacks(16), Share::NearlyAll), ["loop"]);
        assert_eq!(super::stable_items(&stacks(19), Share::NearlyAll), ["help", "loop"]);
        assert_eq!(super::stable_items(&stacks(16), Share::Third), ["help", "loop"]);
    }
}
