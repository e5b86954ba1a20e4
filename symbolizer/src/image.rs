//! A guest image, and the functions and lines of its addresses.
//!
//! Owns the answer for an address: frames with names and lines, or the reason for their absence. Owns no
//! file handling: the caller maps the image, and finds the debug file that [`Image::build_id`] or
//! [`Image::debuglink`] names. Called by everything that shows an address.
//!
//! Addresses are guest-virtual as the image was linked; a caller that knows a KASLR offset subtracts it
//! first.

use std::borrow::Cow;

use nmiscope_machine::VirtualAddress;
use nmiscope_names::demangle;

use crate::call_frames::CallFrames;
use crate::code::ends_in_call;
use crate::companions::Companions;
use crate::dwarf::{DebugInfo, DwarfError, Function};
use crate::elf::{DebugLink, Elf, ElfError, SupplementaryLink};
use crate::program_counter::ProgramCounter;
use crate::source::Location;
use crate::symbols::{NamedSymbol, Symbol, SymbolOffset, Symbols};

/// Bytes that the names of the calls inlined at an address may have, linkage names and demangled ones together.
/// Real chains stay well below; without the bound, 256 calls with names of 4 KiB make an answer of 2 MiB.
const MAX_NAMES: usize = 64 << 10;
/// Bytes to which a name beyond the bound is cut.
const CUT_NAME: usize = 128;

/// A function at an address: the one whose code it is, or a call inlined into that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'image> {
    /// The demangled name without a hash, for people; the beginning of the linkage name if the budget for
    /// names is spent, see [`Missing::BudgetSpent`].
    pub function: Option<String>,
    /// The mangled name in the symbol table, or in the debug information of an inlined call.
    pub linkage_name: Option<Cow<'image, str>>,
    /// The source line: of the instruction in the innermost frame, of the call in the others.
    pub location: Option<Location>,
    /// True for a call that is inlined into the next frame.
    pub inlined: bool,
}

/// The reason why an answer is incomplete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The address is in no part of the image.
    #[error("outside the image")]
    OutsideImage,
    /// The address is in the image, but no symbol and no debug information covers it.
    #[error("no symbol")]
    NoSymbol,
    /// The image has no debug information at all; the frames come from its symbol table.
    #[error("no debug information")]
    NoDebugInfo,
    /// The debug information does not cover this address, as is usual for assembly; the frames come from
    /// the symbol table.
    #[error("no debug information for this address")]
    NotCovered,
    /// The debug information is broken; the frames come from the symbol table.
    #[error("broken debug information")]
    Malformed(#[source] DwarfError),
    /// The debug information takes more work or memory than it gets; the frames come from the symbol table,
    /// or names of inlined calls are cut.
    #[error("the debug information takes too much work")]
    BudgetSpent(#[source] DwarfError),
}

/// The functions and lines of an address, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved<'image> {
    /// The address that was looked up: for a return address, one byte less.
    pub address: VirtualAddress,
    /// The frames, innermost inlined call first; the last is the function that the code belongs to. Empty
    /// where nothing is known.
    pub frames: Vec<Frame<'image>>,
    /// The symbol that holds the address, and the distance from its start.
    pub symbol: Option<SymbolOffset<'image>>,
    /// The reason why function or line is missing; `None` where both are known.
    pub missing: Option<Missing>,
}

/// A parsed image with its symbols, debug information and call frame information.
#[derive(Debug)]
pub struct Image<'data> {
    elf: Elf<'data>,
    symbols: Symbols<'data>,
    debug: Option<DebugInfo<'data>>,
    call_frames: CallFrames<'data>,
}

impl<'data> Image<'data> {
    /// Reads the headers of an ELF64 x86-64 executable or shared object. Symbols and debug information are
    /// read at the first lookup that needs them.
    ///
    /// # Errors
    /// [`ElfError`] when the bytes are no such file, or not all of one.
    pub fn parse(image: &'data [u8]) -> Result<Self, ElfError> {
        Self::parse_with(image, Companions::default())
    }

    /// Parses an image with a separate debug file, which supplies what `image` itself lacks; see
    /// [`Companions::debug`].
    ///
    /// # Errors
    /// [`ElfError`] when either of the two is no such file, or not all of one.
    pub fn parse_with_debug(
        image: &'data [u8],
        debug: Option<&'data [u8]>,
    ) -> Result<Self, ElfError> {
        Self::parse_with(image, Companions { debug, ..Companions::default() })
    }

