//! Reading attributes: strings, addresses and address ranges of one DWARF entry.
//!
//! Owns the bounds on the cost of a single attribute. Called by the other modules of `dwarf` and by
//! `types`.

use std::borrow::Cow;
use std::rc::Rc;

use gimli::{AttributeValue, DwAt, Reader, Section, UnitOffset, UnitRef, UnitSectionOffset};

use super::sections::Slice;
use super::work::Budget;
use super::{DebugInfo, Dwarf, DwarfError, Work, read};
use crate::strings::{bounded, string_at};

/// A unit, with the sections that its values refer to.
#[derive(Debug)]
pub(crate) struct Unit<'a> {
    pub(super) unit: gimli::Unit<Slice<'a>>,
    pub(super) home: Home<'a>,
}

/// The file of a unit.
#[derive(Debug)]
pub(super) enum Home<'a> {
    /// The file with the image's debug information.
    Main,
    /// The supplementary file, which several images share.
    Supplementary(Rc<Dwarf<'a>>),
    /// The file with the entries of a skeleton unit.
    Split(Rc<Dwarf<'a>>),
}

impl<'a> Unit<'a> {
    /// The sections of the unit's file; `main` are those of the image's debug information.
    pub(crate) fn sections<'s>(&'s self, main: &'s Dwarf<'a>) -> &'s Dwarf<'a> {
        match &self.home {
            Home::Main => main,
            Home::Supplementary(sections) | Home::Split(sections) => sections,
        }
    }

    /// True if both are the same unit of the same file.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let same_file = match (&self.home, &other.home) {
            (Home::Main, Home::Main) | (Home::Supplementary(_), Home::Supplementary(_)) => true,
            (Home::Split(_), Home::Split(_)) => self.dwo_id == other.dwo_id,
            _ => false,
        };
        // The offset of a type unit may count from itself, and its type has its signature.
        same_file
            && self.header.offset() == other.header.offset()
            && self.header.type_() == other.header.type_()
    }
}

impl<'a> std::ops::Deref for Unit<'a> {
    type Target = gimli::Unit<Slice<'a>>;

    fn deref(&self) -> &Self::Target {
        &self.unit
    }
}

impl std::ops::DerefMut for Unit<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.unit
    }
}

pub(crate) type Value<'a> = AttributeValue<Slice<'a>>;
pub(crate) type Entry<'a> = gimli::DebuggingInformationEntry<Slice<'a>>;

/// References (abstract origin, specification) that are followed to a name.
const MAX_REFERENCES: usize = 16;
/// Bytes of an inline string that are searched for its end in the time of an attribute.
const BYTES_PER_WORK: u64 = 64;

/// Reads a string attribute, bounded. `None` where it is no string, or lies outside its section.
pub(crate) fn string<'a>(
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    value: Value<'a>,
) -> Option<Cow<'a, str>> {
    let main = dwarf;
    let dwarf = unit.sections(main);
    let in_strings = |offset: usize| string_at(dwarf.debug_str.reader().slice(), offset);
    match value {
        AttributeValue::String(text) => Some(bounded(text.slice())),
        AttributeValue::DebugStrRef(offset) => in_strings(offset.0),
        AttributeValue::DebugStrOffsetsIndex(index) => {
            in_strings(dwarf.string_offset(unit, index).ok()?.0)
        }
        AttributeValue::DebugLineStrRef(offset) => {
            string_at(dwarf.debug_line_str.reader().slice(), offset.0)
        }
        AttributeValue::DebugStrRefSup(offset) => {
            string_at(main.sup()?.debug_str.reader().slice(), offset.0)
        }
        _ => None,
    }
}

/// The attributes that give the addresses of an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ranges {
    low: Option<u64>,
    high: Option<High>,
    list: Option<gimli::RangeListsOffset>,
}

#[derive(Clone, Copy, Debug)]
enum High {
    Address(u64),
    Size(u64),
}

