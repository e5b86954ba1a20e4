//! The unit of `.debug_info` that an address or an offset belongs to.
//!
//! Owns three indexes, each made at its first use and free of lifetimes: `.debug_aranges`, which is small
//! and usually enough; the offsets of all units; and the address ranges of the units that `.debug_aranges`
//! does not cover. Also owns the abbreviation tables, which units share. Called by
//! [`DebugInfo`](super::DebugInfo).

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use gimli::{
    Abbreviations, AttributeValue, DebugAddrBase, DebugInfoOffset, DebugLocListsBase,
    DebugRngListsBase, DebugStrOffsetsBase, EndianSlice, LittleEndian, Section, UnitHeader,
    UnitRef, UnitType,
};

use super::entries::{Home, Ranges, Unit, measure_abbreviations, root};
use super::sections::Slice;
use super::work::Budget;
use super::{Dwarf, DwarfError, read};
use crate::ranges::RangeMap;

/// Units that an image may have. A distribution kernel has 2,172.
const MAX_UNITS: usize = 1 << 20;
/// Address ranges that all units together may claim, and that `.debug_aranges` may have.
const MAX_RANGES: u64 = 1 << 22;
/// Work of reading a declaration of an abbreviation table beside that of its bytes: it becomes a part of a tree.
const DECLARATION: u64 = 32;
/// Longest abbreviation table that is read, in bytes. A kernel's have some thousand.
const MAX_TABLE: u64 = 1 << 20;
/// Bytes of `.debug_abbrev` whose tables are kept.
const MAX_TABLES: u64 = 4 << 20;

type Lazy<T> = OnceCell<Result<T, DwarfError>>;

/// Indexes of the units, each identified by the offset of its header in `.debug_info`.
#[derive(Debug, Default)]
pub(crate) struct UnitIndex {
    aranges: OnceCell<Aranges>,
    units: Lazy<UnitList>,
    by_unit: Lazy<UnitRanges>,
    abbreviations: RefCell<AbbreviationTables>,
}

/// The units of a file, up to the first whose header is broken: where the next would begin is not known then.
#[derive(Debug)]
pub(crate) struct UnitList {
    offsets: Vec<usize>,
    error: Option<DwarfError>,
}

impl UnitList {
    /// The list without a unit.
    pub(crate) const EMPTY: Self = Self { offsets: Vec::new(), error: None };

    /// Offsets of the headers of all units that can hold code or types, in the order of the section.
    pub(crate) fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// The reason why the list ends early; `None` if it is whole.
    pub(crate) fn error(&self) -> Option<&DwarfError> {
        self.error.as_ref()
    }
}

/// Address ranges of units, and the reason why some may be missing.
#[derive(Debug)]
pub(crate) struct UnitRanges {
    pub(crate) ranges: RangeMap<usize>,
    /// The first error of a unit that could not be read; `None` if all could.
    pub(crate) error: Option<DwarfError>,
}

/// The parsed contents of `.debug_aranges`.
#[derive(Debug)]
struct Aranges {
    ranges: RangeMap<usize>,
    /// Units that the section covers, also the ones without code, sorted.
    units: Vec<usize>,
}

#[derive(Debug, Default)]
struct AbbreviationTables {
    tables: BTreeMap<usize, Arc<Abbreviations>>,
    /// Bytes of `.debug_abbrev` in `tables`.
    read: u64,
}

impl UnitIndex {
    /// Units that may hold an address according to `.debug_aranges`, the likeliest first.
    pub(crate) fn by_aranges(
        &self,
        dwarf: &Dwarf<'_>,
        address: u64,
    ) -> impl Iterator<Item = usize> {
        self.aranges(dwarf).ranges.containing(address)
    }

