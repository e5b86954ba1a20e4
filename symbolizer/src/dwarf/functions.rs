//! The functions of a unit and the calls that the compiler inlined into them.
//!
//! Owns finding the entry of the function that holds an address, and the chain of inlined calls below it.
//! Iterative throughout: the depth of a hostile tree costs time, never stack. Called by
//! [`DebugInfo`](super::DebugInfo).

use std::cell::OnceCell;

use gimli::{Abbreviation, AttributeValue, EntriesRaw, UnitOffset, UnitRef};

use super::entries::{Ranges, Unit, cost_of_skipping};
use super::sections::Slice;
use super::skim::{Skim, Wanted};
use super::walk::Walk;
use super::work::{Budget, Work};
use super::{Dwarf, DwarfError, read};
use crate::ranges::RangeMap;

/// Deepest chain of inlined calls at one address. Real ones stay below 50.
const MAX_INLINE_DEPTH: usize = 256;
/// Address ranges that a lookup, and a unit's function table, may read.
const MAX_RANGES: u64 = 1 << 20;

/// Functions of a unit: address ranges to entries, without lifetimes.
#[derive(Debug)]
pub(crate) struct FunctionTable {
    /// Functions found without reading the children of types and functions that have a sibling reference.
    outer: RangeMap<usize>,
    /// All functions, made at the first address that `outer` does not hold. `None` if `outer` is complete.
    all: Option<OnceCell<Result<RangeMap<usize>, DwarfError>>>,
}

/// An inlined call: the entry of the call, and the place that it was called from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InlinedCall {
    pub(crate) entry: UnitOffset,
    depth: isize,
    /// The file number in the unit's line table; `None` if it is not known.
    pub(crate) call_file: Option<u64>,
    /// The line of the call; 0 if it is not known.
    pub(crate) call_line: u32,
    /// The column of the call; 0 if it is not known.
    pub(crate) call_column: u32,
}

impl FunctionTable {
    /// Passes over the entries of a unit, as few as sibling references allow.
    pub(crate) fn read<'a>(
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        is_text: impl Fn(u64) -> bool,
    ) -> Result<Self, DwarfError> {
        let (outer, jumped) = functions(dwarf, unit, false, is_text)?;
        Ok(Self { outer, all: jumped.then(OnceCell::new) })
    }

    /// The function that holds an address. `unit` and `is_text` must be the ones that the table was made
    /// with.
    pub(crate) fn find<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        is_text: impl Fn(u64) -> bool,
        address: u64,
    ) -> Result<Option<UnitOffset>, DwarfError> {
        let mut found = self.outer.containing(address).next();
        if let (None, Some(all)) = (found, &self.all) {
            let all = all.get_or_init(|| Ok(functions(dwarf, unit, true, is_text)?.0));
            found = all.as_ref().map_err(Clone::clone)?.containing(address).next();
        }
        Ok(found.map(UnitOffset))
    }

    /// Bytes of memory that the table takes, or is about to take.
    pub(super) fn bytes(&self) -> usize {
        self.outer.bytes() * if self.all.is_some() { 2 } else { 1 }
    }
}

/// Finds the functions of a unit, and whether some may have been skipped: without `nested`, the children of
/// types and functions are skipped where their siblings are known. Ranges that start outside `is_text` are
/// leftovers of functions that the linker dropped.
fn functions<'a>(
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    nested: bool,
    is_text: impl Fn(u64) -> bool,
) -> Result<(RangeMap<usize>, bool), DwarfError> {
    let dwarf = unit.sections(dwarf);
    let work = dwarf.work();
    let unit = UnitRef::new(dwarf, unit);
    let mut budget = Budget::new(work, "the address ranges of a unit's functions", MAX_RANGES);
    let mut found = Vec::new();
    let mut jumped = false;
    let mut skim = Skim::new(dwarf, unit.unit, if nested { wanted_of_all } else { wanted });
    while let Some(offset) = skim.next()? {
        let mut walk = Walk::new(unit, work, Some(offset), "a unit")?;
        let Some(entry) = walk.next()? else {
            skim.go_to(walk.offset());
            continue;
        };
        if entry.tag() == gimli::DW_TAG_subprogram && has_code(entry) {
            let mut ranges = Ranges::default();
            let sibling = walk.for_each_attribute(entry, |attribute| {
                ranges.note(unit, attribute.name(), attribute.value())
            })?;
            ranges.for_each(unit, &mut budget, |begin, end| {
                if is_text(begin) {
                    found.push((begin, end, offset.0));
                }
            })?;
            jumped |= !nested && walk.jump(sibling, 0);
        } else if nested || holds_functions(entry) {
            walk.descend(entry)?;
        } else {
            jumped |= walk.pass_over(entry, 0)?;
        }
        skim.go_to(walk.offset());
    }
    Ok((RangeMap::new(found), jumped || skim.has_jumped()))
}