impl Ranges {
    /// Takes over an attribute, if it is one of these.
    pub(crate) fn note<'a>(
        &mut self,
        unit: UnitRef<'_, Slice<'a>>,
        name: DwAt,
        value: Value<'a>,
    ) -> Result<(), DwarfError> {
        match name {
            gimli::DW_AT_low_pc => self.low = address(unit, value)?,
            gimli::DW_AT_high_pc => {
                self.high = match address(unit, value)? {
                    Some(end) => Some(High::Address(end)),
                    None => value.udata_value().map(High::Size),
                }
            }
            gimli::DW_AT_ranges => {
                self.list =
                    unit.attr_ranges_offset(value).map_err(read("a range list's offset"))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Calls `each` with every range, begin and exclusive end; empty ranges are skipped.
    pub(crate) fn for_each(
        &self,
        unit: UnitRef<'_, Slice<'_>>,
        budget: &mut Budget<'_>,
        mut each: impl FnMut(u64, u64),
    ) -> Result<(), DwarfError> {
        if let Some(offset) = self.list {
            let mut list = unit.ranges(offset).map_err(read("a range list"))?;
            // Entries without a range, base addresses for example, are work too.
            while let Some(raw) = list.next_raw().map_err(read("a range list"))? {
                budget.spend(1)?;
                let range = list.convert_raw(raw).map_err(read("a range list"))?;
                if let Some(range) = range.filter(|range| range.begin < range.end) {
                    each(range.begin, range.end);
                }
            }
        } else if let (Some(begin), Some(high)) = (self.low, self.high) {
            budget.spend(1)?;
            let end = match high {
                High::Address(end) => end,
                High::Size(size) => begin.saturating_add(size),
            };
            if begin < end {
                each(begin, end);
            }
        }
        Ok(())
    }

    pub(crate) fn contain(
        &self,
        unit: UnitRef<'_, Slice<'_>>,
        budget: &mut Budget<'_>,
        address: u64,
    ) -> Result<bool, DwarfError> {
        let mut found = false;
        self.for_each(unit, budget, |begin, end| found |= (begin..end).contains(&address))?;
        Ok(found)
    }
}

fn address<'a>(unit: UnitRef<'_, Slice<'a>>, value: Value<'a>) -> Result<Option<u64>, DwarfError> {
    unit.attr_address(value).map_err(read("an address"))
}

/// The name of the function that an entry describes: its linkage name, else its plain name, from the entry
/// itself or from the entries that it refers to.
pub(crate) fn function_name<'a>(
    info: &'a DebugInfo<'_>,
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    offset: gimli::UnitOffset,
) -> Result<Option<String>, DwarfError> {
    let mut other: Option<Unit<'a>> = None;
    let mut offset = offset;
    let mut plain = None;
    for _ in 0..MAX_REFERENCES {
        let unit = other.as_ref().unwrap_or(unit);
        let entry = read_entry(dwarf.work(), unit, offset, "a function's entry")?;
        for at in [gimli::DW_AT_linkage_name, gimli::DW_AT_MIPS_linkage_name] {
            if let Some(name) = entry.attr_value(at).and_then(|value| string(dwarf, unit, value)) {
                dwarf.work().spend_text(name.len(), "a function's name")?;
                return Ok(Some(name.into_owned()));
            }
        }
        if plain.is_none() {
            let value = entry.attr_value(gimli::DW_AT_name);
            plain = value.and_then(|value| string(dwarf, unit, value)).map(Cow::into_owned);
            let length = plain.as_ref().map_or(0, String::len);
            dwarf.work().spend_text(length, "a function's name")?;
        }
        match follow(info, dwarf, unit, &entry)? {
            None => break,
            Some((next_unit, next)) => {
                offset = next;
                if let Some(next_unit) = next_unit {
                    other = Some(next_unit);
                }
            }
        }
    }
    Ok(plain)
}

/// Finds an entry's abstract origin or specification: in the same unit, or in the one returned with it.
pub(crate) fn follow<'a>(
    info: &'a DebugInfo<'_>,
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    entry: &Entry<'a>,
) -> Result<Option<(Option<Unit<'a>>, gimli::UnitOffset)>, DwarfError> {
    let value = entry
        .attr_value(gimli::DW_AT_abstract_origin)
        .or_else(|| entry.attr_value(gimli::DW_AT_specification));
    match value {
        Some(value) => reference(info, dwarf, unit, value),
        None => Ok(None),
    }
}

