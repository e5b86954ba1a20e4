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
    DebugRngListsBase, DebugStrOffsetsBase, EndianSlice, LittleEndian, Section, UnitRef, UnitType,
};

use super::entries::{Home, Ranges, Unit, abbreviations_length, root};
use super::work::Budget;
use super::{Dwarf, DwarfError, read};
use crate::ranges::RangeMap;

/// Units that an image may have. A distribution kernel has 2,172.
const MAX_UNITS: usize = 1 << 20;
/// Address ranges that all units together may claim, and that `.debug_aranges` may have.
const MAX_RANGES: u64 = 1 << 22;
/// Longest abbreviation table that is read, in bytes. A kernel's have some thousand.
const MAX_TABLE: u64 = 1 << 20;
/// Bytes of `.debug_abbrev` whose tables are kept.
const MAX_TABLES: u64 = 4 << 20;

type Lazy<T> = OnceCell<Result<T, DwarfError>>;

/// Indexes of the units, each identified by the offset of its header in `.debug_info`.
#[derive(Debug, Default)]
pub(crate) struct UnitIndex {
    aranges: OnceCell<Aranges>,
    offsets: Lazy<Vec<usize>>,
    by_unit: Lazy<RangeMap<usize>>,
    abbreviations: RefCell<AbbreviationTables>,
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

    /// Offsets of all units that can hold code or types, in the order of the section.
    pub(crate) fn offsets(&self, dwarf: &Dwarf<'_>) -> Result<&[usize], DwarfError> {
        let offsets = force(&self.offsets, || {
            let mut offsets = Vec::new();
            let mut units = dwarf.units();
            while let Some(header) = units.next().map_err(read("a unit header"))? {
                if offsets.len() == MAX_UNITS {
                    return Err(DwarfError::TooLarge { what: "the list of units" });
                }
                dwarf.work().spend(1, "the list of units")?;
                if !matches!(header.type_(), UnitType::Type { .. } | UnitType::SplitType { .. }) {
                    offsets.extend(header.debug_info_offset().map(|offset| offset.0));
                }
            }
            Ok(offsets)
        });
        offsets.map(Vec::as_slice)
    }

    /// The address ranges that units claim themselves, for the units that `.debug_aranges` does not cover;
    /// Rust's compiler emits no `.debug_aranges`, so these are all. Reads the first entry of each.
    pub(crate) fn by_unit(&self, dwarf: &Dwarf<'_>) -> Result<&RangeMap<usize>, DwarfError> {
        force(&self.by_unit, || {
            let mut budget =
                Budget::new(dwarf.work(), "the address ranges of the units", MAX_RANGES);
            let mut found = Vec::new();
            let known = &self.aranges(dwarf).units;
            for &offset in self.offsets(dwarf)? {
                if known.binary_search(&offset).is_ok() {
                    continue;
                }
                // A broken unit is no reason to lose the others; a lookup inside it reports the error.
                let unit = match self.unit(dwarf, offset) {
                    Ok(unit) => unit,
                    Err(error @ DwarfError::BudgetSpent { .. }) => return Err(error),
                    Err(_) => continue,
                };
                let unit = UnitRef::new(dwarf, &unit);
                let root = root(dwarf.work(), &unit)?;
                let mut ranges = Ranges::default();
                for attribute in root.attrs() {
                    ranges.note(unit, attribute.name(), attribute.value())?;
                }
                ranges.for_each(unit, &mut budget, |begin, end| {
                    found.push((begin, end, offset));
                })?;
            }
            Ok(RangeMap::new(found))
        })
    }

    /// Reads the unit whose header is at `offset`, without its name and its line program: most lookups need
    /// neither, and the header of the line program can be longer than all else that they read.
    pub(crate) fn unit<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        offset: usize,
    ) -> Result<Unit<'a>, DwarfError> {
        let header = dwarf.unit_header(DebugInfoOffset(offset)).map_err(read("a unit header"))?;
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
        let length = abbreviations_length(EndianSlice::new(bounded, LittleEndian));
        dwarf.work().spend(length.unwrap_or(bounded.len() as u64), "an abbreviation table")?;
        if length.is_err() && bounded.len() < rest.len() {
            return Err(DwarfError::TooLarge { what: "an abbreviation table" });
        }
        let length = length.map_err(read("an abbreviation table"))?;
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
