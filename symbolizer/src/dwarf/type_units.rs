//! Type units: types that lie in units of their own, which other units refer to by signature.
//!
//! Owns the list of a file's type units: those of `.debug_types` (DWARF 4, 7.5.1.2) and those in `.debug_info`
//! (DWARF 5, 7.5.1.3). Refuses those of `.dwo` files. Called by [`DebugInfo`](super::DebugInfo).

use std::cell::OnceCell;

use gimli::{DebugTypes, LittleEndian, Section, UnitHeader, UnitOffset, UnitType};

use super::entries::Unit;
use super::sections::Slice;
use super::units::UnitIndex;
use super::{Dwarf, DwarfError, read};

/// Type units that a file may have. A large C++ program has some hundred thousand.
const MAX_TYPE_UNITS: usize = 1 << 20;

/// The offset of a type unit's header in its section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Info(usize),
    Types(usize),
}

/// The type units of one file by their signatures, without lifetimes.
#[derive(Debug, Default)]
pub(super) struct TypeUnits {
    /// Signatures and places, sorted by signature. Made when the first of them is needed.
    units: OnceCell<Result<Vec<(u64, Place)>, DwarfError>>,
}

impl TypeUnits {
    /// The number of type units.
    pub(super) fn count(&self, dwarf: &Dwarf<'_>) -> Result<usize, DwarfError> {
        self.units(dwarf).map(<[_]>::len)
    }

    /// Reads the type unit with this number, and the offset of its type.
    pub(super) fn unit<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        index: &UnitIndex,
        number: usize,
    ) -> Result<(Unit<'a>, UnitOffset), DwarfError> {
        let error = || read("a type unit")(gimli::Error::NoEntryAtGivenOffset(0));
        let &(_, place) = self.units(dwarf)?.get(number).ok_or_else(error)?;
        let header = header(dwarf, place)?.ok_or_else(error)?;
        let UnitType::Type { type_offset, .. } = header.type_() else { return Err(error()) };
        Ok((index.unit_with(dwarf, header)?, type_offset))
    }

    /// The number of the type unit with this signature. `None` if the file does not have it.
    pub(super) fn number(
        &self,
        dwarf: &Dwarf<'_>,
        signature: u64,
    ) -> Result<Option<usize>, DwarfError> {
        let units = self.units(dwarf)?;
        Ok(units.binary_search_by_key(&signature, |&(signature, _)| signature).ok())
    }

    fn units(&self, dwarf: &Dwarf<'_>) -> Result<&[(u64, Place)], DwarfError> {
        let units = self.units.get_or_init(|| list(dwarf));
        units.as_deref().map_err(Clone::clone)
    }
}

/// Lists the type units of a file. In each section a broken header ends the list.
fn list(dwarf: &Dwarf<'_>) -> Result<Vec<(u64, Place)>, DwarfError> {
    let what = "the list of type units";
    let mut found = Vec::new();
    let mut add = |header: &UnitHeader<Slice<'_>>, place| {
        if let UnitType::Type { type_signature, .. } = header.type_() {
            if found.len() == MAX_TYPE_UNITS {
                return Err(DwarfError::TooLarge { what });
            }
            found.push((type_signature.0, place));
        }
        dwarf.work().spend(1, what)
    };
    let mut units = dwarf.units();
    while let Ok(Some(header)) = units.next() {
        let Some(offset) = header.debug_info_offset() else { break };
        add(&header, Place::Info(offset.0))?;
    }
    let mut units = dwarf.type_units();
    while let Ok(Some(header)) = units.next() {
        let Some(offset) = header.debug_types_offset() else { break };
        add(&header, Place::Types(offset.0))?;
    }
    // The linker keeps one unit of each signature; of several the first counts.
    found.sort_by_key(|&(signature, _)| signature);
    found.dedup_by_key(|&mut (signature, _)| signature);
    Ok(found)
}

/// Reads the header of a type unit. In `.debug_types` its offset counts from itself.
fn header<'a>(
    dwarf: &Dwarf<'a>,
    place: Place,
) -> Result<Option<UnitHeader<Slice<'a>>>, DwarfError> {
    match place {
        Place::Info(offset) => {
            dwarf.unit_header(gimli::DebugInfoOffset(offset)).map(Some).map_err(read("a type unit"))
        }
        Place::Types(offset) => {
            let section = dwarf.debug_types.reader().slice();
            let rest = section.get(offset..).unwrap_or_default();
            DebugTypes::new(rest, LittleEndian).units().next().map_err(read("a type unit"))
        }
    }
}