    /// Parses an image with files that supply what it lacks.
    ///
    /// # Errors
    /// [`ElfError`] when the image or its debug file is no such file, or not all of one. Of the other
    /// files one that cannot be used is as none.
    pub fn parse_with(image: &'data [u8], files: Companions<'data>) -> Result<Self, ElfError> {
        let elf = Elf::parse(image)?;
        elf.check_segments()?;
        let separate = files.debug.map(Elf::parse).transpose()?;
        let symbols = match &separate {
            Some(file) if !elf.has_static_symbols() && file.has_static_symbols() => file,
            _ => &elf,
        };
        let more = files.minimal.filter(|_| !symbols.has_static_symbols());
        let more = more.and_then(|file| Elf::parse(file).ok()).map(Symbols::new);
        let symbols = Symbols::new(symbols.clone()).with_more(more);
        let call_frames = CallFrames::find(&elf, separate.as_ref());
        let object = |file: Option<&'data [u8]>| Elf::parse_object(file?).ok();
        let (supplementary, package) = (object(files.supplementary), object(files.package));
        let debug =
            DebugInfo::find(&elf, &elf).or_else(|| DebugInfo::find(separate.as_ref()?, &elf));
        let debug = debug
            .map(|debug| debug.with_files(supplementary.as_ref(), package.as_ref(), files.split));
        Ok(Self { elf, symbols, debug, call_frames })
    }

    /// The GNU build-id, by which debug files and cores identify an image.
    pub fn build_id(&self) -> Option<&'data [u8]> {
        self.elf.build_id()
    }

    /// The address at which the image has its build-id in memory, without any bias; `None` if it has none,
    /// or does not load it.
    pub fn build_id_address(&self) -> Option<VirtualAddress> {
        self.elf.build_id_address()
    }

    /// The debug file that a stripped image names, in `.gnu_debuglink`.
    pub fn debuglink(&self) -> Option<DebugLink<'data>> {
        self.elf.debuglink()
    }

    /// The supplementary file that the image's own debug information refers to; `None` without such a
    /// reference.
    pub fn supplementary_link(&self) -> Option<SupplementaryLink<'data>> {
        self.elf.supplementary_link()
    }

    /// True if the file is a debug file that was split from an image: it names the sections of code and
    /// has none.
    pub fn is_debug_file(&self) -> bool {
        self.elf.is_debug_file()
    }

    /// True if the image or its debug file has any debug information.
    pub fn has_debug_info(&self) -> bool {
        self.debug.is_some()
    }

    /// True if a question about this image was not answered, or not in full, for want of work or memory: see
    /// [`Missing::BudgetSpent`].
    pub fn is_budget_spent(&self) -> bool {
        self.symbols.is_budget_spent()
            || self.debug.as_ref().is_some_and(DebugInfo::is_budget_spent)
    }

    /// True if the image or its debug file has a symbol table.
    pub fn has_symbols(&self) -> bool {
        !self.symbols.is_empty()
    }

    /// True if code lies at this address.
    pub fn is_text(&self, address: VirtualAddress) -> bool {
        self.elf.is_text(address)
    }

    /// The lowest address of code; `None` if the image has no code.
    pub fn lowest_text(&self) -> Option<VirtualAddress> {
        self.elf.text().first().map(|&(begin, _)| VirtualAddress(begin))
    }

    /// The symbol with exactly this linkage name. A global symbol wins over a weak, and a weak over a local
    /// one; then the first in the table wins. Takes a pass over the table.
    pub fn symbol(&self, name: &str) -> Option<Symbol<'data>> {
        self.symbols.by_name(name)
    }

    /// All symbols of a name, in the order of their addresses, with the sizes that a kernel would print for
    /// them. `name` is a linkage name; if the table has no such name, it is the demangled path or its last
    /// part, or the name without the `.llvm.` suffix that a kernel built with LTO omits.
    pub fn symbols_named(&self, name: &str) -> Vec<NamedSymbol<'data>> {
        self.symbols.named(name)
    }

    /// True when a call may return to `offset` bytes behind the start of a symbol, which is its end: its
    /// last instruction is a call that does not return, and no padding follows. Any other pointer to that
    /// address means the next function. Also true where the file does not have the code.
    pub fn is_returned_to(&self, symbol: &Symbol<'_>, offset: u64) -> bool {
        if symbol.size != 0 && offset > symbol.size {
            return false;
        }
        let code = self.loaded_bytes(symbol.address);
        let code = code.and_then(|code| code.get(..usize::try_from(offset).ok()?));
        code.is_none_or(ends_in_call)
    }

    /// The contents of an uncompressed section by its name: `.modinfo` of a module, for example.
    pub fn section(&self, name: &str) -> Option<&'data [u8]> {
        self.elf.section(name).filter(|section| section.compression.is_none()).map(|s| s.bytes)
    }

    /// The bytes of the file at a loaded address, up to the end of their section. `None` where the file has
    /// none: `.bss`, and everything in a separate debug file.
    pub fn loaded_bytes(&self, address: VirtualAddress) -> Option<&'data [u8]> {
        self.elf.loaded_bytes(address)
    }

    /// The symbol that holds an address: the nearest before it that reaches it, by its size or, if it has
    /// none, up to the next symbol. A label inside a function names the code behind it, as the kernel's own
    /// traces have it: `entry_SYSCALL_64_after_hwframe`. Among several at an address the longest wins, then
    /// functions before data before labels, then the last in the table.
    pub fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'data>> {
        self.symbols.containing(address)
    }

    /// True if a variable ends at the address, or a symbol that is no function begins there. Takes a pass over
    /// the table.
    pub(crate) fn has_data_boundary(&self, address: VirtualAddress) -> bool {
        self.symbols.has_data_boundary(address)
    }

    /// Looks up the frames at a program counter. Never fails: the answer has the reason for what is
    /// missing.
    pub fn frames(&self, pc: ProgramCounter) -> Resolved<'data> {
        let address = pc.lookup_address();
        if !self.elf.is_loaded(address) && !self.elf.is_text(address) {
            let missing = Some(Missing::OutsideImage);
            return Resolved { address, frames: Vec::new(), symbol: None, missing };
        }
        let symbol = self.symbol_containing(address);
        let (functions, missing) = match self.debug.as_ref().map(|debug| debug.lookup(address.0)) {
            None => (Vec::new(), Some(Missing::NoDebugInfo)),
            Some(Err(error @ DwarfError::BudgetSpent { .. })) => {
                (Vec::new(), Some(Missing::BudgetSpent(error)))
            }
            Some(Err(error)) => (Vec::new(), Some(Missing::Malformed(error))),
            Some(Ok(found)) if found.is_empty() => (found, Some(Missing::NotCovered)),
            Some(Ok(found)) => (found, None),
        };
        let missing = match missing {
            Some(Missing::NoDebugInfo | Missing::NotCovered) if symbol.is_none() => {
                Some(Missing::NoSymbol)
            }
            other => other,
        };
        let mut names = Names { left: MAX_NAMES, debug: self.debug.as_ref(), refused: None };
        let frames = frames(functions, symbol.as_ref(), &mut names);
        let missing = missing.or(names.refused.map(Missing::BudgetSpent));
        Resolved { address, frames, symbol, missing }
    }

    /// The debug information, for `types`.
    pub(crate) fn debug(&self) -> Option<&DebugInfo<'data>> {
        self.debug.as_ref()
    }

    /// The call frame information, for `unwind`.
    pub(crate) fn call_frames(&self) -> &CallFrames<'data> {
        &self.call_frames
    }
}

