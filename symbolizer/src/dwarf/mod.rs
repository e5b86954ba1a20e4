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
//! data. All of it spends from one budget (`work`).

mod entries;
mod files;
mod functions;
mod lines;
mod rows;
mod scopes;
mod sections;
mod skim;
mod split;
mod supplementary;
mod tables;
mod type_units;
mod units;
mod walk;
mod work;

use std::rc::Rc;

use crate::elf::{Elf, contains};
use crate::source::Location;

pub(crate) use entries::{
    Entry, Unit, Value, cost_of_reading, cost_of_skipping, follow, read_entry, reference, string,
};
use functions::{FunctionTable, inlined_calls};
use lines::LineTable;
pub(crate) use scopes::{Scope, Scopes};
use sections::Sections;
pub(crate) use sections::{InflationBudget, Section, Slice, inflate};
use split::SplitUnits;
pub use split::{SharedBytes, SplitFiles, SplitSearch, SplitUnit};
use supplementary::Supplementary;
use tables::{TableCache, UnitTables};
use type_units::TypeUnits;
use units::UnitIndex;
pub(crate) use units::UnitList;
pub(crate) use work::{Budget, Work};

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
    /// Reading on would take more work or memory than the image gets. The input alone does not decide how
    /// much that is.
    #[error("read {what}: the budget is spent")]
    BudgetSpent {
        /// The part of the debug information that was to be read.
        what: &'static str,
    },
}

impl DwarfError {
    /// True if no other unit can be read either, for want of work or memory.
    pub(crate) fn is_budget_spent(&self) -> bool {
        matches!(self, Self::BudgetSpent { .. })
    }
}

/// Maps an error of gimli to one that names the part that was read.
pub(crate) fn read(what: &'static str) -> impl Fn(gimli::Error) -> DwarfError {
    move |source| DwarfError::Malformed { what, source }
}

/// The sections of a file, with the budget for reading them.
#[derive(Debug)]
pub(crate) struct Dwarf<'a> {
    sections: gimli::Dwarf<Slice<'a>>,
    work: &'a Work,
}

impl<'a> std::ops::Deref for Dwarf<'a> {
    type Target = gimli::Dwarf<Slice<'a>>;

    fn deref(&self) -> &Self::Target {
        &self.sections
    }
}

impl<'a> Dwarf<'a> {
    /// The budget of work that all lookups share.
    pub(crate) fn work(&self) -> &'a Work {
        self.work
    }
}

/// A function at an address. Its name is the linkage name where there is one.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) name: Option<String>,
    pub(crate) location: Option<Location>,
}

/// The debug information of a single file.
#[derive(Debug)]
pub(crate) struct DebugInfo<'data> {
    sections: Sections<'data>,
    /// Address ranges of the image's code, which distinguish real functions from leftovers of dropped ones.
    text: Vec<(u64, u64)>,
    index: UnitIndex,
    type_units: TypeUnits,
    tables: TableCache,
    work: Work,
    split: SplitUnits<'data>,
    supplementary: Option<Supplementary<'data>>,
}

/// The place of a unit: the offset of its header in the `.debug_info` of a file. A skeleton unit's place
/// is that of the split unit too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnitAt {
    /// A unit in the file with the image's debug information.
    Main(usize),
    /// A unit in the supplementary file, which several images share.
    Supplementary(usize),
    /// A type unit in the file with the image's debug information, by its number.
    Type(usize),
}

/// The units of a file that does not exist.
static NO_UNITS: UnitList = UnitList::EMPTY;

impl<'data> DebugInfo<'data> {
    /// Finds the DWARF in `file`, for an image with the code ranges of `image`. `None` if there is none.
    pub(crate) fn find(file: &Elf<'data>, image: &Elf<'_>) -> Option<Self> {
        Some(Self {
            sections: Sections::find(file)?,
            text: image.text().to_vec(),
            index: UnitIndex::default(),
            type_units: TypeUnits::default(),
            tables: TableCache::default(),
            work: Work::default(),
            split: SplitUnits::new(None, None),
            supplementary: None,
        })
    }

    /// Adds the files that this debug information refers to.
    #[must_use]
    pub(crate) fn with_files(
        self,
        supplementary: Option<&Elf<'data>>,
        package: Option<&Elf<'data>>,
        files: Option<&'data dyn SplitFiles>,
    ) -> Self {
        let supplementary = supplementary.and_then(Supplementary::find);
        Self { split: SplitUnits::new(package, files), supplementary, ..self }
    }

