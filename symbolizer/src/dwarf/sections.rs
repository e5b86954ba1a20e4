//! The debug sections of one file, decompressed when first needed.
//!
//! Owns the bytes of compressed sections and the bounds on their size. Owns no parsing. Called by
//! [`DebugInfo`](super::DebugInfo), which borrows a `gimli::Dwarf` from it for each lookup: that is sixteen
//! slices, and it keeps everything else in this crate free of self-references.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use gimli::{EndianSlice, LittleEndian, SectionId};
use object::{CompressedData, CompressionFormat};

use super::DwarfError;
use crate::elf::{Elf, SectionData};

pub(crate) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Largest size of all decompressed sections of a file, in bytes.
const MAX_INFLATED: u64 = 1 << 30;
/// Size in bytes that the decompressed sections of any file may have, however small it is.
const SMALL: u64 = 32 << 20;
/// Bytes of decompressed sections for each byte of the file. Compilers' debug sections shrink to a third,
/// and to a tenth at best.
const EXPANSION: u64 = 32;
/// The best compression ratio of deflate (zlib's technical notes: 1032 to 1).
const MAX_ZLIB_RATIO: u64 = 1032;
/// The best compression ratio of zstd: a run-length block makes 128 KiB of 4 bytes.
const MAX_ZSTD_RATIO: u64 = 32 << 10;

/// The sections that are read, in the order of [`Sections::sections`].
const NEEDED: [SectionId; 13] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugAranges,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugLoc,
    SectionId::DebugLocLists,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
    SectionId::DebugTypes,
];

/// A section of a file, for DWARF and for `call_frames`.
#[derive(Debug)]
pub(crate) struct Section<'data> {
    data: SectionData<'data>,
    budget: InflationBudget,
    inflated: OnceCell<Result<Vec<u8>, Refused>>,
}

/// The reason why a section is not decompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refused {
    /// Decompressing the section would take more memory than the file has left.
    TooLarge,
    Damaged(String),
}

/// A countdown of the memory for the decompressed sections of a file. Its clones count together.
#[derive(Clone, Debug)]
pub(crate) struct InflationBudget(Rc<Cell<u64>>);

impl InflationBudget {
    /// The budget of a file of so many bytes.
    pub(crate) fn for_file(length: usize) -> Self {
        let left = (length as u64).saturating_mul(EXPANSION).saturating_add(SMALL);
        Self(Rc::new(Cell::new(left.min(MAX_INFLATED))))
    }

    /// A budget of so many bytes.
    pub(super) fn limited(bytes: u64) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    /// Memory that is left in the budget, in bytes.
    pub(super) fn left(&self) -> u64 {
        self.0.get()
    }

    /// Gives back bytes that were taken off.
    pub(super) fn give_back(&self, bytes: u64) {
        self.0.set(self.0.get().saturating_add(bytes));
    }

    /// Takes the bytes of a section off the budget. False if fewer are left.
    pub(crate) fn spend(&self, bytes: u64) -> bool {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.unwrap_or(self.0.get()));
        left.is_some()
    }
}

/// The sections of a lookup of functions and lines.
pub(super) const FOR_LINES: fn(SectionId) -> bool =
    |id| !matches!(id, SectionId::DebugLoc | SectionId::DebugLocLists | SectionId::DebugTypes);
/// All sections, with the locations of variables and with type units.
pub(super) const ALL: fn(SectionId) -> bool = |_| true;

#[derive(Debug)]
pub(crate) struct Sections<'data> {
    sections: [Option<Section<'data>>; NEEDED.len()],
}

impl<'data> Sections<'data> {
    /// Finds the debug sections of a file. `None` if it has no `.debug_info`.
    pub(crate) fn find(elf: &Elf<'data>) -> Option<Self> {
        let sections = NEEDED.map(|id| Section::find(elf, id.name()));
        let info = sections[NEEDED.iter().position(|&id| id == SectionId::DebugInfo)?].as_ref()?;
        (!info.data.bytes.is_empty()).then_some(Self { sections })
    }

