//! The layout of a core: its program headers, and the file offsets of its parts. Pure arithmetic.
//!
//! Each extent of guest-physical memory lies in the file once. Each virtual range that maps part of
//! it becomes a program header with the offset of that part, so that several share their bytes. Memory
//! that no virtual range maps gets a program header without a virtual address. Called by `write`.

use std::collections::BTreeMap;
use std::ops::Range;

use nmiscope_machine::Mapping;

use super::extents::{Extent, Extents};
use super::format::{
    EHDR_BYTES, MAX_SEGMENTS, NO_VIRTUAL, PAGE, PF_RWX, PHDR_BYTES, PT_LOAD, PT_NOTE,
    ProgramHeader, SHDR_BYTES, needs_section,
};

/// An extent of memory, and the file offset of its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub extent: Extent,
    pub offset: u64,
}

/// The layout of a core.
#[derive(Debug)]
pub(super) struct Plan {
    /// Program headers: PT_NOTE, then PT_LOADs by virtual address, those without one last.
    pub headers: Vec<ProgramHeader>,
    /// Extents with their file offsets, in ascending order.
    pub placed: Vec<Placed>,
    /// File offset of the notes.
    pub notes: u64,
    /// Length of the file in bytes.
    pub length: u64,
    /// Number of pieces of views without a program header.
    pub views_left_out: usize,
}

/// Reason why memory cannot be laid out in a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    TooManyExtents,
    TooLarge,
}

impl Plan {
    /// Lays out a core with these extents and views, and `notes_length` bytes of notes.
    ///
    /// # Errors
    /// The extents need too many program headers, or the file would be too large.
    pub(super) fn new(
        extents: &Extents,
        views: &[Mapping],
        notes_length: usize,
    ) -> Result<Self, Refused> {
        // An extent may need a header for the memory before its first view, and one for the memory
        // after each of its views.
        let room = (MAX_SEGMENTS - 1).checked_sub(extents.len()).ok_or(Refused::TooManyExtents)?;
        let (pieces, views_left_out) = pieces(extents, views, room / 2);
        let unmapped = unmapped(extents, &pieces);
        let count = 1 + pieces.len() + unmapped.len();

        let section = if needs_section(count) { SHDR_BYTES } else { 0 };
        let notes = (EHDR_BYTES + count * PHDR_BYTES + section) as u64;
        let mut at = notes + notes_length as u64;
        let mut placed = Vec::with_capacity(extents.len());
        for extent in extents.iter() {
            let skew = extent.start.0 % PAGE;
            let offset = at.checked_next_multiple_of(PAGE).and_then(|at| at.checked_add(skew));
            let offset = offset.ok_or(Refused::TooLarge)?;
            at = offset.checked_add(extent.length).ok_or(Refused::TooLarge)?;
            placed.push(Placed { extent, offset });
        }
        // A file's length is signed.
        if i64::try_from(at).is_err() {
            return Err(Refused::TooLarge);
        }
        let mut headers = vec![note_header(notes, notes_length as u64)];
        headers.extend(pieces.iter().map(|piece| piece.header(&placed)));
        headers.extend(unmapped.iter().map(|piece| piece.header(&placed)));
        Ok(Self { headers, placed, notes, length: at, views_left_out })
    }
}

fn note_header(offset: u64, length: u64) -> ProgramHeader {
    ProgramHeader {
        kind: PT_NOTE,
        flags: 0,
        offset,
        virtual_address: 0,
        physical_address: 0,
        file_size: length,
        memory_size: 0,
        align: 4,
    }
}

/// Part of one extent, which gets a program header.
struct Piece {
    virtual_start: Option<u64>,
    physical: Range<u64>,
}