    /// The sections for lookups of functions and lines.
    pub(crate) fn dwarf(&self) -> Result<Dwarf<'_>, DwarfError> {
        self.dwarf_with(sections::FOR_LINES)
    }

    /// The sections for lookups of variables too: their locations are the larger part in some files.
    pub(crate) fn dwarf_with_locations(&self) -> Result<Dwarf<'_>, DwarfError> {
        self.dwarf_with(sections::ALL)
    }

    fn dwarf_with(&self, wanted: fn(gimli::SectionId) -> bool) -> Result<Dwarf<'_>, DwarfError> {
        let mut sections = self.sections.dwarf(wanted)?;
        if let Some(supplementary) = &self.supplementary {
            sections.set_sup(supplementary.sections()?);
        }
        Ok(Dwarf { sections, work: &self.work })
    }

    /// True if a question was not answered for want of work or memory.
    pub(crate) fn is_budget_spent(&self) -> bool {
        let supplementary = self.supplementary.as_ref();
        self.work.is_spent()
            || self.sections.is_budget_spent()
            || self.split.is_budget_spent()
            || supplementary.is_some_and(Supplementary::is_budget_spent)
    }

    /// The budget of work that all lookups share.
    pub(crate) fn work(&self) -> &Work {
        &self.work
    }

    /// The units of the file with the debug information.
    pub(crate) fn units(&self, dwarf: &Dwarf<'_>) -> Result<&UnitList, DwarfError> {
        self.index.units(dwarf)
    }

    /// The units of the supplementary file; none without such a file.
    pub(crate) fn supplementary_units(&self, dwarf: &Dwarf<'_>) -> Result<&UnitList, DwarfError> {
        match &self.supplementary {
            Some(file) => file.units(dwarf.work()),
            None => Ok(&NO_UNITS),
        }
    }

    /// The number of type units in the file with the debug information.
    pub(crate) fn type_units(&self, dwarf: &Dwarf<'_>) -> Result<usize, DwarfError> {
        self.type_units.count(dwarf)
    }

    /// Reads the type unit with this signature, and the offset of its type. `None` if there is none.
    pub(crate) fn type_with_signature<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        signature: u64,
    ) -> Result<Option<(Unit<'a>, gimli::UnitOffset)>, DwarfError> {
        let number = self.type_units.number(dwarf, signature)?;
        number.map(|number| self.type_units.unit(dwarf, &self.index, number)).transpose()
    }

    /// Reads a unit. For a skeleton unit it is the split unit, if that is available.
    pub(crate) fn unit<'a>(
        &'a self,
        dwarf: &Dwarf<'a>,
        at: UnitAt,
    ) -> Result<Unit<'a>, DwarfError> {
        match at {
            UnitAt::Main(offset) => {
                let unit = self.index.unit(dwarf, offset)?;
                Ok(self.split_unit(dwarf, &unit, offset)?.unwrap_or(unit))
            }
            UnitAt::Supplementary(offset) => match &self.supplementary {
                Some(file) => file.unit(dwarf.work(), offset),
                None => Err(read("a supplementary file")(gimli::Error::NoEntryAtGivenOffset(0))),
            },
            UnitAt::Type(number) => Ok(self.type_units.unit(dwarf, &self.index, number)?.0),
        }
    }

    /// Reads the unit with the entries of the unit at `offset`. `None` if that has them itself, or they
    /// are not available.
    fn split_unit<'a>(
        &'a self,
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        offset: usize,
    ) -> Result<Option<Unit<'a>>, DwarfError> {
        if unit.dwo_id.is_none() {
            return Ok(None);
        }
        let units = self.units(dwarf)?.offsets();
        let Ok(number) = units.binary_search(&offset) else { return Ok(None) };
        self.split.unit(dwarf, unit, number, units.len())
    }

    /// Reads the unit of the supplementary file that holds the entry at `offset`. `None` without such a file.
    pub(crate) fn supplementary_unit_containing<'a>(
        &'a self,
        dwarf: &Dwarf<'a>,
        offset: usize,
    ) -> Result<Option<Unit<'a>>, DwarfError> {
        let Some(file) = &self.supplementary else { return Ok(None) };
        let units = self.supplementary_units(dwarf)?.offsets();
        let Some(&unit) = units[..units.partition_point(|&unit| unit <= offset)].last() else {
            return Ok(None);
        };
        file.unit(dwarf.work(), unit).map(Some)
    }

    /// Reads the unit that holds the entry at `offset`.
    pub(crate) fn unit_containing<'a>(
        &self,
        dwarf: &Dwarf<'a>,
        offset: usize,
    ) -> Result<Unit<'a>, DwarfError> {
        let units = self.units(dwarf)?.offsets();
        let unit = units[..units.partition_point(|&unit| unit <= offset)].last();
        let unit = unit.ok_or(gimli::Error::NoEntryAtGivenOffset(offset as u64));
        self.index.unit(dwarf, *unit.map_err(read("a reference"))?)
    }

    /// The functions at an address, innermost inlined call first, the function itself last. Empty where the
    /// debug information does not reach. The last one has no name where there is a line but no function, as
    /// in assembly.
    pub(crate) fn lookup(&self, address: u64) -> Result<Vec<Function>, DwarfError> {
        self.work.begin();
        let dwarf = self.dwarf()?;
        let found = self.first_unit(&dwarf, address, |unit| {
            let found = self.lookup_in(&dwarf, unit, address)?;
            Ok(Some(found).filter(|found| !found.is_empty()))
        })?;
        Ok(found.unwrap_or_default())
    }

    /// The variables in scope at an address, for each function that [`lookup`](Self::lookup) has there and
    /// in the same order. `None` where `lookup` has none, or only a line.
    pub(crate) fn scopes<'a>(
        &'a self,
        dwarf: &Dwarf<'a>,
        address: u64,
    ) -> Result<Option<Scopes>, DwarfError> {
        self.work.begin();
        let found = self.first_unit(dwarf, address, |offset| {
            let (unit, tables) = self.unit_with_tables(dwarf, offset)?;
            match tables.functions.find(dwarf, &unit, self.is_text(), address)? {
                Some(function) => {
                    let scopes = Scopes::read(dwarf, &unit, offset, function, address)?;
                    Ok(Some(Some(scopes)))
                }
                None => Ok(tables.lines.find(dwarf, address)?.map(|_| None)),
            }
        })?;
        Ok(found.flatten())
    }

    /// The first answer of a unit that claims an address; units from `.debug_aranges` come first. Without an
    /// answer, the first error of a unit that may have had it.
    fn first_unit<T>(
        &self,
        dwarf: &Dwarf<'_>,
        address: u64,
        ask: impl Fn(usize) -> Result<Option<T>, DwarfError>,
    ) -> Result<Option<T>, DwarfError> {
        let mut broken = None;
        let mut first = |units: &mut dyn Iterator<Item = usize>| {
            for unit in units {
                match ask(unit) {
                    Ok(None) => {}
                    Ok(found) => return Ok(found),
                    Err(error) if error.is_budget_spent() => return Err(error),
                    // A broken unit is no reason to lose the others.
                    Err(error) => broken = broken.take().or(Some(error)),
                }
            }
            Ok(None)
        };
        if let Some(found) = first(&mut self.index.by_aranges(dwarf, address))? {
            return Ok(Some(found));
        }
        let by_unit = self.index.by_unit(dwarf)?;
        if let Some(found) = first(&mut by_unit.ranges.containing(address))? {
            return Ok(Some(found));
        }
        broken.or_else(|| by_unit.error.clone()).map_or(Ok(None), Err)
    }

    fn lookup_in<'a>(
        &'a self,
        dwarf: &Dwarf<'a>,
        offset: usize,
        address: u64,
    ) -> Result<Vec<Function>, DwarfError> {
        let (unit, tables) = self.unit_with_tables(dwarf, offset)?;
        let mut at = tables.lines.find(dwarf, address)?;
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
            at = match call.call_file {
                Some(file) => {
                    tables.lines.location(dwarf, file, call.call_line, call.call_column)?
                }
                None => None,
            };
        }
        let name = entries::function_name(self, dwarf, &unit, function)?;
        found.push(Function { name, location: at });
        Ok(found)
    }

    fn is_text(&self) -> impl Fn(u64) -> bool {
        |address| contains(&self.text, address)
    }

    /// Reads the unit at `offset`, which is the split unit of a skeleton, and its tables. A split unit has
    /// its skeleton's line table.
    fn unit_with_tables<'a>(
        &'a self,
        dwarf: &Dwarf<'a>,
        offset: usize,
    ) -> Result<(Unit<'a>, Rc<UnitTables>), DwarfError> {
        let skeleton = self.index.unit(dwarf, offset)?;
        let split = self.split_unit(dwarf, &skeleton, offset)?;
        let tables = self.tables.get(offset, || {
            let unit = split.as_ref().unwrap_or(&skeleton);
            Ok(UnitTables {
                functions: FunctionTable::read(dwarf, unit, self.is_text())?,
                lines: LineTable::read(dwarf, &skeleton, self.is_text())?,
            })
        })?;
        Ok((split.unwrap_or(skeleton), tables))
    }
}
