//! Relocatable objects: a kernel module's `.ko` (ET_REL), laid out and relocated as far as symbols
//! and DWARF need it.
//!
//! Owns where each section of a module would lie and the contents of its debug sections once they are
//! relocated; the result is the bytes of an ELF file that reads as if it had been linked, so that nothing
//! else in this crate knows that relocatable files exist. Owns no code relocation: no instruction is
//! patched, and the symbols that a module imports are not resolved. Called by lookups of addresses in
//! modules.
//!
//! The layout follows `layout_sections()` of the kernel's `kernel/module/main.c` (6.1): code before data,
//! and what runs once (`.init*`) behind everything else. The kernel prints the distance from a symbol to
//! the next one as its size, so the order decides whether a printed size matches.

use std::collections::BTreeMap;

use nmiscope_machine::VirtualAddress;
use object::LittleEndian;
use object::elf::{self, Rela64, SectionHeader64};
use object::read::elf::{FileHeader, SectionHeader};

use crate::dwarf::{InflationBudget, inflate};
use crate::elf::{ElfError, ElfSymbol, SymbolTable, ZDEBUG, check_header, compressed, name_of};

const LE: LittleEndian = LittleEndian;
/// The start of the layout: the module mapping space on x86-64 (Documentation/arch/x86/x86_64/mm.rst).
const BASE: u64 = 0xffff_ffff_a000_0000;
/// The start of the layout of sections that a kernel has not loaded, beside those that it has: no module lies in the
/// lower half of the address space.
const UNLOADED_BASE: u64 = 1 << 32;
/// The most that a module may occupy, in bytes. The space has 1520 MiB for all modules.
const MAX_LOADED: u64 = 1 << 30;
/// The largest alignment, a page: no section of a module asks for more.
const MAX_ALIGNMENT: u64 = 1 << 12;

/// Offsets of fields in the structures of an ELF64 file (System V gABI, chapter 4).
mod offset {
    pub(super) const E_TYPE: usize = 16;
    pub(super) const SH_FLAGS: usize = 8;
    pub(super) const SH_ADDR: usize = 16;
    pub(super) const SH_OFFSET: usize = 24;
    pub(super) const SH_SIZE: usize = 32;
    pub(super) const ST_VALUE: usize = 8;
}

/// True when the bytes begin with an ELF header of type ET_REL.
pub fn is_relocatable(file: &[u8]) -> bool {
    check_header(file).is_ok_and(|header| header.e_type(LE) == elf::ET_REL)
}

/// Lays out a module's file as an image for [`Image::parse`](crate::Image::parse): its loaded sections get
/// addresses, its symbols become absolute, and its debug sections are decompressed and relocated where they
/// have relocations.
///
/// Addresses are valid in this layout alone: a running kernel has loaded the module somewhere else.
///
/// # Errors
/// [`ElfError`] when the bytes are no ELF64 x86-64 relocatable object, are cut short, or claim to
/// occupy more than a gigabyte.
pub fn link_module(file: &[u8]) -> Result<Vec<u8>, ElfError> {
    link(file, BASE, &|_| None)
}

/// Lays out a module's file as [`link_module`] does, with sections at the addresses that `address_of` has for their
/// names: those at which a kernel has loaded them. Sections without one are laid out apart from them.
///
/// # Errors
/// The errors are those of [`link_module`].
pub fn link_module_at(
    file: &[u8],
    address_of: &dyn Fn(&[u8]) -> Option<VirtualAddress>,
) -> Result<Vec<u8>, ElfError> {
    link(file, UNLOADED_BASE, address_of)
}

fn link(
    file: &[u8],
    base: u64,
    address_of: &dyn Fn(&[u8]) -> Option<VirtualAddress>,
) -> Result<Vec<u8>, ElfError> {
    let header = check_header(file)?;
    if header.e_type(LE) != elf::ET_REL {
        return Err(ElfError::NotRelocatable { kind: header.e_type(LE).0 });
    }
    let malformed = |what| move |source| ElfError::Malformed { what, source };
    let sections = header.section_headers(LE, file).map_err(malformed("section headers"))?;
    let names = header
        .shstrndx(LE, file)
        .ok()
        .and_then(|index| sections.get(index as usize)?.data(LE, file).ok())
        .unwrap_or_default();
    let mut linker = Linker {
        file,
        sections,
        names,
        // `e_shoff` lies inside the file, or there would be no section headers.
        section_headers: header.e_shoff(LE) as usize,
        addresses: BTreeMap::new(),
        image: file.to_vec(),
        inflation: InflationBudget::for_file(file.len()),
    };
    linker.put(offset::E_TYPE, &elf::ET_EXEC.0.to_le_bytes());
    linker.lay_out(base, address_of)?;
    linker.move_symbols();
    linker.relocate();
    Ok(linker.image)
}

struct Linker<'data> {
    file: &'data [u8],
    sections: &'data [SectionHeader64<LittleEndian>],
    names: &'data [u8],
    /// Offset of the section headers in the file.
    section_headers: usize,
    /// Address of each section that is loaded, by its index.
    addresses: BTreeMap<usize, u64>,
    /// The file with all changes made so far.
    image: Vec<u8>,
    inflation: InflationBudget,
}

