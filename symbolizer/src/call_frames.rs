//! Call frame information (CFI): the entry of `.eh_frame` or `.debug_frame` that covers an address.
//!
//! Owns finding that entry and evaluating its table up to a row, with the bounds on both. Owns no registers
//! and no stack: `unwind` applies a row to them. Kept by `image`, like symbols and debug information.
//!
//! `.eh_frame` comes with a sorted table in `.eh_frame_hdr` (LSB 5.0, core generic, 10.6.2), which is used
//! in place once it is known to be sorted. An image without the table, and `.debug_frame` (DWARF 5, 6.4.1),
//! which never has it, get an index at the first lookup.

use std::cell::OnceCell;
use std::collections::HashMap;

use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, FrameDescriptionEntry,
    LittleEndian, UnwindContext, UnwindExpression, UnwindOffset, UnwindSection, UnwindTableRow,
};

use crate::dwarf::{DwarfError, Section, Slice, read};
use crate::elf::{Elf, contains};
use crate::ranges::RangeMap;

/// Longest entry that is read, in bytes. Evaluating an entry costs in proportion to its length; real
/// functions take some hundred bytes, and the largest ever seen some thousand.
const MAX_ENTRY: u64 = 64 << 10;

/// Entries of a section that are kept. A kernel has some 60,000.
const MAX_ENTRIES: usize = 1 << 22;

type Cie<'a> = CommonInformationEntry<Slice<'a>>;
type Fde<'a> = FrameDescriptionEntry<Slice<'a>>;
type Context = UnwindContext<usize>;
pub(crate) type Row = UnwindTableRow<usize>;
pub(crate) type RowExpression = UnwindExpression<usize>;

/// The call frame information of an image.
#[derive(Debug)]
pub(crate) struct CallFrames<'data> {
    text: Vec<(u64, u64)>,
    eh_frame: Option<Table<'data>>,
    header: Option<Section<'data>>,
    /// Number of entries in `header`; `None` if it cannot be used.
    header_entries: OnceCell<Option<usize>>,
    debug_frame: Option<Table<'data>>,
    bases: BaseAddresses,
}

#[derive(Debug)]
struct Table<'data> {
    name: &'static str,
    section: Section<'data>,
    index: OnceCell<Index>,
}

/// The entries of a section: address ranges to offsets in it.
#[derive(Debug)]
struct Index {
    entries: RangeMap<usize>,
    /// The reason why the index may be incomplete; `None` if all entries were read.
    fault: Option<DwarfError>,
}

/// A CFI section. The two kinds differ in how they refer to a CIE.
#[derive(Clone, Debug)]
enum Format<'a> {
    Eh(EhFrame<Slice<'a>>),
    Debug(DebugFrame<Slice<'a>>),
}

/// The call frame information of a single function.
#[derive(Debug)]
pub(crate) struct CallFrame<'a> {
    name: &'static str,
    bases: &'a BaseAddresses,
    format: Format<'a>,
    entry: Fde<'a>,
}

impl<'data> CallFrames<'data> {
    /// Finds the CFI for `image`; `separate` is its debug file, which may have a `.debug_frame` that the
    /// image lacks.
    pub(crate) fn find(image: &Elf<'data>, separate: Option<&Elf<'data>>) -> Self {
        let section =
            |file: &Elf<'data>, name| Section::find(file, name).filter(|found| !found.is_empty());
        let table = |name, section| Some(Table { name, section: section?, index: OnceCell::new() });
        let address = |name| image.section(name).map_or(0, |found| found.address);
        let debug_frame =
            section(image, ".debug_frame").or_else(|| section(separate?, ".debug_frame"));
        Self {
            text: image.text().to_vec(),
            eh_frame: table(".eh_frame", section(image, ".eh_frame")),
            header: section(image, ".eh_frame_hdr"),
            header_entries: OnceCell::new(),
            debug_frame: table(".debug_frame", debug_frame),
            bases: BaseAddresses::default()
                .set_eh_frame(address(".eh_frame"))
                .set_text(address(".text")),
        }
    }

