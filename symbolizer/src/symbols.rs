//! The ELF symbol table: name to address and address to name.
//!
//! Owns which of several symbols answers for an address. Owns no demangling and no DWARF. Called by
//! `image` for names and by `types` for the addresses of variables.
//!
//! Nothing is read before the first question. By name is one pass over the table, and so is by
//! address for the first few: a kernel has 120,000 symbols, and to sort them takes longer than a
//! call chain's worth of passes. Who asks more often than that gets a sorted index.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::cmp::Reverse;

use object::LittleEndian;
use object::elf;

use crate::address::VirtualAddress;
use crate::elf::{Elf, ElfSymbol};
use crate::names::string_at;
use crate::ranges::RangeMap;

const LE: LittleEndian = LittleEndian;
/// Questions by address that are answered by a pass over the table. To make the index takes as long
/// as about this many, so that it never costs more than twice what was needed.
const PASSES: u32 = 64;

/// What a symbol names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SymbolKind {
    /// A function.
    Function,
    /// A variable.
    Data,
    /// A label in assembly, or one that the linker defined.
    Label,
}

/// One symbol of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol<'image> {
    /// The name in the symbol table, not demangled.
    pub name: Cow<'image, str>,
    /// Its guest-virtual address as linked.
    pub address: VirtualAddress,
    /// Its size in bytes; 0 where the table has none.
    pub size: u64,
    /// What it names.
    pub kind: SymbolKind,
}

/// An address as a symbol and a distance from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolOffset<'image> {
    /// The symbol.
    pub symbol: Symbol<'image>,
    /// Bytes from the symbol's address to the one looked up.
    pub offset: u64,
}

/// Order of preference among symbols of one range; the least is shown. The last in the table wins a
/// tie, as it does in LLVM: linkers put local symbols first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    kind: SymbolKind,
    binding: u8,
    index: Reverse<u32>,
}

#[derive(Clone, Debug)]
struct ByAddress {
    sized: RangeMap<Candidate>,
    /// Each reaches to the next symbol or the end of its section, whichever comes first.
    unsized_: RangeMap<Candidate>,
}

/// The nearest symbols that reach one address.
struct Found {
    sized: Option<Candidate>,
    unsized_: Option<Candidate>,
}

/// The symbol table of one ELF file.
#[derive(Clone, Debug)]
pub(crate) struct Symbols<'data> {
    elf: Elf<'data>,
    symbols: &'data [ElfSymbol],
    names: &'data [u8],
    by_address: OnceCell<ByAddress>,
    passes: Cell<u32>,
}

impl<'data> Symbols<'data> {
    pub(crate) fn new(elf: Elf<'data>) -> Self {
        let (symbols, names) = elf.symbol_table().unwrap_or_default();
        Self { elf, symbols, names, by_address: OnceCell::new(), passes: Cell::new(0) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The symbol of that name; of several, a global before a weak before a local one, then the
    /// first in the table.
    pub(crate) fn by_name(&self, name: &str) -> Option<Symbol<'data>> {
        let named = self.symbols.iter().zip(0..).filter(|(symbol, _)| {
            let rest = self.names.get(symbol.st_name.get(LE) as usize..).unwrap_or_default();
            rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        });
        let (_, index) = named
            .filter(|(symbol, _)| {
                kind(symbol).is_some() && symbol.st_shndx.get(LE) != elf::SHN_UNDEF
            })
            .min_by_key(|&(symbol, index)| (binding(symbol), index))?;
        self.symbol(index)
    }

    /// The symbol that holds an address: the nearest before it that reaches it, by its size or, if
    /// it has none, up to the next symbol or the end of its section. Of several at one place, one
    /// with a size before one without, the longest, then functions before data before labels,
    /// globals before weak before local ones, the last in the table.
    pub(crate) fn containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'data>> {
        let passes = self.passes.get();
        let found = if passes < PASSES {
            self.passes.set(passes + 1);
            self.pass(address.0)
        } else {
            let table = self.by_address.get_or_init(|| self.index_by_address());
            let first = |map: &RangeMap<Candidate>| map.containing(address.0).next();
            Found { sized: first(&table.sized), unsized_: first(&table.unsized_) }
        };
        let (sized, unsized_) = (self.found(found.sized), self.found(found.unsized_));
        let symbol = match (sized, unsized_) {
            (Some(sized), Some(unsized_)) if sized.address < unsized_.address => unsized_,
            (sized, unsized_) => sized.or(unsized_)?,
        };
        let offset = address.offset_from(symbol.address)?;
        Some(SymbolOffset { symbol, offset })
    }

