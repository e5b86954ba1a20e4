//! The functions of one unit and the calls that the compiler inlined into them.
//!
//! Owns finding the entry of the function that holds an address, and the chain of inlined calls
//! below it. Iterative throughout: the depth of a hostile tree costs time, never stack. Called by
//! [`DebugInfo`](super::DebugInfo).

use gimli::{AttributeValue, EntriesRaw, UnitOffset, UnitRef};

use super::entries::{Budget, Ranges, Unit};
use super::sections::{Dwarf, Slice};
use super::{DwarfError, read};
use crate::ranges::RangeMap;

/// Deepest chain of inlined calls at one address. Real ones stay below 50.
const MAX_INLINE_DEPTH: usize = 256;
/// Address ranges that one lookup, and one unit's function table, may read.
const MAX_RANGES: u64 = 1 << 22;

/// Where the functions of a unit are: address ranges to entries, without lifetimes.
#[derive(Debug)]
pub(crate) struct FunctionTable {
    functions: RangeMap<usize>,
}

/// One call that was inlined: what was called, and from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InlinedCall {
    pub(crate) entry: UnitOffset,
    depth: isize,
    /// The file number in the unit's line table.
    pub(crate) call_file: Option<u64>,
    /// 0 if unknown.
    pub(crate) call_line: u32,
    /// 0 if unknown.
    pub(crate) call_column: u32,
}

impl FunctionTable {
    /// Passes over all entries of a unit. Ranges that start outside `is_text` are leftovers of
    /// functions that the linker dropped.
    pub(crate) fn read<'a>(
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        is_text: impl Fn(u64) -> bool,
    ) -> Result<Self, DwarfError> {
        let unit = UnitRef::new(dwarf, unit);
        let mut budget = Budget::new("the address ranges of a unit's functions", MAX_RANGES);
        let mut found = Vec::new();
        let mut entries = unit.entries_raw(None).map_err(read("a unit"))?;
        while !entries.is_empty() {
            let offset = entries.next_offset();
            let Some(abbreviation) = entries.read_abbreviation().map_err(read("a unit"))? else {
                continue;
            };
            if abbreviation.tag() != gimli::DW_TAG_subprogram {
                entries.skip_attributes(abbreviation.attributes()).map_err(read("a unit"))?;
                continue;
            }
            let mut ranges = Ranges::default();
            for &attribute in abbreviation.attributes() {
                let attribute = entries.read_attribute(attribute).map_err(read("a function"))?;
                ranges.note(unit, attribute.name(), attribute.value())?;
            }
            ranges.for_each(unit, &mut budget, |begin, end| {
                if is_text(begin) {
                    found.push((begin, end, offset.0));
                }
            })?;
        }
        Ok(Self { functions: RangeMap::new(found) })
    }

    pub(crate) fn find(&self, address: u64) -> Option<UnitOffset> {
        self.functions.containing(address).next().map(UnitOffset)
    }
}

/// The inlined calls at `address` inside the function at `function`, outermost first.
pub(crate) fn inlined_calls<'a>(
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    function: UnitOffset,
    address: u64,
) -> Result<Vec<InlinedCall>, DwarfError> {
    let unit = UnitRef::new(dwarf, unit);
    let mut budget = Budget::new("the address ranges of one function", MAX_RANGES);
    let mut chain: Vec<InlinedCall> = Vec::new();
    let mut entries = unit.entries_raw(Some(function)).map_err(read("a function"))?;
    let mut first = true;
    while !entries.is_empty() {
        let depth = entries.next_depth();
        let entry = entries.next_offset();
        // Past the function, or past the innermost call found, whose siblings cannot hold it too.
        if !first && depth <= chain.last().map_or(0, |call| call.depth) {
            break;
        }
        let Some(abbreviation) = entries.read_abbreviation().map_err(read("a function"))? else {
            continue;
        };
        let is_call = abbreviation.tag() == gimli::DW_TAG_inlined_subroutine;
        if !is_call {
            entries.skip_attributes(abbreviation.attributes()).map_err(read("a function"))?;
            if abbreviation.tag() == gimli::DW_TAG_subprogram && !first {
                skip_children(&mut entries, depth)?;
            }
            first = false;
            continue;
        }
        first = false;
        let mut call = InlinedCall { entry, depth, call_file: None, call_line: 0, call_column: 0 };
        let mut ranges = Ranges::default();
        for &attribute in abbreviation.attributes() {
            let attribute = entries.read_attribute(attribute).map_err(read("an inlined call"))?;
            call.note(unit, attribute.name(), attribute.value());
            ranges.note(unit, attribute.name(), attribute.value())?;
        }
        if !ranges.contain(unit, &mut budget, address)? {
            skip_children(&mut entries, depth)?;
        } else if chain.len() == MAX_INLINE_DEPTH {
            return Err(DwarfError::TooLarge { what: "a chain of inlined calls" });
        } else {
            chain.push(call);
        }
    }
    Ok(chain)
}

impl InlinedCall {
    fn note(&mut self, unit: UnitRef<'_, Slice<'_>>, name: gimli::DwAt, value: super::Value<'_>) {
        let number = || value.udata_value().and_then(|number| number.try_into().ok()).unwrap_or(0);
        match name {
            gimli::DW_AT_call_line => self.call_line = number(),
            gimli::DW_AT_call_column => self.call_column = number(),
            gimli::DW_AT_call_file => {
                // File 0 means none up to version 4, and the primary file from 5 on.
                self.call_file = match value {
                    AttributeValue::FileIndex(file) if file > 0 || unit.header.version() >= 5 => {
                        Some(file)
                    }
                    _ => None,
                };
            }
            _ => {}
        }
    }
}

/// Reads on to the end of the children of an entry at `depth`.
pub(super) fn skip_children(
    entries: &mut EntriesRaw<'_, Slice<'_>>,
    depth: isize,
) -> Result<(), DwarfError> {
    while entries.next_depth() > depth && !entries.is_empty() {
        if let Some(abbreviation) = entries.read_abbreviation().map_err(read("a function"))? {
            entries.skip_attributes(abbreviation.attributes()).map_err(read("a function"))?;
        }
    }
    Ok(())
}