impl<'data> Linker<'data> {
    /// Gives each loaded section an address: the one that is known for its name, or the next from `base` on.
    fn lay_out(
        &mut self,
        base: u64,
        address_of: &dyn Fn(&[u8]) -> Option<VirtualAddress>,
    ) -> Result<(), ElfError> {
        let mut order: Vec<usize> = (0..self.sections.len())
            .filter(|&index| self.sections[index].sh_flags(LE).contains(elf::SHF_ALLOC))
            .collect();
        order.sort_by_key(|&index| {
            let section = &self.sections[index];
            let is_init = name_of(section, self.names).starts_with(b".init");
            (is_init, !section.sh_flags(LE).contains(elf::SHF_EXECINSTR))
        });
        let mut end = base;
        for index in order {
            let section = &self.sections[index];
            let alignment = section.sh_addralign(LE).clamp(1, MAX_ALIGNMENT);
            let next = end.next_multiple_of(alignment);
            let size = section.sh_size(LE);
            let too_large = ElfError::TooLarge { what: "the module's sections", limit: MAX_LOADED };
            if size > MAX_LOADED || next - base > MAX_LOADED - size {
                return Err(too_large);
            }
            let known = address_of(name_of(section, self.names));
            let address = known.map_or(next, |known| known.0);
            if known.is_none() {
                end = next + size;
            }
            self.addresses.insert(index, address);
            self.put_section(index, offset::SH_ADDR, address);
        }
        Ok(())
    }

    /// Turns the values of symbols, which are offsets in their sections, into addresses.
    fn move_symbols(&mut self) {
        // An object has one symbol table (gABI, chapter 4).
        let mut sections = self.sections.iter();
        let Some(header) = sections.find(|section| section.sh_type(LE) == elf::SHT_SYMTAB) else {
            return;
        };
        let Some(table) = SymbolTable::find(self.sections, elf::SHT_SYMTAB, self.file) else {
            return;
        };
        for (index, symbol) in table.symbols.iter().enumerate() {
            let defined_in = table.section_of(index);
            if let Some(base) = defined_in.and_then(|section| self.addresses.get(&section)) {
                let address = base.wrapping_add(symbol.st_value.get(LE));
                let at = index * size_of::<ElfSymbol>() + offset::ST_VALUE;
                self.put(header.sh_offset(LE) as usize + at, &address.to_le_bytes());
            }
        }
    }

    /// Applies the relocations of debug sections.
    fn relocate(&mut self) {
        // Relocations that share no bytes are no more than this; overlapping ones would let a small file
        // ask for a lot of work.
        let mut budget = self.file.len() / size_of::<Rela64<LittleEndian>>();
        for relocations in self.sections.iter().filter(|s| s.sh_type(LE) == elf::SHT_RELA) {
            let target = relocations.sh_info(LE) as usize;
            let Some(section) = self.sections.get(target) else { continue };
            let name = name_of(section, self.names);
            if !name.starts_with(b".debug_") && !name.starts_with(ZDEBUG) {
                continue;
            }
            let entries = relocations.data_as_array::<Rela64<_>, _>(LE, self.file);
            let entries = entries.ok().filter(|entries| entries.len() <= budget);
            let Some(entries) = entries else { continue };
            budget -= entries.len();
            let symbols = relocations.sh_link(LE) as usize;
            let symbols = SymbolTable::at(self.sections, symbols, self.file).unwrap_or_default();
            // A section that does not decompress is reported by its reader.
            let Some((start, size)) = self.contents(target) else { continue };
            for entry in entries {
                self.apply(entry, &symbols, start, size);
            }
        }
    }

    /// The place of a section's bytes in the image, decompressed, and their number.
    fn contents(&mut self, index: usize) -> Option<(usize, usize)> {
        let section = &self.sections[index];
        let Some((bytes, format, size)) = compressed(section, self.names, self.file) else {
            let length = section.data(LE, self.file).ok()?.len();
            return Some((section.sh_offset(LE) as usize, length));
        };
        if !self.inflation.spend(size) {
            return None;
        }
        let bytes = inflate(bytes, format, size).ok()?;
        let start = self.image.len();
        self.image.extend_from_slice(&bytes);
        let flags = section.sh_flags(LE).0 & !elf::SHF_COMPRESSED.0;
        self.put_section(index, offset::SH_FLAGS, flags);
        self.put_section(index, offset::SH_OFFSET, start as u64);
        self.put_section(index, offset::SH_SIZE, bytes.len() as u64);
        Some((start, bytes.len()))
    }

    /// Applies a relocation to a section whose `size` bytes begin at `start`. Debug sections have absolute
    /// relocations only (psABI for x86-64, table 4.9); other kinds, and targets outside the section, are
    /// skipped.
    fn apply(
        &mut self,
        entry: &Rela64<LittleEndian>,
        table: &SymbolTable<'_>,
        start: usize,
        size: usize,
    ) {
        let width = match entry.r_type(LE, false) {
            elf::R_X86_64_64 => 8,
            elf::R_X86_64_32 | elf::R_X86_64_32S => 4,
            _ => return,
        };
        let index = entry.r_sym(LE, false) as usize;
        let Some(symbol) = table.symbols.get(index) else { return };
        let section = table.section_of(index).and_then(|section| self.addresses.get(&section));
        let value = section
            .copied()
            .unwrap_or(0)
            .wrapping_add(symbol.st_value.get(LE))
            .wrapping_add_signed(entry.r_addend.get(LE));
        let at = usize::try_from(entry.r_offset.get(LE)).ok();
        let end = at.and_then(|at| at.checked_add(width));
        if let (Some(at), Some(end)) = (at, end)
            && end <= size
        {
            self.put(start + at, &value.to_le_bytes()[..width]);
        }
    }

    fn put_section(&mut self, index: usize, field: usize, value: u64) {
        let header = self.section_headers + index * size_of::<SectionHeader64<LittleEndian>>();
        self.put(header + field, &value.to_le_bytes());
    }

    /// Overwrites bytes of the image; a place outside of it is skipped.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = at.checked_add(bytes.len()).and_then(|end| self.image.get_mut(at..end))
        {
            place.copy_from_slice(bytes);
        }
    }
}