/// Makes frames from DWARF's functions and the symbol. The outermost frame takes the symbol's name, which
/// distinguishes `f` from `f.cold` where DWARF does not; without DWARF the symbol is all there is.
fn frames<'image>(
    functions: Vec<Function>,
    symbol: Option<&SymbolOffset<'image>>,
    names: &mut Names<'_, '_>,
) -> Vec<Frame<'image>> {
    let symbol_name = symbol.map(|found| found.symbol.name.clone());
    let Some(outermost) = functions.len().checked_sub(1) else {
        return symbol_name.map(|name| frame(Some(name), None)).into_iter().collect();
    };
    functions
        .into_iter()
        .enumerate()
        .map(|(depth, function)| {
            let own = function.name.map(Cow::Owned);
            if depth == outermost {
                return frame(symbol_name.clone().or(own), function.location);
            }
            let (function_name, linkage_name) = names.demangle(own);
            let location = function.location;
            Frame { function: function_name, linkage_name, location, inlined: true }
        })
        .collect()
}

/// The frame of a function itself: there is one in an answer, so its name needs no budget.
fn frame(name: Option<Cow<'_, str>>, location: Option<Location>) -> Frame<'_> {
    let function = name.as_deref().map(demangle);
    Frame { function, linkage_name: name, location, inlined: false }
}

/// A countdown of the text for the names of an answer's inlined calls.
struct Names<'image, 'data> {
    left: usize,
    debug: Option<&'image DebugInfo<'data>>,
    /// The refusal of a name, once there is one. Further names are cut.
    refused: Option<DwarfError>,
}

impl Names<'_, '_> {
    /// The name for people and the linkage name, both cut if the budget is spent.
    fn demangle<'a>(
        &mut self,
        name: Option<Cow<'a, str>>,
    ) -> (Option<String>, Option<Cow<'a, str>>) {
        let Some(linkage_name) = name else { return (None, None) };
        if self.refused.is_none() {
            let function = demangle(&linkage_name);
            match self.spend(linkage_name.len(), function.len()) {
                Ok(()) => return (Some(function), Some(linkage_name)),
                Err(refused) => self.refused = Some(refused),
            }
        }
        let name = cut(linkage_name);
        (Some(name.clone().into_owned()), Some(name))
    }

    /// Takes a name off the budget. The work for the linkage name was paid when it was read.
    fn spend(&mut self, linkage_name: usize, function: usize) -> Result<(), DwarfError> {
        let Some(debug) = self.debug else { return Ok(()) };
        let what = "the names of inlined calls";
        let left = self.left.checked_sub(linkage_name + function);
        self.left = left.ok_or_else(|| debug.work().refuse(what))?;
        debug.work().spend_text(function, what)
    }
}

/// A name, or its first [`CUT_NAME`] bytes and an ellipsis.
fn cut(name: Cow<'_, str>) -> Cow<'_, str> {
    if name.len() <= CUT_NAME {
        return name;
    }
    Cow::Owned(format!("{}…", &name[..name.floor_char_boundary(CUT_NAME)]))
}