    fn aranges(&self, dwarf: &Dwarf<'_>) -> &Aranges {
        self.aranges.get_or_init(|| {
            let mut ranges = Vec::new();
            let mut units = Vec::new();
            let mut headers = dwarf.debug_aranges.headers();
            let mut budget = Budget::new(dwarf.work(), "the address ranges of units", MAX_RANGES);
            // A broken section only costs time: the units have their ranges too.
            while let (Ok(Some(header)), Ok(())) = (headers.next(), budget.spend(1)) {
                let unit = header.debug_info_offset().0;
                let mut is_whole = true;
                let mut entries = header.entries();
                while let Some(entry) = entries.next_raw().transpose() {
                    match entry {
                        Ok(entry) if budget.spend(1).is_ok() => {
                            let range = entries.convert_raw(entry).ok().flatten();
                            let range = range.map(|entry| entry.range());
                            ranges.extend(range.map(|range| (range.begin, range.end, unit)));
                        }
                        _ => {
                            is_whole = false;
                            break;
                        }
                    }
                }
                if is_whole {
                    units.push(unit);
                }
            }
            units.sort_unstable();
            Aranges { ranges: RangeMap::new(ranges), units }
        })
    }

    /// The units of the file. A broken header ends the list, which has the reason.
    pub(crate) fn units(&self, dwarf: &Dwarf<'_>) -> Result<&UnitList, DwarfError> {
        force(&self.units, || {
            let mut found = UnitList::EMPTY;
            let mut units = dwarf.units();
            loop {
                let header = match units.next() {
                    Ok(Some(header)) => header,
                    Ok(None) => break,
                    Err(error) => {
                        found.error = Some(read("a unit header")(error));
                        break;
                    }
                };
                if found.offsets.len() == MAX_UNITS {
                    return Err(DwarfError::TooLarge { what: "the list of units" });
                }
                dwarf.work().spend(1, "the list of units")?;
                if !matches!(header.type_(), UnitType::Type { .. } | UnitType::SplitType { .. }) {
                    found.offsets.extend(header.debug_info_offset().map(|offset| offset.0));
                }
            }
            Ok(found)
        })
    }

    /// The address ranges that units claim themselves, for the units that `.debug_aranges` does not cover;
    /// Rust's compiler emits no `.debug_aranges`, so these are all. Reads the first entry of each.
    pub(crate) fn by_unit(&self, dwarf: &Dwarf<'_>) -> Result<&UnitRanges, DwarfError> {
        force(&self.by_unit, || {
            let mut budget =
                Budget::new(dwarf.work(), "the address ranges of the units", MAX_RANGES);
            let mut found = Vec::new();
            let known = &self.aranges(dwarf).units;
            let units = self.units(dwarf)?;
            let mut broken = units.error.clone();
            for &offset in units.offsets() {
                if known.binary_search(&offset).is_ok() {
                    continue;
                }
                // A broken unit is no reason to lose the others.
                match self.add_ranges(dwarf, offset, &mut budget, &mut found) {
                    Err(error) if error.is_budget_spent() => return Err(error),
                    Err(error) => broken = broken.or(Some(error)),
                    Ok(()) => {}
                }
            }
            Ok(UnitRanges { ranges: RangeMap::new(found), error: broken })
        })
    }

    /// Adds the address ranges of the unit at `offset`.
    fn add_ranges(
        &self,
        dwarf: &Dwarf<'_>,
        offset: usize,
        budget: &mut Budget<'_>,
        found: &mut Vec<(u64, u64, usize)>,
    ) -> Result<(), DwarfError> {
        let unit = self.unit(dwarf, offset)?;
        let unit = UnitRef::new(dwarf, &unit);
        let root = root(dwarf.work(), &unit)?;
        let mut ranges = Ranges::default();
        for attribute in root.attrs() {
            ranges.note(unit, attribute.name(), attribute.value())?;
        }
        ranges.for_each(unit, budget, |begin, end| found.push((begin, end, offset)))
    }

