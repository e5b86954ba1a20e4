//! What stays on a stack that was seen at several moments: the loop that a CPU runs, without what the
//! loop happened to call.
//!
//! The moments besides the backtrace's are addresses; they get their names here.

use std::collections::BTreeMap;

use nmiscope_machine::VirtualAddress;
use nmiscope_report::Frame;
use nmiscope_symbolizer::ProgramCounter;

use super::Resolver;
use crate::hang::{CpuSamples, SampledFrame};

/// The samples of a verdict, with names: by CPU, the stacks of all moments.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<u32, Vec<Vec<Frame>>>);

impl Samples {
    /// Looks their addresses up.
    pub fn new(samples: &[CpuSamples], resolver: &Resolver<'_>) -> Self {
        let named = |samples: &CpuSamples| samples.stacks(|frame| named(frame, resolver));
        Self(samples.iter().map(|samples| (samples.cpu, named(samples))).collect())
    }

    /// The stack of a CPU at the moments of which there are samples.
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

/// Something that is on a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item<T> {
    /// What.
    pub value: T,
    /// The next instruction may be in another one: inlined into the function that was interrupted.
    pub fleeting: bool,
}

/// For how much of the time something is on a stack that stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// More than nine tenths: for a CPU that never comes back. The loop that it is in is there
    /// always, and the rest is for a look that goes wrong.
    NearlyAll,
    /// More than a third: for a CPU that comes back to its main loop, where nothing else is there
    /// always. What it is about takes half of its time and more, and what that calls seldom so much.
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

/// What is on more than that share of the stacks, in their order, and of what is fleeting, what is on
/// nearly all. In none of them is anything twice.
///
/// A small loop may well be in each of two inlined functions for half of the time, and then whether
/// that is most of it would be a toss of a coin. One that the loop itself is inlined with is there
/// always.
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
    // Where two of them are on one stack, that says which is further in.
    let depth = |inner: &Seen| seen.values().filter(|other| other.is_mostly_inside(inner)).count();
    let mut stable: Vec<(usize, T)> =
        seen.iter().map(|(&value, places)| (depth(places), value)).collect();
    stable.sort_unstable();
    stable.into_iter().map(|(_, value)| value).collect()
}

/// Where something was seen.
struct Seen {
    /// By moment: how far in from the inner end.
    places: Vec<Option<usize>>,
    /// How often it was fleeting.
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
    fn what_a_loop_calls_now_and_then_is_not_what_it_is() {
        let stacks: [&[&str]; 4] = [
            &["read_clock", "poll", "main"],
            &["poll", "main"],
            &["store", "touch", "poll", "main"],
            &["poll", "main"],
        ];
        assert_eq!(stable_items(&stacks), ["poll", "main"]);
    }

    #[test]
    fn a_third_of_the_moments_is_not_enough() {
        assert_eq!(stable_items(&[&["a", "main"], &["main"], &["main"]]), ["main"]);
        assert_eq!(stable_items(&[&["a", "main"], &["main"], &["a", "main"]]), ["a", "main"]);
    }

    #[test]
    fn the_order_is_that_of_the_stacks_even_where_none_has_all() {
        let stacks: [&[&str]; 3] =
            [&["z_inner", "m_middle"], &["m_middle", "a_outer"], &["z_inner", "a_outer"]];
        assert_eq!(stable_items(&stacks), ["z_inner", "m_middle", "a_outer"]);
    }

    #[test]
    fn of_nothing_there_is_nothing_staying() {
        assert!(stable_items(&[]).is_empty());
        assert!(stable_items(&[&[], &["a"], &["b"]]).is_empty());
    }

    #[test]
    fn what_is_fleeting_has_to_be_there_nearly_always() {
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
    fn of_a_cpu_that_never_comes_back_only_what_it_never_leaves_stays() {
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
