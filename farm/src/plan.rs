//! What of a suite is run here, and in which order: filter, then partition, then repetition, then order.
//!
//! The same suite and the same options make the same plan, everywhere and in every version.

use std::num::NonZeroU32;

use super::filter::Filter;
use super::partition::Partition;
use super::suite::Vm;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Which VMs.
    pub filter: Filter,
    /// Which part of these; `None` for all.
    pub partition: Option<Partition>,
    /// How often each is run.
    pub repeat: NonZeroU32,
    /// In an order that this seed makes; `None` for that of the suite, all VMs once before any twice.
    pub seed: Option<u64>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { filter: Filter::All, partition: None, repeat: NonZeroU32::MIN, seed: None }
    }
}

/// What is run, and in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The runs: which VM of the suite, from 0 on, and which run of it, from 1 on.
    pub runs: Vec<(usize, u32)>,
    /// VMs that the filter takes and that are of another part.
    pub elsewhere: usize,
}

/// More runs than anybody waits for, or has the memory for: each has an entry in the plan.
#[derive(Debug, thiserror::Error)]
#[error("these are {0} runs: {MAX_RUNS} at most, with a smaller --repeat")]
pub struct TooManyRuns(u64);

const MAX_RUNS: u64 = 1_000_000;

impl Plan {
    /// Makes a plan for the VMs of a suite.
    ///
    /// # Errors
    /// It has too many runs.
    pub fn new(vms: &[Vm], options: &PlanOptions) -> Result<Self, TooManyRuns> {
        let filtered: Vec<usize> =
            (0..vms.len()).filter(|&vm| options.filter.matches(&vms[vm])).collect();
        let is_here = |(position, vm): &(usize, &usize)| {
            options.partition.is_none_or(|part| part.contains(*position, &vms[**vm].name))
        };
        let here: Vec<usize> =
            filtered.iter().enumerate().filter(is_here).map(|(_, &vm)| vm).collect();
        let count = here.len() as u64 * u64::from(options.repeat.get());
        if count > MAX_RUNS {
            return Err(TooManyRuns(count));
        }
        let rounds = 1..=options.repeat.get();
        let mut runs: Vec<(usize, u32)> =
            rounds.flat_map(|run| here.iter().map(move |&vm| (vm, run))).collect();
        if let Some(seed) = options.seed {
            shuffle(&mut runs, seed);
        }
        Ok(Self { runs, elsewhere: filtered.len() - here.len() })
    }
}

/// Fisher and Yates: from the last to the second, each changes places with one that is not behind it.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut random = SplitMix64(seed);
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u64 + 1) as usize);
    }
}

/// SplitMix64, by Steele, Lea and Flood (OOPSLA 2014), with the constants of Vigna's splitmix64.c: an
/// order needs no better one, and it is never going to be another one.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`. Some come more often than others, by `end` in 2^64.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::suite::Suite;

    fn vms(text: &str) -> Vec<Vm> {
        let suite = Suite::parse(text.into(), Path::new("suite.toml"), Path::new("/"));
        suite.unwrap_or_else(|error| panic!("{error}")).vms
    }

    fn some() -> Vec<Vm> {
        vms("[[vm]]\nname = 'one'\nimage = 'x'\ntags = ['smoke']\n\
             [[vm]]\nname = 'two'\nimage = 'x'\nmatrix.cpus = [1, 2, 4]\n\
             [[vm]]\nname = 'three'\nimage = 'x'\ntags = ['smoke']\n")
    }

    fn options(filter: &str, partition: &str, repeat: u32, seed: Option<u64>) -> PlanOptions {
        let partition = (!partition.is_empty()).then(|| partition.parse().unwrap());
        let repeat = NonZeroU32::new(repeat).unwrap();
        PlanOptions { filter: filter.parse().unwrap(), partition, repeat, seed }
    }

    #[test]
    fn filter_then_partition_then_repetition_then_order() {
        /// What is asked for, the runs, and how many are elsewhere.
        type Row = (PlanOptions, &'static [(usize, u32)], usize);
        let rows: [Row; 6] = [
            (PlanOptions::default(), &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)], 0),
            (options("tag(smoke)", "", 1, None), &[(0, 1), (4, 1)], 0),
            // The parts are dealt out of what the filter leaves, and not before.
            (options("tag(smoke)", "count:2/2", 1, None), &[(4, 1)], 1),
            (options("one or three", "", 2, None), &[(0, 1), (4, 1), (0, 2), (4, 2)], 0),
            (options("one or three", "count:1/2", 3, Some(7)), &[(0, 3), (0, 1), (0, 2)], 1),
            (options("nothing", "", 2, Some(7)), &[], 0),
        ];
        for (options, runs, elsewhere) in rows {
            let plan = Plan::new(&some(), &options).unwrap();
            assert_eq!(plan.runs, runs, "{options:?}");
            assert_eq!(plan.elsewhere, elsewhere);
        }
    }

    #[test]
    fn more_runs_than_anybody_waits_for_are_refused() {
        let error = Plan::new(&some(), &options("all()", "", 1_000_000_000, None)).unwrap_err();
        assert!(error.to_string().contains("5000000000 runs"), "{error}");
    }

    /// From an implementation in another language, after splitmix64.c.
    #[test]
    fn a_seed_always_makes_the_same_order() {
        let mut random = SplitMix64(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        let wanted =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(first, wanted);
        let rows = [(42, [4, 3, 2, 0, 7, 6, 1, 5]), (43, [1, 7, 3, 0, 6, 2, 4, 5])];
        for (seed, wanted) in rows {
            let mut items: Vec<u32> = (0..8).collect();
            shuffle(&mut items, seed);
            assert_eq!(items, wanted, "{seed}");
        }
    }

    #[test]
    fn ten_thousand_vms_are_planned() {
        let text: String = (0..10_000)
            .map(|vm| format!("[[vm]]\nname = 'group{}/{vm}'\nimage = 'x'\n", vm % 10))
            .collect();
        let vms = vms(&text);
        let planned = |part| {
            let options = options("name(^group[0-4]/)", &format!("hash:{part}/4"), 2, Some(1));
            Plan::new(&vms, &options).unwrap().runs.len()
        };
        assert_eq!((1..=4).map(planned).sum::<usize>(), 10_000);
    }

    proptest! {
        #[test]
        fn an_order_loses_nothing(length in 0..200usize, seed in any::<u64>()) {
            let mut items: Vec<usize> = (0..length).collect();
            shuffle(&mut items, seed);
            items.sort_unstable();
            prop_assert!(items.into_iter().eq(0..length));
        }
    }
}
