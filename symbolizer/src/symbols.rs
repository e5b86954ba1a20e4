//! The ELF symbol table: name to address and address to name.
//!
//! Owns the choice among several symbols for an address. Owns no demangling and no DWARF. Called by `image`
//! for names and by `types` for the addresses of variables.
//!
//! Nothing is read before the first lookup. A lookup by name is a pass over the table, and so are the first
//! few by address: a kernel has 120,000 symbols, and sorting them takes longer than the passes for a call
//! chain. More lookups than that get a sorted index.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::cmp::Reverse;

use nmiscope_machine::VirtualAddress;
use object::LittleEndian;
use object::elf;

use crate::elf::{Elf, ElfSymbol, SymbolTable};
use crate::ranges::RangeMap;
use crate::strings::string_at;
use name_index::NameIndex;

mod name_index;

const LE: LittleEndian = LittleEndian;
/// Lookups by address that are answered by a pass over the table. Making the index takes as long as about
/// this many passes, so the choice costs at most twice the optimum.
const PASSES: u32 = 64;
/// Symbols that all passes may examine together.
const MAX_PASSED: usize = 1 << 26;
/// Symbols of a table that are read. A kernel with its modules has a million.
const MAX_SYMBOLS: usize = 1 << 22;

/// The kind of thing that a symbol names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SymbolKind {
    /// A function (STT_FUNC or STT_GNU_IFUNC).
    Function,
    /// A variable (STT_OBJECT).
    Data,
    /// A label in assembly, or a name that the linker defined (STT_NOTYPE).
    Label,
}

/// A symbol of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol<'image> {
    /// The name in the symbol table, not demangled.
    pub name: Cow<'image, str>,
    /// The guest-virtual address as linked.
    pub address: VirtualAddress,
    /// The size in bytes; 0 where the table has none.
    pub size: u64,
    /// The kind of thing that the symbol names.
    pub kind: SymbolKind,
}

/// An address as a symbol and a distance from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolOffset<'image> {
    /// The symbol that holds the address.
    pub symbol: Symbol<'image>,
    /// Bytes from the symbol's address to the one looked up.
    pub offset: u64,
}

/// A symbol that was looked up by name, with the size that a kernel prints for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSymbol<'image> {
    /// The symbol of that name.
    pub symbol: Symbol<'image>,
    /// Bytes to the next symbol, which a kernel prints as a symbol's size (`get_symbol_pos()` in
    /// kernel/kallsyms.c). `None` for the last symbol of a section, where the kernel's number depends on
    /// what it has loaded behind the section.
    pub extent: Option<u64>,
}

/// The start of a symbol. The greatest of several is shown: the nearest before the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Begin {
    address: u64,
    /// Size, kind and index of the symbol. Among aliases the last in the table is shown, as in LLVM: local
    /// symbols come before the others in ELF, and weakness is no sign of the name that people know.
    rank: (u64, Reverse<SymbolKind>, u32),
    section_end: u64,
}

/// The symbol table of one ELF file.
#[derive(Clone, Debug)]
pub(crate) struct Symbols<'data> {
    elf: Elf<'data>,
    table: SymbolTable<'data>,
    by_address: OnceCell<RangeMap<u32>>,
    by_name: OnceCell<NameIndex>,
    passes: Cell<u32>,
    /// The table of another file, with symbols that this one lacks.
    more: Option<Box<Symbols<'data>>>,
}

impl<'data> Symbols<'data> {
    pub(crate) fn new(elf: Elf<'data>) -> Self {
        let mut table = elf.symbol_table().unwrap_or_default();
        table.symbols = &table.symbols[..table.symbols.len().min(MAX_SYMBOLS)];
        Self {
            elf,
            table,
            by_address: OnceCell::new(),
            by_name: OnceCell::new(),
            passes: Cell::new(0),
            more: None,
        }
    }

    /// Adds the table of another file, with symbols that this one lacks.
    #[must_use]
    pub(crate) fn with_more(self, more: Option<Self>) -> Self {
        Self { more: more.map(Box::new), ..self }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.symbols.is_empty() && self.more.as_ref().is_none_or(|more| more.is_empty())
    }

