//! The memory that PT_LOADs name, and the file offsets of its bytes.
//!
//! Owns ranges, their overlaps and the damage to them. Refuses to own bytes. Called by `read`.

use std::ops::Range;

use nmiscope_machine::{Mapping, PhysicalAddress, VirtualAddress};

use super::fault::Damage;
use super::format::{NO_VIRTUAL, PT_LOAD, ProgramHeader};

/// Contents of memory that a segment claims beyond its bytes in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BeyondFile {
    /// Zeros: the gABI's rule, by which makedumpfile leaves out pages of zeros.
    Zero,
    /// Unknown. QEMU clamps `p_filesz` where a mapping of the guest leaves RAM (dump/dump.c,
    /// `get_offset_range`): there is a device, or nothing.
    Unknown,
}

/// A range of guest-physical memory, and the file offset of its first byte.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) physical: Range<u64>,
    offset: u64,
}

/// The memory that PT_LOADs name. `stored` and `zeros` are sorted and have no overlaps.
#[derive(Debug, Clone, Default)]
pub(super) struct Segments {
    pub(super) stored: Vec<Stored>,
    /// Ranges of zeros that are not in the file. Their offset means nothing. `stored` takes precedence
    /// for a byte in both lists.
    pub(super) zeros: Vec<Stored>,
    pub(super) views: Vec<Mapping>,
}

impl Segments {
    /// Collects the segments of a file of this length, and adds their damage to `findings`.
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

    /// Returns the number of bytes from `at` on that lie together, and their file offset, `None` for
    /// zeros. Returns `None` if no segment has the byte at `at`.
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

/// Sorts ranges, and cuts each to the part that no earlier one has. Also returns the number of ranges that
/// have other bytes than the one before for the same memory.
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