/// The entries that show the functions outside types and other functions.
fn wanted(entry: &Abbreviation) -> Wanted {
    match wanted_of_all(entry) {
        Wanted::Children if !holds_functions(entry) => Wanted::Nothing,
        other => other,
    }
}

/// The entries that show all functions.
fn wanted_of_all(entry: &Abbreviation) -> Wanted {
    match entry.tag() {
        gimli::DW_TAG_subprogram if has_code(entry) => Wanted::Entry,
        _ => Wanted::Children,
    }
}

/// True if an entry gives the addresses of its code; a declaration or the origin of inlined calls does not.
fn has_code(entry: &Abbreviation) -> bool {
    let names = [gimli::DW_AT_low_pc, gimli::DW_AT_ranges];
    entry.attributes().iter().any(|attribute| names.contains(&attribute.name()))
}

/// True if an entry of this kind can hold functions.
fn holds_functions(entry: &Abbreviation) -> bool {
    matches!(
        entry.tag(),
        gimli::DW_TAG_compile_unit
            | gimli::DW_TAG_partial_unit
            | gimli::DW_TAG_namespace
            | gimli::DW_TAG_module
    )
}

/// True if inlined calls can lie below an entry of this kind, other than an inlined call itself.
fn holds_calls(entry: &Abbreviation) -> bool {
    matches!(
        entry.tag(),
        gimli::DW_TAG_lexical_block
            | gimli::DW_TAG_try_block
            | gimli::DW_TAG_catch_block
            | gimli::DW_TAG_with_stmt
    )
}

/// Finds the inlined calls at `address` inside the function at `function`, outermost first.
pub(crate) fn inlined_calls<'a>(
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    function: UnitOffset,
    address: u64,
) -> Result<Vec<InlinedCall>, DwarfError> {
    let dwarf = unit.sections(dwarf);
    let work = dwarf.work();
    let unit = UnitRef::new(dwarf, unit);
    let mut budget = Budget::new(work, "the address ranges of one function", MAX_RANGES);
    let mut chain: Vec<InlinedCall> = Vec::new();
    let mut walk = Walk::new(unit, work, Some(function), "a function")?;
    if let Some(function) = walk.next()? {
        walk.descend(function)?;
    }
    while !walk.is_empty() {
        let (offset, depth) = (walk.offset(), walk.depth());
        // Past the function, or past the innermost call found: its siblings cannot hold the address too.
        if depth <= chain.last().map_or(0, |call| call.depth) {
            break;
        }
        let Some(entry) = walk.next()? else { continue };
        if holds_calls(entry) {
            walk.descend(entry)?;
            continue;
        }
        if entry.tag() != gimli::DW_TAG_inlined_subroutine {
            let jumped = walk.pass_over(entry, depth)?;
            if entry.tag() == gimli::DW_TAG_subprogram && !jumped {
                walk.skip_children(depth)?;
            }
            continue;
        }
        let mut call =
            InlinedCall { entry: offset, depth, call_file: None, call_line: 0, call_column: 0 };
        let mut ranges = Ranges::default();
        let sibling = walk.for_each_attribute(entry, |attribute| {
            call.note(unit, attribute.name(), attribute.value());
            ranges.note(unit, attribute.name(), attribute.value())
        })?;
        if !ranges.contain(unit, &mut budget, address)? {
            if !walk.jump(sibling, depth) {
                walk.skip_children(depth)?;
            }
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
                // File 0 means no file up to version 4, and the primary file from 5 on.
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

/// Skips to the end of the children of an entry at `depth`.
pub(super) fn skip_children(
    work: &Work,
    entries: &mut EntriesRaw<'_, Slice<'_>>,
    depth: isize,
) -> Result<(), DwarfError> {
    while entries.next_depth() > depth && !entries.is_empty() {
        work.spend(1, "a function")?;
        if let Some(abbreviation) = entries.read_abbreviation().map_err(read("a function"))? {
            work.spend(cost_of_skipping(abbreviation), "a function")?;
            entries.skip_attributes(abbreviation.attributes()).map_err(read("a function"))?;
        }
    }
    Ok(())
}