    fn found(&self, candidate: Option<Candidate>) -> Option<Symbol<'data>> {
        self.symbol(candidate?.index.0)
    }

    fn symbol(&self, index: u32) -> Option<Symbol<'data>> {
        let symbol = self.symbols.get(index as usize)?;
        Some(Symbol {
            name: string_at(self.names, symbol.st_name.get(LE) as usize)?,
            address: VirtualAddress(symbol.st_value.get(LE)),
            size: symbol.st_size.get(LE),
            kind: kind(symbol)?,
        })
    }

    /// The end of its section and its rank, of a symbol that may be shown for an address.
    fn candidate(&self, symbol: &ElfSymbol, index: u32) -> Option<(u64, Candidate)> {
        let kind = kind(symbol)?;
        let section = usize::from(symbol.st_shndx.get(LE).0);
        let (begin, end) = self.elf.allocated_section(section)?;
        let is_place =
            symbol.st_name.get(LE) != 0 && (begin..=end).contains(&symbol.st_value.get(LE));
        is_place.then(|| (end, Candidate { kind, binding: binding(symbol), index: Reverse(index) }))
    }

    /// What the index would find, in one pass without it.
    fn pass(&self, address: u64) -> Found {
        // The last that begins at or before the address, and of those the longest.
        let mut sized: Option<(u64, u64, Reverse<Candidate>)> = None;
        // Where the last one begins, whether it reaches the address or not: a label before it does
        // not reach further than that.
        let mut last = 0;
        let mut unsized_: Option<(u64, Candidate)> = None;
        for (symbol, index) in self.symbols.iter().zip(0..) {
            let begin = symbol.st_value.get(LE);
            let size = symbol.st_size.get(LE);
            let end = begin.saturating_add(size);
            if begin > address || (end <= address && begin < last) {
                continue;
            }
            let Some((section_end, candidate)) = self.candidate(symbol, index) else { continue };
            if begin > last {
                last = begin;
                unsized_ = None;
            }
            if end > address {
                sized = sized.max(Some((begin, end, Reverse(candidate))));
            } else if size == 0 && address < section_end && begin == last {
                let this = (section_end, candidate);
                unsized_ = Some(unsized_.map_or(this, |other| other.min(this)));
            }
        }
        Found {
            sized: sized.map(|(.., Reverse(candidate))| candidate),
            unsized_: unsized_.map(|(_, candidate)| candidate),
        }
    }

    fn index_by_address(&self) -> ByAddress {
        let mut sized = Vec::new();
        let mut unsized_ = Vec::new();
        for (symbol, index) in self.symbols.iter().zip(0..) {
            let Some((end, candidate)) = self.candidate(symbol, index) else { continue };
            let address = symbol.st_value.get(LE);
            match symbol.st_size.get(LE) {
                0 => unsized_.push((address, end, candidate)),
                size => sized.push((address, address.saturating_add(size), candidate)),
            }
        }
        // Of those that begin together the longest is meant, the others are aliases of its start.
        sized.sort_unstable_by_key(|&(begin, end, symbol)| (begin, Reverse(end), symbol));
        sized.dedup_by_key(|&mut (begin, ..)| begin);
        let mut starts: Vec<u64> =
            sized.iter().chain(&unsized_).map(|&(address, ..)| address).collect();
        starts.sort_unstable();
        for (address, end, _) in &mut unsized_ {
            let next = starts.partition_point(|start| start <= address);
            *end = starts.get(next).map_or(*end, |&start| start.min(*end));
        }
        ByAddress { sized: RangeMap::new(sized), unsized_: RangeMap::new(unsized_) }
    }
}

/// `None` for what is no place in the image: sections, files, thread-local variables.
fn kind(symbol: &ElfSymbol) -> Option<SymbolKind> {
    match symbol.st_type() {
        elf::STT_FUNC | elf::STT_GNU_IFUNC => Some(SymbolKind::Function),
        elf::STT_OBJECT => Some(SymbolKind::Data),
        elf::STT_NOTYPE => Some(SymbolKind::Label),
        _ => None,
    }
}

/// Lower is preferred.
fn binding(symbol: &ElfSymbol) -> u8 {
    match symbol.st_bind() {
        elf::STB_GLOBAL => 0,
        elf::STB_WEAK => 1,
        _ => 2,
    }
}