    /// Finds the entry that covers an address of the image. `None` where no entry does and the sections are
    /// sound.
    pub(crate) fn covering(&self, address: u64) -> Result<Option<CallFrame<'_>>, DwarfError> {
        // Leftovers of functions that the linker dropped cover addresses outside the code.
        if !contains(&self.text, address) {
            return Ok(None);
        }
        let mut fault = None;
        for table in [&self.eh_frame, &self.debug_frame].into_iter().flatten() {
            match self.covering_in(table, address) {
                Ok(None) => {}
                Ok(Some(found)) => return Ok(Some(found)),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        fault.map_or(Ok(None), Err)
    }

    fn covering_in<'a>(
        &'a self,
        table: &'a Table<'data>,
        address: u64,
    ) -> Result<Option<CallFrame<'a>>, DwarfError> {
        let format = table.format()?;
        let entry = |offset| -> Result<CallFrame<'a>, DwarfError> {
            let bytes = table.section.bytes(table.name)?;
            let entry = match &format {
                Format::Eh(section) => entry(section, bytes, &self.bases, offset),
                Format::Debug(section) => entry(section, bytes, &self.bases, offset),
            };
            let entry = entry.map_err(|error| error.named(table.name))?;
            Ok(CallFrame { name: table.name, bases: &self.bases, format: format.clone(), entry })
        };
        if matches!(format, Format::Eh(_))
            && let Some(offset) = self.by_header(table, address)?
            && let Ok(found) = entry(offset)
            // Otherwise the table may lack the entry: the section itself decides.
            && found.entry.contains(address)
        {
            return Ok(Some(found));
        }
        let index = table.index.get_or_init(|| match &format {
            Format::Eh(section) => Index::build(table, section, &self.bases, &self.text),
            Format::Debug(section) => Index::build(table, section, &self.bases, &self.text),
        });
        match (index.entries.containing(address).next(), &index.fault) {
            (Some(offset), _) => entry(offset).map(Some),
            (None, None) => Ok(None),
            (None, Some(fault)) => Err(fault.clone()),
        }
    }

    /// Looks up the last entry that begins at or before an address in `.eh_frame_hdr`. Returns its offset
    /// in `.eh_frame`.
    fn by_header(
        &self,
        eh_frame: &Table<'data>,
        address: u64,
    ) -> Result<Option<usize>, DwarfError> {
        let Some(header) = &self.header else { return Ok(None) };
        let base = header.address();
        let bytes = header.bytes(".eh_frame_hdr")?;
        let relative = |at: usize| -> Option<u64> {
            let offset = i32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
            Some(base.wrapping_add_signed(i64::from(offset)))
        };
        let begin = |index: usize| relative(12 + 8 * index);
        let count = *self.header_entries.get_or_init(|| {
            // Version 1; the pointer to .eh_frame relative to itself, the count absolute, the table
            // relative to this section, all of 4 bytes: every linker writes this form.
            bytes.starts_with(&[1, 0x1b, 0x03, 0x3b]).then_some(())?;
            (relative(4)?.wrapping_add(4) == eh_frame.section.address()).then_some(())?;
            let count = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?) as usize;
            (count <= bytes.get(12..)?.len() / 8).then_some(())?;
            let sorted = (1..count).all(|index| begin(index - 1) < begin(index));
            sorted.then_some(count)
        });
        let Some(count) = count else { return Ok(None) };
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if begin(middle).is_some_and(|begin| begin <= address) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let found = low.checked_sub(1).and_then(|index| {
            let offset = relative(16 + 8 * index)?.wrapping_sub(eh_frame.section.address());
            usize::try_from(offset).ok()
        });
        Ok(found)
    }
}

impl Table<'_> {
    fn format(&self) -> Result<Format<'_>, DwarfError> {
        let bytes = self.section.bytes(self.name)?;
        Ok(if self.name == ".eh_frame" {
            let mut section = EhFrame::new(bytes, LittleEndian);
            section.set_address_size(8);
            Format::Eh(section)
        } else {
            let mut section = DebugFrame::new(bytes, LittleEndian);
            section.set_address_size(8);
            Format::Debug(section)
        })
    }
}