    /// The symbol of a name. Among several, a global wins over a weak, a weak over a local one; then the
    /// first in the table.
    pub(crate) fn by_name(&self, name: &str) -> Option<Symbol<'data>> {
        let own = self.own_by_name(name);
        own.or_else(|| self.more.as_ref()?.by_name(name))
    }

    fn own_by_name(&self, name: &str) -> Option<Symbol<'data>> {
        let named = self.table.symbols.iter().zip(0..).filter(|(symbol, _)| {
            let rest = self.table.names.get(symbol.st_name.get(LE) as usize..).unwrap_or_default();
            rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        });
        let (_, index) = named
            .filter(|(symbol, _)| {
                kind(symbol).is_some() && symbol.st_shndx.get(LE) != elf::SHN_UNDEF
            })
            .min_by_key(|&(symbol, index)| (binding(symbol), index))?;
        self.symbol(index)
    }

    /// True if a variable ends at the address, or a symbol that is no function begins there: also one that lies
    /// at the end of its section.
    pub(crate) fn has_data_boundary(&self, address: VirtualAddress) -> bool {
        let defined =
            self.table.symbols.iter().filter(|symbol| {
                ![elf::SHN_UNDEF, elf::SHN_ABS].contains(&symbol.st_shndx.get(LE))
            });
        defined.into_iter().any(|symbol| {
            let begin = symbol.st_value.get(LE);
            let end = || begin.checked_add(symbol.st_size.get(LE));
            match kind(symbol) {
                Some(SymbolKind::Data) => begin == address.0 || end() == Some(address.0),
                Some(SymbolKind::Label) => begin == address.0,
                Some(SymbolKind::Function) | None => false,
            }
        })
    }

    /// All symbols of a name; see [`Image::symbols_named`](crate::Image::symbols_named).
    pub(crate) fn named(&self, name: &str) -> Vec<NamedSymbol<'data>> {
        let index = self.by_name.get_or_init(|| NameIndex::new(self));
        let mut found = index.find(self, name);
        found.extend(self.more.iter().flat_map(|more| more.named(name)));
        found.sort_by_key(|named| named.symbol.address);
        found.dedup_by_key(|named| named.symbol.address);
        found
    }

    /// True if a lookup by name may have missed a symbol for want of work or memory.
    pub(crate) fn is_budget_spent(&self) -> bool {
        self.by_name.get().is_some_and(NameIndex::is_budget_spent)
            || self.more.as_ref().is_some_and(|more| more.is_budget_spent())
    }

    /// The name of a symbol as the table has it.
    pub(crate) fn name(&self, index: u32) -> Option<Cow<'data, str>> {
        string_at(
            self.table.names,
            self.table.symbols.get(index as usize)?.st_name.get(LE) as usize,
        )
    }

    /// The end address of the section that a symbol is in.
    fn section_end(&self, index: u32) -> Option<u64> {
        Some(self.loaded_section(index)?.1)
    }

    /// The address range of the loaded section that a symbol is in.
    fn loaded_section(&self, index: u32) -> Option<(u64, u64)> {
        self.elf.allocated_section(self.table.section_of(index as usize)?)
    }

    /// Indices and addresses of the symbols that lie in the loaded image and have a name.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..).zip(self.table.symbols).filter_map(|(index, symbol)| {
            kind(symbol)?;
            self.loaded_section(index)?;
            (symbol.st_name.get(LE) != 0).then_some((index, symbol.st_value.get(LE)))
        })
    }

    /// The symbol that holds an address: the nearest before it that reaches it, by its size or, if it has
    /// none, up to the next symbol or the end of its section. Among several at an address the longest wins,
    /// so that a symbol without a size is only another name for the start of one with a size; then
    /// functions before data before labels, then the last in the table.
    pub(crate) fn containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'data>> {
        let own = self.own_containing(address);
        let more = self.more.as_ref().and_then(|more| more.containing(address));
        [own, more].into_iter().flatten().max_by_key(|found| found.symbol.address)
    }

    fn own_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'data>> {
        let passes = self.passes.get();
        let passed = (passes as usize).saturating_mul(self.table.symbols.len());
        let index = if passes < PASSES && passed < MAX_PASSED {
            self.passes.set(passes + 1);
            self.pass(address.0)?
        } else {
            let index = self.by_address.get_or_init(|| self.index_by_address());
            index.containing(address.0).next()?
        };
        let symbol = self.symbol(index)?;
        let offset = address.offset_from(symbol.address)?;
        Some(SymbolOffset { symbol, offset })
    }

    pub(crate) fn symbol(&self, index: u32) -> Option<Symbol<'data>> {
        let symbol = self.table.symbols.get(index as usize)?;
        Some(Symbol {
            name: string_at(self.table.names, symbol.st_name.get(LE) as usize)?,
            address: VirtualAddress(symbol.st_value.get(LE)),
            size: symbol.st_size.get(LE),
            kind: kind(symbol)?,
        })
    }

    /// The start of a symbol that may be shown for an address. `None` for one outside the loaded image or
    /// without a name.
    fn begin(&self, symbol: &ElfSymbol, index: u32) -> Option<Begin> {
        let kind = kind(symbol)?;
        let (first, end) = self.loaded_section(index)?;
        let address = symbol.st_value.get(LE);
        let is_place = symbol.st_name.get(LE) != 0 && (first..=end).contains(&address);
        let rank = (symbol.st_size.get(LE), Reverse(kind), index);
        is_place.then_some(Begin { address, rank, section_end: end })
    }

    /// Finds the symbol for an address as the index would, in a single pass without it. Goes backwards: a linker
    /// writes local symbols in the order of their addresses, and the nearest before the address comes first so.
    fn pass(&self, address: u64) -> Option<u32> {
        let mut nearest: Option<Begin> = None;
        // Bytes from the nearest begin to the address; before there is one, that of a begin at 0.
        let mut nearest_distance = address;
        // The nearest whose size reaches the address.
        let mut around: Option<Begin> = None;
        for (index, symbol) in self.table.symbols.iter().enumerate().rev() {
            // More than `address` for a symbol behind it.
            let distance = address.wrapping_sub(symbol.st_value.get(LE));
            let reaches = distance < symbol.st_size.get(LE);
            // One branch that is nearly always taken, instead of several that no processor can foresee.
            if !(reaches | (distance <= nearest_distance)) {
                continue;
            }
            if distance > address {
                continue;
            }
            let this = self.begin(symbol, index as u32);
            nearest = nearest.max(this);
            nearest_distance = nearest.map_or(address, |nearest| address - nearest.address);
            if reaches {
                around = around.max(this);
            }
        }
        let label = nearest.filter(|begin| begin.is_label() && address < begin.section_end);
        label.or(around).map(Begin::index)
    }

    fn index_by_address(&self) -> RangeMap<u32> {
        let symbols = self.table.symbols.iter().zip(0..);
        let mut begins: Vec<Begin> =
            symbols.filter_map(|(symbol, index)| self.begin(symbol, index)).collect();
        // Of those that begin together one is shown, the others are aliases of its start.
        begins.sort_unstable_by(|a, b| b.cmp(a));
        begins.dedup_by_key(|begin| begin.address);
        let mut next = u64::MAX;
        RangeMap::new(begins.into_iter().map(|begin| {
            let end = match begin.rank.0 {
                0 => begin.section_end.min(next),
                size => begin.address.saturating_add(size),
            };
            next = begin.address;
            (begin.address, end, begin.index())
        }))
    }
}

impl Begin {
    fn is_label(&self) -> bool {
        self.rank.0 == 0
    }

    fn index(self) -> u32 {
        self.rank.2
    }
}

/// The kind of a symbol. `None` for a section, a file or a thread-local variable, which are no place in the
/// image.
fn kind(symbol: &ElfSymbol) -> Option<SymbolKind> {
    match symbol.st_type() {
        elf::STT_FUNC | elf::STT_GNU_IFUNC => Some(SymbolKind::Function),
        elf::STT_OBJECT => Some(SymbolKind::Data),
        elf::STT_NOTYPE => Some(SymbolKind::Label),
        _ => None,
    }
}

/// The rank of a symbol's binding; lower is preferred.
fn binding(symbol: &ElfSymbol) -> u8 {
    match symbol.st_bind() {
        elf::STB_GLOBAL => 0,
        elf::STB_WEAK => 1,
        _ => 2,
    }
}
