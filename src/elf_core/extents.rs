//! Sets of guest-physical ranges: the memory that a core holds or should hold.

use std::ops::Range;

use nmiscope_machine::PhysicalAddress;

const PAGE: u64 = 4096;

/// A range of guest-physical memory, not empty and not past 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First guest-physical address of the range.
    pub start: PhysicalAddress,
    /// Length in bytes, not 0.
    pub length: u64,
}

/// A set of guest-physical bytes, as ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extents {
    /// Ranges in ascending order, with exclusive ends.
    ranges: Vec<Range<u64>>,
}

impl Extents {
    /// Creates a set without any bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `length` bytes from `start` on, up to 2^64.
    pub fn insert(&mut self, start: PhysicalAddress, length: u64) {
        let mut new = start.0..start.0.saturating_add(length);
        if new.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|range| range.end < new.start);
        let after = self.ranges.partition_point(|range| range.start <= new.end);
        if let Some(touched) = self.ranges.get(first..after)
            && let (Some(low), Some(high)) = (touched.first(), touched.last())
        {
            new = new.start.min(low.start)..new.end.max(high.end);
        }
        self.ranges.splice(first..after, [new]);
    }

    /// Adds every 4 KiB page that contains one of `length` bytes from `start` on.
    pub fn insert_pages(&mut self, start: PhysicalAddress, length: u64) {
        let end = start.0.saturating_add(length);
        if start.0 < end {
            let first = start.0 & !(PAGE - 1);
            let end = end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
            self.insert(PhysicalAddress(first), end - first);
        }
    }

    /// Removes `length` bytes from `start` on.
    pub fn remove(&mut self, start: PhysicalAddress, length: u64) {
        let hole = start.0..start.0.saturating_add(length);
        let first = self.ranges.partition_point(|range| range.end <= hole.start);
        let after = self.ranges.partition_point(|range| range.start < hole.end);
        if hole.is_empty() || first >= after {
            return;
        }
        let low = self.ranges[first].start..hole.start;
        let high = hole.end..self.ranges[after - 1].end;
        let kept = [low, high].into_iter().filter(|range| !range.is_empty());
        self.ranges.splice(first..after, kept);
    }

    /// Returns true for the empty set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Returns the number of bytes in all ranges.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Iterates over the ranges, in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Extent> + '_ {
        self.ranges.iter().map(|range| Extent {
            start: PhysicalAddress(range.start),
            length: range.end - range.start,
        })
    }

    /// Iterates over the parts of `range` that are in the set, in ascending order.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ranges.partition_point(|held| held.end <= range.start);
        self.ranges[first..]
            .iter()
            .take_while(move |held| held.start < range.end)
            .map(move |held| held.start.max(range.start)..held.end.min(range.end))
    }
}

impl FromIterator<Extent> for Extents {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = Self::new();
        for extent in extents {
            set.insert(extent.start, extent.length);
        }
        set
    }
}