impl Index {
    /// Reads the section once. A fault in an entry loses that entry, a fault in the chain of entries loses
    /// all that follow.
    fn build<'a, S: UnwindSection<Slice<'a>>>(
        table: &'a Table<'_>,
        section: &S,
        bases: &BaseAddresses,
        text: &[(u64, u64)],
    ) -> Self {
        let bytes = table.section.bytes(table.name).unwrap_or_default();
        let mut cies: HashMap<usize, Option<Cie<'a>>> = HashMap::new();
        // CIEs of a sane file do not overlap. Without this bound, a long one could be read from each of its
        // bytes on.
        let mut left = bytes.len() as u64;
        let mut found = Vec::new();
        let mut fault = None;
        let mut entries = section.entries(bases);
        loop {
            let partial = match entries.next() {
                Ok(None) => break,
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(Some(CieOrFde::Fde(partial))) => partial,
                Err(error) => {
                    fault = Some(EntryError::from(error));
                    break;
                }
            };
            let parsed = partial.parse(|section, bases, offset| {
                let key = UnwindOffset::into(offset);
                let cie = cies.entry(key).or_insert_with(|| {
                    left = left.checked_sub(length(bytes, key)?)?;
                    section.cie_from_offset(bases, offset).ok()
                });
                cie.clone().ok_or(gimli::Error::NotCieId(key as u64))
            });
            match parsed {
                Ok(_) if found.len() == MAX_ENTRIES => {
                    fault = Some(EntryError::TooLarge);
                    break;
                }
                Ok(entry) if contains(text, entry.initial_address()) => {
                    found.push((entry.initial_address(), entry.end_address(), entry.offset()));
                }
                Ok(_) => {}
                Err(error) => fault = fault.or(Some(EntryError::from(error))),
            }
        }
        let fault = fault.map(|error| error.named(table.name));
        Self { entries: RangeMap::new(found), fault }
    }
}

impl<'a> CallFrame<'a> {
    /// Number of bytes that evaluating a row reads at most.
    pub(crate) fn cost(&self) -> u64 {
        (self.entry.entry_len() + self.entry.cie().entry_len()) as u64
    }

    /// Evaluates the row for an address that the entry covers.
    pub(crate) fn row<'c>(
        &self,
        context: &'c mut Context,
        address: u64,
    ) -> Result<&'c Row, DwarfError> {
        let (entry, bases) = (&self.entry, self.bases);
        match &self.format {
            Format::Eh(section) => entry.unwind_info_for_address(section, bases, context, address),
            Format::Debug(section) => {
                entry.unwind_info_for_address(section, bases, context, address)
            }
        }
        .map_err(read(self.name))
    }

    /// The bytes of an expression in a row.
    pub(crate) fn expression(&self, at: &RowExpression) -> Result<Slice<'a>, DwarfError> {
        let expression = match &self.format {
            Format::Eh(section) => at.get(section),
            Format::Debug(section) => at.get(section),
        };
        expression.map(|expression| expression.0).map_err(read(self.name))
    }

    /// True if an interrupt, exception or signal entered the frame's code (`.cfi_signal_frame`): its caller
    /// was interrupted and made no call.
    pub(crate) fn is_signal_frame(&self) -> bool {
        self.entry.is_signal_trampoline()
    }

    /// The register column of the return address; 16 in all code for x86-64.
    pub(crate) fn return_address_column(&self) -> gimli::Register {
        self.entry.cie().return_address_register()
    }
}

/// A fault in a single entry of CFI.
enum EntryError {
    Malformed(gimli::Error),
    TooLarge,
}

impl From<gimli::Error> for EntryError {
    fn from(error: gimli::Error) -> Self {
        Self::Malformed(error)
    }
}

impl EntryError {
    fn named(self, what: &'static str) -> DwarfError {
        match self {
            Self::Malformed(source) => DwarfError::Malformed { what, source },
            Self::TooLarge => DwarfError::TooLarge { what },
        }
    }
}

/// Reads the FDE at an offset, with its CIE.
fn entry<'a, S: UnwindSection<Slice<'a>>>(
    section: &S,
    bytes: &[u8],
    bases: &BaseAddresses,
    offset: usize,
) -> Result<Fde<'a>, EntryError> {
    let check = |offset| match length(bytes, offset) {
        Some(length) if length > MAX_ENTRY => Err(EntryError::TooLarge),
        _ => Ok(()),
    };
    check(offset)?;
    let partial = section.partial_fde_from_offset(bases, S::Offset::from(offset))?;
    check(UnwindOffset::into(partial.cie_offset()))?;
    Ok(partial.parse(S::cie_from_offset)?)
}

/// The length that the entry at an offset claims, in bytes.
fn length(bytes: &[u8], offset: usize) -> Option<u64> {
    let rest = bytes.get(offset..)?;
    match u32::from_le_bytes(*rest.first_chunk()?) {
        u32::MAX => Some(u64::from_le_bytes(*rest.get(4..)?.first_chunk()?)),
        short => Some(u64::from(short)),
    }
}