    /// The sections that are `wanted`; the others are empty, and are not decompressed.
    pub(crate) fn dwarf(
        &self,
        wanted: fn(SectionId) -> bool,
    ) -> Result<gimli::Dwarf<Slice<'_>>, DwarfError> {
        gimli::Dwarf::load(|id| {
            let index = NEEDED.iter().position(|&needed| needed == id && wanted(id));
            let bytes = match index.and_then(|index| self.sections[index].as_ref()) {
                Some(section) => section.bytes(id.name())?,
                None => &[],
            };
            Ok(EndianSlice::new(bytes, LittleEndian))
        })
    }

    /// True if a section was not decompressed for want of memory.
    pub(crate) fn is_budget_spent(&self) -> bool {
        let results = self.sections.iter().flatten().filter_map(|section| section.inflated.get());
        { results }.any(|result| matches!(result, Err(Refused::TooLarge)))
    }
}

impl<'data> Section<'data> {
    /// Finds a section by its name. `None` if the file has no such section.
    pub(crate) fn find(elf: &Elf<'data>, name: &str) -> Option<Self> {
        let budget = elf.inflation_budget().clone();
        Some(Self { data: elf.section(name)?, budget, inflated: OnceCell::new() })
    }

    /// The guest-virtual address of the section as linked; 0 if it is not loaded.
    pub(crate) fn address(&self) -> u64 {
        self.data.address
    }

    /// True if the file has no bytes of the section: a separate debug file only names the loaded ones.
    pub(crate) fn is_empty(&self) -> bool {
        self.data.bytes.is_empty()
    }

    pub(crate) fn bytes(&self, name: &'static str) -> Result<&[u8], DwarfError> {
        let Some((format, size)) = self.data.compression else {
            return Ok(self.data.bytes);
        };
        let inflated = self.inflated.get_or_init(|| {
            if !self.budget.spend(size) {
                return Err(Refused::TooLarge);
            }
            inflate(self.data.bytes, format, size).map_err(Refused::Damaged)
        });
        inflated.as_deref().map_err(|refused| match refused {
            Refused::TooLarge => DwarfError::BudgetSpent { what: name },
            Refused::Damaged(reason) => {
                DwarfError::Compressed { section: name, reason: reason.clone() }
            }
        })
    }
}

/// Decompresses a section, which its header claims to be `size` bytes. Refuses a size that the format
/// cannot make of so few bytes, and contents of another size. The caller has taken `size` off an
/// [`InflationBudget`].
pub(crate) fn inflate(
    data: &[u8],
    format: CompressionFormat,
    size: u64,
) -> Result<Vec<u8>, String> {
    let ratio = match format {
        CompressionFormat::Zlib => MAX_ZLIB_RATIO,
        CompressionFormat::Zstandard => MAX_ZSTD_RATIO,
        _ => return Err("unknown compression format".to_owned()),
    };
    let limit = (data.len() as u64).saturating_mul(ratio);
    if size > limit {
        return Err(format!("{} bytes claim to hold {size}, more than {limit}", data.len()));
    }
    CompressedData { format, data, uncompressed_size: size }
        .decompress()
        .map(std::borrow::Cow::into_owned)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_refused_before_anything_is_allocated() {
        let zlib = CompressionFormat::Zlib;
        assert!(inflate(&[0; 100], zlib, 103_201).is_err_and(|e| e.contains("claim")));
        assert!(inflate(&[0; 100], zlib, u64::MAX).is_err_and(|e| e.contains("claim")));
        assert!(inflate(&[0; 100], CompressionFormat::Unknown, 1).is_err());
        assert!(inflate(&[0; 100], zlib, 100).is_err(), "not a zlib stream");
    }

    #[test]
    fn sections_of_a_file_share_a_budget_that_has_a_bound() {
        let small = InflationBudget::for_file(9 << 10);
        assert!(!small.spend(64 << 20), "as a file of 9 KiB once asked for, many times over");
        assert!(small.clone().spend(SMALL) && !small.spend(1 << 20));
        let kernel = InflationBudget::for_file(90 << 20);
        assert!(kernel.spend(600 << 20), "a distribution's vmlinux");
        assert!(!InflationBudget::for_file(usize::MAX).spend(MAX_INFLATED + 1));
    }
}
