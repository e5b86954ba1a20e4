//! The memory that PT_LOADs name, and where in the file its bytes are.
//!
//! Owns ranges, their overlaps and what is wrong with them; refuses to own bytes. Called by `read`.

use std::ops::Range;

use nmiscope_machine::{Mapping, PhysicalAddress, VirtualAddress};

use super::fault::Damage;
use super::format::{NO_VIRTUAL, PT_LOAD, ProgramHeader};

/// The meaning of memory that a segment claims and has no bytes for in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BeyondFile {
    /// Zeros: the gABI's rule, by which makedumpfile leaves out pages of zeros.
    Zero,
    /// Unknown. QEMU clamps `p_filesz` where a mapping of the guest leaves RAM (dump/dump.c,
    /// `get_offset_range`): there is a device, or nothing.
    Unknown,
}

/// Guest-physical memory, and where in the file its first byte is.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) physical: Range<u64>,
    offset: u64,
}

/// The memory that PT_LOADs name. Both lists are sorted and without overlaps.
#[derive(Debug, Clone, Default)]
pub(super) struct Segments {
    pub(super) stored: Vec<Stored>,
    /// Ranges of zeros, which are in no file. Their offset means nothing; where both lists have a
    /// byte, the other list counts.
    pub(super) zeros: Vec<Stored>,
    pub(super) views: Vec<Mapping>,
}

impl Segments {
    /// Collects the segments of a file of that length, and what is wrong with them.
    pub(super) fn read(
        file_length: u64,
        headers: &[ProgramHeader],
        beyond_file: BeyondFile,
        findings: &mut Vec<Damage>,
    ) -> Self {
        let mut stored = Vec::new();
        let mut zeros = Vec::new();
        let mut views = Vec::new();
        let (mut impossible, mut cut, mut expected) = (0, 0, 0);
        for header in headers.iter().filter(|header| header.kind == PT_LOAD) {
            let start = header.physical_address;
            let end = start.checked_add(header.memory_size);
            let in_file = header.offset.checked_add(header.file_size);
            let (Some(end), Some(in_file)) = (end, in_file) else {
                impossible += 1;
                continue;
            };
            if header.file_size > header.memory_size {
                impossible += 1;
                continue;
            }
            if in_file > file_length && header.file_size > 0 {
                cut += 1;
                expected = in_file.max(expected);
            }
            let there = file_length.saturating_sub(header.offset).min(header.file_size);
            stored.push(Stored { physical: start..start + there, offset: header.offset });
            if beyond_file == BeyondFile::Zero {
                zeros.push(Stored { physical: start + header.file_size..end, offset: 0 });
            }
            views.extend(view(header));
        }
        let (stored, contradictory) = without_overlaps(stored);
        let (zeros, _) = without_overlaps(zeros);
        if cut > 0 {
            findings.push(Damage::Truncated { length: file_length, expected, segments: cut });
        }
        if impossible > 0 {
            findings.push(Damage::ImpossibleSegments { count: impossible });
        }
        if contradictory > 0 {
            findings.push(Damage::ContradictorySegments { count: contradictory });
        }
        Self { stored, zeros, views }
    }

    /// How many bytes from `at` on have one source, and which: an offset into the file, or none for
    /// zeros.
    pub(super) fn at(&self, at: u64) -> Option<(u64, Option<u64>)> {
        let after = self.stored.partition_point(|stored| stored.physical.start <= at);
        if let Some(stored) = after.checked_sub(1).map(|before| &self.stored[before])
            && at < stored.physical.end
        {
            let within = at - stored.physical.start;
            return Some((stored.physical.end - at, Some(stored.offset + within)));
        }
        let before =
            self.zeros.partition_point(|zeros| zeros.physical.start <= at).checked_sub(1)?;
        let mut end = self.zeros[before].physical.end;
        if let Some(stored) = self.stored.get(after) {
            end = end.min(stored.physical.start);
        }
        (at < end).then(|| (end - at, None))
    }
}

fn view(header: &ProgramHeader) -> Option<Mapping> {
    let mapped = header.virtual_address != NO_VIRTUAL && header.memory_size > 0;
    mapped.then_some(Mapping {
        virtual_start: VirtualAddress(header.virtual_address),
        physical_start: PhysicalAddress(header.physical_address),
        length: header.memory_size,
    })
}

/// Sorts, and cuts off of each range what one before it has. Also how many differ from the one
/// before about where their bytes are.
fn without_overlaps(mut ranges: Vec<Stored>) -> (Vec<Stored>, usize) {
    ranges.retain(|range| !range.physical.is_empty());
    ranges.sort_by_key(|range| range.physical.start);
    let mut kept: Vec<Stored> = Vec::with_capacity(ranges.len());
    let mut contradictory = 0;
    for range in ranges {
        let Some(last) = kept.last() else {
            kept.push(range);
            continue;
        };
        let overlap = last.physical.end.saturating_sub(range.physical.start);
        if overlap > 0 {
            let same = last.offset.wrapping_sub(last.physical.start)
                == range.offset.wrapping_sub(range.physical.start);
            contradictory += usize::from(!same);
        }
        if overlap < range.physical.end - range.physical.start {
            let physical = range.physical.start + overlap..range.physical.end;
            kept.push(Stored { physical, offset: range.offset + overlap });
        }
    }
    (kept, contradictory)
}
