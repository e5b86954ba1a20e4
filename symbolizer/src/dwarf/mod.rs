//! DWARF: from an address to the function, the inlined calls and the line.
//!
//! Owns reading `.debug_info` and `.debug_line` and every cache of what was read. Knows nothing of
//! symbol tables. Called by `image` through [`DebugInfo::lookup`], and by `types`, which walks the
//! same units for other things.
//!
//! The work is done with gimli alone. addr2line would give the same answers (the tests compare with
//! it), but it recurses as deep as the entries nest, which lets an image overflow the stack, and it
//! reads every unit's header and root before the first answer.
//!
//! A lookup reads `.debug_aranges`, then only the units that it names: their entries once, and of
//! those as few as can be told from their siblings; their line program once. Only for an address
//! that it does not know are the units asked that it does not know either. What is kept holds
//! offsets and numbers, no borrowed data.

mod entries;
mod files;
mod functions;
mod lines;
mod scopes;
mod sections;
mod units;
mod walk;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::elf::{Elf, contains};
use crate::source::Location;

pub(crate) use entries::{Budget, Entry, Unit, Value, follow, reference, string};
use functions::{FunctionTable, inlined_calls};
use lines::LineTable;
pub(crate) use scopes::{Scope, Scopes};
use sections::Sections;
pub(crate) use sections::{Dwarf, Section, Slice, inflate};
use units::UnitIndex;

/// Why debug information could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DwarfError {
    /// It contradicts itself or ends early.
    #[error("read {what}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: gimli::Error,
    },
    /// A compressed section does not decompress, or claims an absurd size.
    #[error("decompress {section}: {reason}")]
    Compressed {
        /// The section.
        section: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// More of something than any real image has.
    #[error("read {what}: more than any real image has")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
    },
}

/// Names what was being read when gimli fails.
pub(crate) fn read(what: &'static str) -> impl Fn(gimli::Error) -> DwarfError {
    move |source| DwarfError::Malformed { what, source }
}

/// One function at an address. Names are linkage names where there are any.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) name: Option<String>,
    pub(crate) location: Option<Location>,
}

/// What one unit is known to hold, kept after the first lookup in it.
#[derive(Debug)]
struct UnitTables {
    functions: FunctionTable,
    lines: LineTable,
}

/// The debug information of one file.
#[derive(Debug)]
pub(crate) struct DebugInfo<'data> {
    sections: Sections<'data>,
    /// Where the image has code, which tells leftovers of dropped functions from real ones.
    text: Vec<(u64, u64)>,
    index: UnitIndex,
    tables: RefCell<BTreeMap<usize, Rc<UnitTables>>>,
}

impl<'data> DebugInfo<'data> {
    /// The DWARF in `file`, for an image whose code is where `image` says. `None` if there is none.
    pub(crate) fn find(file: &Elf<'data>, image: &Elf<'_>) -> Option<Self> {
        Some(Self {
            sections: Sections::find(file)?,
            text: image.text().to_vec(),
            index: UnitIndex::default(),
            tables: RefCell::default(),
        })
    }

