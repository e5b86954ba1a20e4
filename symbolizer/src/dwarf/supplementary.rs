//! The supplementary file: entries and strings that several images share, as `dwz -m` makes it.
//!
//! Owns its sections and the index of its units (DWARF 5, 7.3.6, and before that `.gnu_debugaltlink`).
//! Refuses to own finding the file. Called by [`DebugInfo`](super::DebugInfo).

use std::rc::Rc;

use super::entries::{Home, Unit};
use super::sections::{FOR_LINES, Sections, Slice};
use super::units::{UnitIndex, UnitList};
use super::{Dwarf, DwarfError, Work};
use crate::elf::Elf;

/// The debug information of a supplementary file.
#[derive(Debug)]
pub(super) struct Supplementary<'data> {
    sections: Sections<'data>,
    index: UnitIndex,
}

impl<'data> Supplementary<'data> {
    /// Finds the debug sections of a file. `None` if it has no `.debug_info`.
    pub(super) fn find(file: &Elf<'data>) -> Option<Self> {
        Some(Self { sections: Sections::find(file)?, index: UnitIndex::default() })
    }

    /// The sections of the file. No code has its entries there, and so no variable a location.
    pub(super) fn sections(&self) -> Result<gimli::Dwarf<Slice<'_>>, DwarfError> {
        self.sections.dwarf(FOR_LINES)
    }

    /// True if a section was not decompressed for want of memory.
    pub(super) fn is_budget_spent(&self) -> bool {
        self.sections.is_budget_spent()
    }

    fn dwarf<'a>(&'a self, work: &'a Work) -> Result<Dwarf<'a>, DwarfError> {
        Ok(Dwarf { sections: self.sections()?, work })
    }

    /// The units of the file.
    pub(super) fn units(&self, work: &Work) -> Result<&UnitList, DwarfError> {
        self.index.units(&self.dwarf(work)?)
    }

    /// Reads the unit with its header at `offset`.
    pub(super) fn unit<'a>(
        &'a self,
        work: &'a Work,
        offset: usize,
    ) -> Result<Unit<'a>, DwarfError> {
        let sections = Rc::new(self.dwarf(work)?);
        let mut unit = self.index.unit(&sections, offset)?;
        unit.home = Home::Supplementary(sections);
        Ok(unit)
    }
}