    /// Reads the unit whose header is at `offset`, without its name and its line program: most lookups need
    /// neither, and the header of the line program can be longer than all else that they read.
    pub(crate) fn unit<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        offset: usize,
    ) -> Result<Unit<'a>, DwarfError> {
        let header = dwarf.unit_header(DebugInfoOffset(offset)).map_err(read("a unit header"))?;
        self.unit_with(dwarf, header)
    }

    /// Reads the unit with this header like [`unit`](Self::unit).
    pub(super) fn unit_with<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        header: UnitHeader<Slice<'a>>,
    ) -> Result<Unit<'a>, DwarfError> {
        let encoding = header.encoding();
        let file = dwarf.file_type;
        let mut unit = gimli::Unit {
            abbreviations: self.abbreviations(dwarf, header.debug_abbrev_offset().0)?,
            name: None,
            comp_dir: None,
            low_pc: 0,
            str_offsets_base: DebugStrOffsetsBase::default_for_encoding_and_file(encoding, file),
            addr_base: DebugAddrBase(0),
            loclists_base: DebugLocListsBase::default_for_encoding_and_file(encoding, file),
            rnglists_base: DebugRngListsBase::default_for_encoding_and_file(encoding, file),
            line_program: None,
            dwo_id: match header.type_() {
                UnitType::Skeleton(id) | UnitType::SplitCompilation(id) => Some(id),
                _ => None,
            },
            header,
        };
        let root = root(dwarf.work(), &unit)?;
        for attribute in root.attrs() {
            match attribute.value() {
                AttributeValue::DebugStrOffsetsBase(base) => unit.str_offsets_base = base,
                AttributeValue::DebugAddrBase(base) => unit.addr_base = base,
                AttributeValue::DebugLocListsBase(base) => unit.loclists_base = base,
                AttributeValue::DebugRngListsBase(base) => unit.rnglists_base = base,
                AttributeValue::DwoId(id) => unit.dwo_id = Some(id),
                _ => {}
            }
        }
        // Only now: the address may be an index that needs the base. Range lists count from it.
        if let Some(value) = root.attr_value(gimli::DW_AT_low_pc) {
            let address = dwarf.attr_address(&unit, value).map_err(read("an address"))?;
            unit.low_pc = address.unwrap_or(0);
        }
        Ok(Unit { unit, home: Home::Main })
    }

    fn abbreviations(
        &self,
        dwarf: &Dwarf<'_>,
        offset: usize,
    ) -> Result<Arc<Abbreviations>, DwarfError> {
        let mut cache = self.abbreviations.borrow_mut();
        if let Some(table) = cache.tables.get(&offset) {
            return Ok(Arc::clone(table));
        }
        let section = dwarf.debug_abbrev.reader().slice();
        let rest = section.get(offset..).unwrap_or_default();
        let bounded = &rest[..rest.len().min(MAX_TABLE as usize)];
        let table = measure_abbreviations(EndianSlice::new(bounded, LittleEndian));
        let (length, declarations) = table.unwrap_or((bounded.len() as u64, 0));
        dwarf.work().spend(length + DECLARATION * declarations, "an abbreviation table")?;
        if table.is_err() && bounded.len() < rest.len() {
            return Err(DwarfError::TooLarge { what: "an abbreviation table" });
        }
        table.map_err(read("an abbreviation table"))?;
        if cache.read + length > MAX_TABLES {
            *cache = AbbreviationTables::default();
        }
        cache.read += length;
        let table = dwarf
            .debug_abbrev
            .abbreviations(gimli::DebugAbbrevOffset(offset))
            .map_err(read("an abbreviation table"))?;
        let table = Arc::new(table);
        cache.tables.insert(offset, Arc::clone(&table));
        Ok(table)
    }
}

fn force<T>(
    cell: &Lazy<T>,
    make: impl FnOnce() -> Result<T, DwarfError>,
) -> Result<&T, DwarfError> {
    cell.get_or_init(make).as_ref().map_err(Clone::clone)
}
