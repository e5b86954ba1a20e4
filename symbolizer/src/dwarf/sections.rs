//! The debug sections of one file, decompressed when first needed.
//!
//! Owns the bytes of compressed sections and the bound on their size. Owns no parsing. Called by
//! [`DebugInfo`](super::DebugInfo), which borrows a `gimli::Dwarf` from it for each lookup: that is sixteen
//! slices, and it keeps everything else in this crate free of self-references.

use std::cell::OnceCell;

use gimli::{EndianSlice, LittleEndian, SectionId};
use object::{CompressedData, CompressionFormat};

use super::DwarfError;
use crate::elf::{Elf, SectionData};

pub(crate) type Slice<'a> = EndianSlice<'a, LittleEndian>;
pub(crate) type Dwarf<'a> = gimli::Dwarf<Slice<'a>>;

/// Largest section that is decompressed, in bytes.
const MAX_INFLATED: u64 = 2 << 30;
/// The best compression ratio of deflate (zlib's technical notes: 1032 to 1).
const MAX_ZLIB_RATIO: u64 = 1032;
/// The best compression ratio of zstd: a run-length block makes 128 KiB of 4 bytes.
const MAX_ZSTD_RATIO: u64 = 32 << 10;

/// The sections that are read, in the order of [`Sections::sections`].
const NEEDED: [SectionId; 12] = [
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
];

/// A section of a file, for DWARF and for `call_frames`.
#[derive(Debug)]
pub(crate) struct Section<'data> {
    data: SectionData<'data>,
    inflated: OnceCell<Result<Vec<u8>, String>>,
}

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

    pub(crate) fn dwarf(&self) -> Result<Dwarf<'_>, DwarfError> {
        gimli::Dwarf::load(|id| {
            let index = NEEDED.iter().position(|&needed| needed == id);
            let bytes = match index.and_then(|index| self.sections[index].as_ref()) {
                Some(section) => section.bytes(id.name())?,
                None => &[],
            };
            Ok(EndianSlice::new(bytes, LittleEndian))
        })
    }
}

impl<'data> Section<'data> {
    /// Finds a section by its name. `None` if the file has no such section.
    pub(crate) fn find(elf: &Elf<'data>, name: &str) -> Option<Self> {
        Some(Self { data: elf.section(name)?, inflated: OnceCell::new() })
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
        self.inflated
            .get_or_init(|| inflate(self.data.bytes, format, size))
            .as_deref()
            .map_err(|reason| DwarfError::Compressed { section: name, reason: reason.clone() })
    }
}

/// Decompresses a section, which its header claims to be `size` bytes. Refuses a size that the format
/// cannot make of so few bytes, and one above [`MAX_INFLATED`].
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
    let limit = (data.len() as u64).saturating_mul(ratio).min(MAX_INFLATED);
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
}