impl Piece {
    fn header(&self, placed: &[Placed]) -> ProgramHeader {
        let start = self.physical.start;
        let at = placed.partition_point(|placed| placed.extent.start.0 <= start) - 1;
        let within = start - placed[at].extent.start.0;
        let length = self.physical.end - start;
        ProgramHeader {
            kind: PT_LOAD,
            flags: PF_RWX,
            offset: placed[at].offset + within,
            virtual_address: self.virtual_start.unwrap_or(NO_VIRTUAL),
            physical_address: start,
            file_size: length,
            memory_size: length,
            // None is claimed. NO_VIRTUAL is not congruent to a file offset, which an alignment would require; and
            // crash takes a core with an alignment for one of netdump, whose kernels have no KASLR.
            align: 0,
        }
    }
}

/// Cuts the extents into the pieces that views map, by virtual address. Also returns the number of pieces
/// that are left out: those beyond `limit`, and views that are no ranges of pages.
fn pieces(extents: &Extents, views: &[Mapping], limit: usize) -> (Vec<Piece>, usize) {
    let (visible, mut left_out) = visible(views);
    let mut pieces = Vec::new();
    for (virtual_start, view) in visible {
        let physical = view.physical..view.physical + view.length;
        for part in extents.within(physical) {
            if pieces.len() == limit {
                left_out += 1;
                break;
            }
            let virtual_start = Some(virtual_start + (part.start - view.physical));
            pieces.push(Piece { virtual_start, physical: part });
        }
    }
    (pieces, left_out)
}

/// Physical memory at a virtual address, which is the key of its map.
#[derive(Clone, Copy)]
struct Visible {
    physical: u64,
    length: u64,
}

/// Removes overlaps from views: the first view of a virtual address takes precedence, since a core has one
/// address space. Also returns the number of views that are left out.
fn visible(views: &[Mapping]) -> (BTreeMap<u64, Visible>, usize) {
    let mut visible = BTreeMap::new();
    let mut left_out = 0;
    for view in views {
        let (start, physical) = (view.virtual_start.0, view.physical_start.0);
        let fits = end(start, view.length) <= 1 << 64 && end(physical, view.length) < 1 << 64;
        if view.length == 0 || !fits || start % PAGE != physical % PAGE {
            left_out += 1;
            continue;
        }
        for gap in gaps(&visible, start, view.length) {
            let at = gap.start as u64;
            let length = (gap.end - gap.start) as u64;
            visible.insert(at, Visible { physical: physical + (at - start), length });
        }
    }
    (visible, left_out)
}

/// Returns the exclusive end of a range, which may be 2^64.
fn end(start: u64, length: u64) -> u128 {
    u128::from(start) + u128::from(length)
}

/// Returns the parts of a virtual range at which no memory is visible yet.
fn gaps(visible: &BTreeMap<u64, Visible>, start: u64, length: u64) -> Vec<Range<u128>> {
    let whole = u128::from(start)..end(start, length);
    let before = visible.range(..start).next_back();
    let inside = visible.range(start..).take_while(|&(&at, _)| u128::from(at) < whole.end);
    let mut gaps = Vec::new();
    let mut at = whole.start;
    for (&taken, view) in before.into_iter().chain(inside) {
        gaps.push(at..u128::from(taken));
        at = at.max(end(taken, view.length));
    }
    gaps.push(at..whole.end);
    gaps.retain(|gap| !gap.is_empty());
    gaps
}

/// Returns the parts of the extents that no piece maps.
fn unmapped(extents: &Extents, pieces: &[Piece]) -> Vec<Piece> {
    let mut shown: Vec<&Range<u64>> = pieces.iter().map(|piece| &piece.physical).collect();
    shown.sort_unstable_by_key(|range| range.start);
    let mut shown = shown.into_iter().peekable();
    let mut hidden = Vec::new();
    for extent in extents.iter() {
        let end = extent.start.0 + extent.length;
        let mut at = extent.start.0;
        // A piece is part of one extent.
        while let Some(piece) = shown.next_if(|piece| piece.start < end) {
            hidden.push(at..piece.start);
            at = at.max(piece.end);
        }
        hidden.push(at..end);
    }
    let hidden = hidden.into_iter().filter(|range| !range.is_empty());
    hidden.map(|physical| Piece { virtual_start: None, physical }).collect()
}
