//! A sorted map from address ranges to values, ranges allowed to overlap.
//!
//! Owns the search that symbols, units and functions share. Works on the raw numbers that ELF and DWARF
//! hold, in no particular address space, and stays inside this crate.

/// Ranges that a lookup examines. Real tables nest a few levels; a hostile one could make every range
/// overlap every other.
const MAX_CANDIDATES: usize = 1024;

#[derive(Clone, Debug)]
struct Entry<T> {
    begin: u64,
    /// The exclusive end of the range.
    end: u64,
    /// The greatest `end` of this entry and all before it: where a search backwards can stop.
    max_end: u64,
    value: T,
}

/// A map from address ranges to values, built once and then only searched.
#[derive(Clone, Debug)]
pub(crate) struct RangeMap<T> {
    entries: Vec<Entry<T>>,
}

impl<T: Copy + Ord> RangeMap<T> {
    /// Builds the map; empty and backward ranges are left out.
    pub(crate) fn new(ranges: impl IntoIterator<Item = (u64, u64, T)>) -> Self {
        let mut entries: Vec<_> = ranges
            .into_iter()
            .filter(|&(begin, end, _)| begin < end)
            .map(|(begin, end, value)| Entry { begin, end, max_end: end, value })
            .collect();
        // Among ranges of one begin, the shortest comes last and so is found first; among equal ranges, the
        // one with the least value.
        entries.sort_unstable_by(|a, b| (a.begin, b.end, b.value).cmp(&(b.begin, a.end, a.value)));
        let mut max_end = 0;
        for entry in &mut entries {
            max_end = entry.end.max(max_end);
            entry.max_end = max_end;
        }
        Self { entries }
    }

    /// Bytes of memory that the map takes.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<T>>()
    }

    /// The values of the ranges that contain `address`, the latest begin first: for ranges that
    /// nest, innermost first.
    pub(crate) fn containing(&self, address: u64) -> impl Iterator<Item = T> + '_ {
        let after = self.entries.partition_point(|entry| entry.begin <= address);
        self.entries[..after]
            .iter()
            .rev()
            .take_while(move |entry| entry.max_end > address)
            .take(MAX_CANDIDATES)
            .filter(move |entry| entry.end > address)
            .map(|entry| entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_of_nested_ranges_is_found_first() {
        let map = RangeMap::new([(0, 100, 'a'), (10, 20, 'b'), (10, 90, 'c'), (30, 40, 'd')]);
        assert_eq!(map.containing(15).collect::<String>(), "bca");
        assert_eq!(map.containing(35).collect::<String>(), "dca");
        assert_eq!(map.containing(20).collect::<String>(), "ca");
        assert_eq!(map.containing(99).collect::<String>(), "a");
        assert_eq!(map.containing(100).collect::<String>(), "");
    }

    #[test]
    fn the_least_value_wins_among_equal_ranges_in_any_order() {
        for ranges in [[(5, 9, 1), (5, 9, 2)], [(5, 9, 2), (5, 9, 1)]] {
            assert_eq!(RangeMap::new(ranges).containing(7).next(), Some(1));
        }
    }

    #[test]
    fn empty_and_backward_ranges_contain_nothing() {
        let map = RangeMap::new([(5, 5, 'a'), (9, 3, 'b')]);
        assert_eq!(map.containing(5).next(), None);
    }
}