    pub(crate) fn dwarf(&self) -> Result<Dwarf<'_>, DwarfError> {
        self.sections.dwarf()
    }

    /// Headers of all units, as offsets in `.debug_info`.
    pub(crate) fn units(&self, dwarf: &Dwarf<'_>) -> Result<&[usize], DwarfError> {
        self.index.offsets(dwarf)
    }

    /// The unit with its header at `offset`.
    pub(crate) fn unit<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        offset: usize,
    ) -> Result<Unit<'a>, DwarfError> {
        self.index.unit(dwarf, offset)
    }

    /// The unit that the entry at `offset` is in.
    pub(crate) fn unit_containing<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        offset: usize,
    ) -> Result<Unit<'a>, DwarfError> {
        let units = self.index.offsets(dwarf)?;
        let unit = units[..units.partition_point(|&unit| unit <= offset)].last();
        let unit = unit.ok_or(gimli::Error::NoEntryAtGivenOffset(offset as u64));
        self.index.unit(dwarf, *unit.map_err(read("a reference"))?)
    }

    /// The functions at an address, innermost inlined call first, the function itself last. Empty
    /// where the debug information does not reach. The last one has no name where there is a line
    /// but no function, as in assembly.
    pub(crate) fn lookup(&self, address: u64) -> Result<Vec<Function>, DwarfError> {
        let dwarf = self.dwarf()?;
        let found = self.first_unit(&dwarf, address, |unit| {
            let found = self.lookup_in(&dwarf, unit, address)?;
            Ok(Some(found).filter(|found| !found.is_empty()))
        })?;
        Ok(found.unwrap_or_default())
    }

    /// The variables that are in scope at an address, for each of the functions that
    /// [`lookup`](Self::lookup) has there and in the same order. `None` where it has none, or only
    /// a line.
    pub(crate) fn scopes(
        &self,
        dwarf: &Dwarf<'_>,
        address: u64,
    ) -> Result<Option<Scopes>, DwarfError> {
        let found = self.first_unit(dwarf, address, |offset| {
            let unit = self.index.unit(dwarf, offset)?;
            let tables = self.tables(dwarf, &unit, offset)?;
            match tables.functions.find(dwarf, &unit, self.is_text(), address)? {
                Some(function) => {
                    let scopes = Scopes::read(dwarf, &unit, offset, function, address)?;
                    Ok(Some(Some(scopes)))
                }
                None => Ok(tables.lines.find(dwarf, address).map(|_| None)),
            }
        })?;
        Ok(found.flatten())
    }

    /// The first answer of a unit that claims an address, `.debug_aranges` asked first.
    fn first_unit<T>(
        &self,
        dwarf: &Dwarf<'_>,
        address: u64,
        ask: impl Fn(usize) -> Result<Option<T>, DwarfError>,
    ) -> Result<Option<T>, DwarfError> {
        for unit in self.index.by_aranges(dwarf, address) {
            if let Some(found) = ask(unit)? {
                return Ok(Some(found));
            }
        }
        for unit in self.index.by_unit(dwarf)?.containing(address) {
            if let Some(found) = ask(unit)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn lookup_in(
        &self,
        dwarf: &Dwarf<'_>,
        offset: usize,
        address: u64,
    ) -> Result<Vec<Function>, DwarfError> {
        let unit = self.index.unit(dwarf, offset)?;
        let tables = self.tables(dwarf, &unit, offset)?;
        let mut at = tables.lines.find(dwarf, address);
        let Some(function) = tables.functions.find(dwarf, &unit, self.is_text(), address)? else {
            return Ok(match at {
                None => Vec::new(),
                Some(_) => vec![Function { name: None, location: at }],
            });
        };
        let mut found = Vec::new();
        for call in inlined_calls(dwarf, &unit, function, address)?.into_iter().rev() {
            let name = entries::function_name(self, dwarf, &unit, call.entry)?;
            found.push(Function { name, location: at });
            at = call.call_file.and_then(|file| {
                tables.lines.location(dwarf, file, call.call_line, call.call_column)
            });
        }
        let name = entries::function_name(self, dwarf, &unit, function)?;
        found.push(Function { name, location: at });
        Ok(found)
    }

    fn is_text(&self) -> impl Fn(u64) -> bool {
        |address| contains(&self.text, address)
    }

    fn tables(
        &self,
        dwarf: &Dwarf<'_>,
        unit: &Unit<'_>,
        offset: usize,
    ) -> Result<Rc<UnitTables>, DwarfError> {
        if let Some(tables) = self.tables.borrow().get(&offset) {
            return Ok(Rc::clone(tables));
        }
        let tables = Rc::new(UnitTables {
            functions: FunctionTable::read(dwarf, unit, self.is_text())?,
            lines: LineTable::read(dwarf, unit, self.is_text())?,
        });
        self.tables.borrow_mut().insert(offset, Rc::clone(&tables));
        Ok(tables)
    }
}