/// Resolves a reference. `None` where it leads into a type unit of a `.dwo` file, or a file that is not
/// available.
pub(crate) fn reference<'a>(
    info: &'a DebugInfo<'_>,
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    value: Value<'a>,
) -> Result<Option<(Option<Unit<'a>>, gimli::UnitOffset)>, DwarfError> {
    match value {
        AttributeValue::UnitRef(offset) => Ok(Some((None, offset))),
        AttributeValue::DebugInfoRef(offset) => {
            if let Some(offset) = UnitSectionOffset(offset.0).to_unit_offset(&unit.header) {
                return Ok(Some((None, offset)));
            }
            let other = match &unit.home {
                Home::Main => info.unit_containing(dwarf, offset.0)?,
                Home::Supplementary(_) => {
                    match info.supplementary_unit_containing(dwarf, offset.0)? {
                        Some(other) => other,
                        None => return Ok(None),
                    }
                }
                // A compiler writes references between units of one `.dwo` file with LTO alone.
                Home::Split(_) => return Ok(None),
            };
            let offset = UnitSectionOffset(offset.0).to_unit_offset(&other.header);
            Ok(offset.map(|offset| (Some(other), offset)))
        }
        AttributeValue::DebugInfoRefSup(offset) => {
            let other = info.supplementary_unit_containing(dwarf, offset.0)?;
            Ok(other.and_then(|other| {
                let offset = UnitSectionOffset(offset.0).to_unit_offset(&other.header)?;
                Some((Some(other), offset))
            }))
        }
        AttributeValue::DebugTypesRef(signature) => {
            // The signature leads to a copy of the unit itself too.
            let Home::Main = unit.home else { return Ok(None) };
            let found = info.type_with_signature(dwarf, signature.0)?;
            Ok(found.map(|(other, offset)| (Some(other), offset)))
        }
        _ => Ok(None),
    }
}

/// Reads the first entry, which describes the unit.
pub(super) fn root<'a>(
    work: &Work,
    unit: &gimli::Unit<Slice<'a>>,
) -> Result<Entry<'a>, DwarfError> {
    read_entry(work, unit, unit.header.root_offset(), "a unit")
}

/// Reads the entry at an offset of a unit; `what` names it for errors.
pub(crate) fn read_entry<'a>(
    work: &Work,
    unit: &gimli::Unit<Slice<'a>>,
    offset: UnitOffset,
    what: &'static str,
) -> Result<Entry<'a>, DwarfError> {
    let entry = unit.entry(offset).map_err(read(what))?;
    let inline = entry.attrs().iter().map(|attribute| match attribute.value() {
        AttributeValue::String(text) => text.len() as u64 / BYTES_PER_WORK,
        _ => 0,
    });
    work.spend(1 + entry.attrs().len() as u64 + inline.sum::<u64>(), what)?;
    Ok(entry)
}

/// The work of skipping an entry, which is less than that of reading its attributes.
pub(crate) fn cost_of_skipping(entry: &gimli::Abbreviation) -> u64 {
    1 + entry.attributes().len() as u64 / 4
}

/// The work of reading an entry's attributes.
pub(crate) fn cost_of_reading(entry: &gimli::Abbreviation) -> u64 {
    1 + entry.attributes().len() as u64
}

/// Measures an abbreviation table, since gimli does not report its size: its bytes and its declarations.
pub(crate) fn measure_abbreviations(table: Slice<'_>) -> gimli::Result<(u64, u64)> {
    let mut rest = table;
    let mut declarations = 0;
    while rest.read_uleb128()? != 0 {
        declarations += 1;
        rest.skip_leb128()?;
        rest.read_u8()?;
        loop {
            let name = rest.read_uleb128()?;
            let form = rest.read_uleb128()?;
            if (name, form) == (0, 0) {
                break;
            }
            if form == u64::from(gimli::DW_FORM_implicit_const.0) {
                rest.skip_leb128()?;
            }
        }
    }
    Ok(((table.len() - rest.len()) as u64, declarations))
}
