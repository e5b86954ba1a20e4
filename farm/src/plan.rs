//! The plan of a farm: selects runs of a suite by filter, then partition, then repetition, and orders
//! them.
//!
//! The same suite and options give the same plan on every host and in every version.
//!
//! Owns the order and number of runs; refuses to own the syntax of filters and partitions (`filter`,
//! `partition`). Called by the command line.

use std::num::NonZeroU32;

use super::filter::Filter;
use super::partition::Partition;
use super::suite::SuiteVm;

/// Options that select and order runs.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Filter that selects VMs of the suite.
    pub filter: Filter,
    /// Part of the filtered VMs that runs here; `None` for all of them.
    pub partition: Option<Partition>,
    /// Number of runs of each VM.
    pub repeat: NonZeroU32,
    /// Seed of a random order; `None` for the suite's order, with all VMs once before any runs twice.
    pub seed: Option<u64>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { filter: Filter::All, partition: None, repeat: NonZeroU32::MIN, seed: None }
    }
}

/// The runs of a farm in the order in which they start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Each run as the index of its VM in the suite, from 0, and the number of the run, from 1.
    pub runs: Vec<(usize, u32)>,
    /// Number of VMs that the filter selects and that belong to other parts.
    pub elsewhere: usize,
}

/// Error for a plan with more runs than memory should be spent on: each has an entry in the plan.
#[derive(Debug, thiserror::Error)]
#[error("the plan has {0} runs; at most {MAX_RUNS} are allowed: lower --repeat")]
pub struct TooManyRuns(u64);

const MAX_RUNS: u64 = 1_000_000;

impl Plan {
    /// Plans runs for the VMs of a suite.
    ///
    /// # Errors
    /// Fails if the plan has more than `MAX_RUNS` runs.
    pub fn new(vms: &[SuiteVm], options: &PlanOptions) -> Result<Self, TooManyRuns> {
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

/// Shuffles by Fisher and Yates: from the last to the second, each item swaps with one that is not behind
/// it.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut random = SplitMix64(seed);
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u64 + 1) as usize);
    }
}

/// SplitMix64 by Steele, Lea and Flood (OOPSLA 2014), with the constants of Vigna's splitmix64.c: good
/// enough for an order, and fixed for all versions.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a number below `end`, with a bias of at most `end` in 2^64.
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

    fn vms(text: &str) -> Vec<SuiteVm> {
        let suite = Suite::parse(text.into(), Path::new("suite.toml"), Path::new("/"));
        suite.unwrap_or_else(|error| panic!("{error}")).vms
    }

    fn some() -> Vec<SuiteVm> {
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
    fn plans_filter_then_partition_then_repeat_then_shuffle() {
        /// Row of options, the planned runs, and the number of VMs in other parts.
        type Row = (PlanOptions, &'static [(usize, u32)], usize);
        let rows: [Row; 6] = [
            (PlanOptions::default(), &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)], 0),
            (options("tag(smoke)", "", 1, None), &[(0, 1), (4, 1)], 0),
            // Parts divide what the filter selects.
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
    fn plans_with_too_many_runs_are_refused() {
        let error = Plan::new(&some(), &options("all()", "", 1_000_000_000, None)).unwrap_err();
        assert!(error.to_string().contains("5000000000 runs"), "{error}");
    }

    /// Expected values: from an implementation in another language, after splitmix64.c.
    #[test]
    fn equal_seeds_make_equal_orders() {
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
    fn ten_thousand_vms_are_divided_without_loss() {
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
        fn shuffling_keeps_every_item(length in 0..200usize, seed in any::<u64>()) {
            let mut items: Vec<usize> = (0..length).collect();
            shuffle(&mut items, seed);
            items.sort_unstable();
            prop_assert!(items.into_iter().eq(0..length));
        }
    }
}
