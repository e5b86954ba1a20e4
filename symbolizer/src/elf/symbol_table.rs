//! A symbol table as it lies in the file, with the sections that its symbols are in.
//!
//! Owns extended section numbers: a file with more than 65,279 sections has them in a table of their own
//! (System V gABI, chapter 4, "SHT_SYMTAB_SHNDX"). Refuses to own the choice among symbols (`symbols`).
//! Called by `symbols` and `relocatable`.

use object::LittleEndian;
use object::elf::{self, SectionHeader64};
use object::endian::U32;
use object::read::elf::SectionHeader;

use super::ElfSymbol;

const LE: LittleEndian = LittleEndian;

/// The entries of a symbol table, their names, and their extended section numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SymbolTable<'data> {
    pub(crate) symbols: &'data [ElfSymbol],
    pub(crate) names: &'data [u8],
    /// Section numbers by symbol, valid where a symbol's own is SHN_XINDEX. Empty if the file has no such
    /// table.
    extended: &'data [U32<LittleEndian>],
}

impl<'data> SymbolTable<'data> {
    /// Reads the first symbol table of a type (SHT_SYMTAB or SHT_DYNSYM). `None` if the file has none, or a
    /// broken one.
    pub(crate) fn find(
        sections: &'data [SectionHeader64<LittleEndian>],
        kind: elf::SectionType,
        file: &'data [u8],
    ) -> Option<Self> {
        let index = sections.iter().position(|section| section.sh_type(LE) == kind)?;
        Self::at(sections, index, file)
    }

    /// Reads the symbol table in the section with this number. `None` for another or a broken section.
    pub(crate) fn at(
        sections: &'data [SectionHeader64<LittleEndian>],
        index: usize,
        file: &'data [u8],
    ) -> Option<Self> {
        let table = sections.get(index)?;
        let symbols = table.data_as_array(LE, file).ok()?;
        let names = sections.get(table.sh_link(LE) as usize)?.data(LE, file).ok()?;
        let extended = sections.iter().find(|section| {
            section.sh_type(LE) == elf::SHT_SYMTAB_SHNDX && section.sh_link(LE) as usize == index
        });
        let extended = extended.and_then(|section| section.data_as_array(LE, file).ok());
        Some(Self { symbols, names, extended: extended.unwrap_or_default() })
    }

    /// The number of the section that a symbol is in. `None` for a symbol that is in none: an undefined or an
    /// absolute one.
    pub(crate) fn section_of(&self, index: usize) -> Option<usize> {
        let number = self.symbols.get(index)?.st_shndx.get(LE);
        if number == elf::SHN_XINDEX {
            return Some(self.extended.get(index)?.get(LE) as usize);
        }
        number.index().map(usize::from)
    }
}
