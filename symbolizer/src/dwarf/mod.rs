//! DWARF: from an address to the function, the inlined calls and the line.
//!
//! Owns reading `.debug_info` and `.debug_line`, and all caches of their contents. Knows nothing of symbol
//! tables. Called by `image` through [`DebugInfo::lookup`], and by `types`, which walks the same units for
//! variables and types.
//!
//! All reading is by gimli alone. addr2line would give the same answers (the tests compare with it), but it
//! recurses as deep as the entries nest, which lets an image overflow the stack, and it reads every unit's
//! header and root before the first answer.
//!
//! A lookup reads `.debug_aranges`, then only the units that it names: their entries once, skipping as many
//! as sibling references allow, and their line program once. Units that `.debug_aranges` does not cover are
//! read only for an address that it does not cover either. Caches hold offsets and numbers, no borrowed
//! data.

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

/// The reason why debug information could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DwarfError {
    /// The debug information is inconsistent, or ends early.
    #[error("read {what}")]
    Malformed {
        /// The part of the debug information that was read.
        what: &'static str,
        /// The parser's error for it.
        #[source]
        source: gimli::Error,
    },
    /// A compressed section does not decompress, or claims an absurd size.
    #[error("decompress {section}: {reason}")]
    Compressed {
        /// The name of the section.
        section: &'static str,
        /// The reason why it does not decompress.
        reason: String,
    },
    /// The debug information has more of something than any real image.
    #[error("read {what}: more than any real image has")]
    TooLarge {
        /// The part of the debug information that is too large.
        what: &'static str,
    },
}

/// Maps an error of gimli to one that names the part that was read.
pub(crate) fn read(what: &'static str) -> impl Fn(gimli::Error) -> DwarfError {
    move |source| DwarfError::Malformed { what, source }
}

/// A function at an address. Its name is the linkage name where there is one.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) name: Option<String>,
    pub(crate) location: Option<Location>,
}

/// The functions and lines of a unit, kept after the first lookup in it.
#[derive(Debug)]
struct UnitTables {
    functions: FunctionTable,
    lines: LineTable,
}

/// The debug information of a single file.
#[derive(Debug)]
pub(crate) struct DebugInfo<'data> {
    sections: Sections<'data>,
    /// Address ranges of the image's code, which distinguish real functions from leftovers of dropped ones.
    text: Vec<(u64, u64)>,
    index: UnitIndex,
    tables: RefCell<BTreeMap<usize, Rc<UnitTables>>>,
}

impl<'data> DebugInfo<'data> {
    /// Finds the DWARF in `file`, for an image with the code ranges of `image`. `None` if there is none.
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

    /// Offsets of all unit headers in `.debug_info`.
    pub(crate) fn units(&self, dwarf: &Dwarf<'_>) -> Result<&[usize], DwarfError> {
        self.index.offsets(dwarf)
    }

    /// Reads the unit with its header at `offset`.
    pub(crate) fn unit<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        offset: usize,
    ) -> Result<Unit<'a>, DwarfError> {
        self.index.unit(dwarf, offset)
    }

    /// Reads the unit that holds the entry at `offset`.
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

    /// The functions at an address, innermost inlined call first, the function itself last. Empty where the
    /// debug information does not reach. The last one has no name where there is a line but no function, as
    /// in assembly.
    pub(crate) fn lookup(&self, address: u64) -> Result<Vec<Function>, DwarfError> {
        let dwarf = self.dwarf()?;
        let found = self.first_unit(&dwarf, address, |unit| {
            let found = self.lookup_in(&dwarf, unit, address)?;
            Ok(Some(found).filter(|found| !found.is_empty()))
        })?;
        Ok(found.unwrap_or_default())
    }

    /// The variables in scope at an address, for each function that [`lookup`](Self::lookup) has there and
    /// in the same order. `None` where `lookup` has none, or only a line.
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

    /// The first answer of a unit that claims an address; units from `.debug_aranges` come first.
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
