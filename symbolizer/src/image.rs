//! One guest image: what it is, and what its addresses mean.
//!
//! Owns the answer to "where is this address": frames with names and lines, or the reason for their
//! absence. Owns no file handling: the caller maps the image, and finds the debug file that
//! [`Image::build_id`] or [`Image::debuglink`] asks for. Called by everything that shows an
//! address.
//!
//! Addresses are guest-virtual as the image was linked; a caller that knows of a KASLR offset takes
//! it off first.

use std::borrow::Cow;

use nmiscope_machine::VirtualAddress;
use nmiscope_names::demangle;

use crate::call_frames::CallFrames;
use crate::code::ends_in_call;
use crate::dwarf::{DebugInfo, DwarfError, Function};
use crate::elf::{DebugLink, Elf, ElfError};
use crate::program_counter::ProgramCounter;
use crate::source::Location;
use crate::symbols::{NamedSymbol, Symbol, SymbolOffset, Symbols};

/// One function at an address: the one whose code it is, or a call inlined into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'image> {
    /// The name for people: demangled, without a hash.
    pub function: Option<String>,
    /// The name as the symbol table or the debug information has it.
    pub linkage_name: Option<Cow<'image, str>>,
    /// Where in the source: of the innermost frame the instruction, of the others the call.
    pub location: Option<Location>,
    /// Inlined into the next frame.
    pub inlined: bool,
}

/// Why an answer is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The address is in no part of the image.
    #[error("outside the image")]
    OutsideImage,
    /// In the image, but no symbol and no debug information covers it.
    #[error("no symbol")]
    NoSymbol,
    /// The image has no debug information at all; frames are from its symbol table.
    #[error("no debug information")]
    NoDebugInfo,
    /// The debug information does not cover this address, as is usual for assembly; frames are from
    /// the symbol table.
    #[error("no debug information for this address")]
    NotCovered,
    /// The debug information is broken; frames are from the symbol table.
    #[error("broken debug information")]
    Malformed(#[from] DwarfError),
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved<'image> {
    /// The address that was looked up: of a return address, one less.
    pub address: VirtualAddress,
    /// Innermost inlined call first; the last one is the function that the code belongs to. Empty
    /// where nothing is known.
    pub frames: Vec<Frame<'image>>,
    /// The symbol that holds the address, and how far inside it is.
    pub symbol: Option<SymbolOffset<'image>>,
    /// Why there is less than function and line, if so.
    pub missing: Option<Missing>,
}

/// A parsed image.
#[derive(Debug)]
pub struct Image<'data> {
    elf: Elf<'data>,
    symbols: Symbols<'data>,
    debug: Option<DebugInfo<'data>>,
    call_frames: CallFrames<'data>,
}

impl<'data> Image<'data> {
    /// Reads the headers of an ELF64 x86-64 executable or shared object. Symbols and debug
    /// information are read when they are first asked for.
    ///
    /// # Errors
    /// [`ElfError`] when the bytes are no such file, or not all of one.
    pub fn parse(image: &'data [u8]) -> Result<Self, ElfError> {
        Self::parse_with_debug(image, None)
    }

    /// The same with a separate debug file, which supplies what `image` itself lacks: debug
    /// information, `.debug_frame`, and the full symbol table. That the two belong together is for the caller to
    /// know, by [`build_id`](Self::build_id) or [`DebugLink::matches`].
    ///
    /// # Errors
    /// [`ElfError`] when either of the two is no such file, or not all of one.
    pub fn parse_with_debug(
        image: &'data [u8],
        debug: Option<&'data [u8]>,
    ) -> Result<Self, ElfError> {
        let elf = Elf::parse(image)?;
        elf.check_segments()?;
        let separate = debug.map(Elf::parse).transpose()?;
        let symbols = match &separate {
            Some(file) if !elf.has_static_symbols() && file.has_static_symbols() => file,
            _ => &elf,
        };
        let symbols = Symbols::new(symbols.clone());
        let call_frames = CallFrames::find(&elf, separate.as_ref());
        let debug =
            DebugInfo::find(&elf, &elf).or_else(|| DebugInfo::find(separate.as_ref()?, &elf));
        Ok(Self { elf, symbols, debug, call_frames })
    }

    /// The GNU build-id, by which debug files and cores name an image.
    pub fn build_id(&self) -> Option<&'data [u8]> {
        self.elf.build_id()
    }

    /// The address at which the image expects the bytes of its build-id in memory, without any bias;
    /// `None` if it has none, or does not load it.
    pub fn build_id_address(&self) -> Option<VirtualAddress> {
        self.elf.build_id_address()
    }

    /// The debug file that a stripped image names.
    pub fn debuglink(&self) -> Option<DebugLink<'data>> {
        self.elf.debuglink()
    }

    /// Whether there is any debug information, in the image or in its debug file.
    pub fn has_debug_info(&self) -> bool {
        self.debug.is_some()
    }

    /// Whether there is a symbol table.
    pub fn has_symbols(&self) -> bool {
        !self.symbols.is_empty()
    }

    /// Whether code lies at this address. A return address that is not text is not one.
    pub fn is_text(&self, address: VirtualAddress) -> bool {
        self.elf.is_text(address)
    }

    /// The lowest address of code, if there is any.
    pub fn lowest_text(&self) -> Option<VirtualAddress> {
        self.elf.text().first().map(|&(begin, _)| VirtualAddress(begin))
    }

    /// The symbol of that name, exactly as the table has it. A global one wins over a weak and that
    /// over a local one, then the first in the table. One pass over the table.
    pub fn symbol(&self, name: &str) -> Option<Symbol<'data>> {
        self.symbols.by_name(name)
    }

    /// All symbols of that name, with the sizes that a kernel would print for them, in the order of
    /// their addresses. `name` is a linkage name; if the table has none such, the demangled path or
    /// its last part, or the name without the `.llvm.` suffix that a kernel built with LTO leaves out.
    pub fn symbols_named(&self, name: &str) -> Vec<NamedSymbol<'data>> {
        self.symbols.named(name)
    }

    /// True when a call may return to `offset` bytes behind the start of a symbol, which is its end: its
    /// last instruction is a call that does not return, and no padding follows. Anything else that
    /// points there points to the next function. Where the file has no code it may be.
    pub fn is_returned_to(&self, symbol: &Symbol<'_>, offset: u64) -> bool {
        if symbol.size != 0 && offset > symbol.size {
            return false;
        }
        let code = self.loaded_bytes(symbol.address);
        let code = code.and_then(|code| code.get(..usize::try_from(offset).ok()?));
        code.is_none_or(ends_in_call)
    }

    /// The contents of a section that is not compressed, by its name: `.modinfo` of a module.
    pub fn section(&self, name: &str) -> Option<&'data [u8]> {
        self.elf.section(name).filter(|section| section.compression.is_none()).map(|s| s.bytes)
    }

    /// The bytes that the file has at a loaded address, up to the end of their section. `None` where
    /// it has none: `.bss`, and everything in a separate debug file.
    pub fn loaded_bytes(&self, address: VirtualAddress) -> Option<&'data [u8]> {
        self.elf.loaded_bytes(address)
    }

    /// The symbol that holds an address: the nearest before it that reaches it, by its size or, if
    /// it has none, up to the next symbol. A label inside a function names the code behind it, as
    /// the kernel's own traces have it: `entry_SYSCALL_64_after_hwframe`. Of several at one place
    /// the longest, then functions before data before labels, then the last in the table.
    pub fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'data>> {
        self.symbols.containing(address)
    }

    /// The frames at a program counter. Never fails: what is not known has its reason in the
    /// answer.
    pub fn frames(&self, pc: ProgramCounter) -> Resolved<'data> {
        let address = pc.lookup_address();
        if !self.elf.is_loaded(address) && !self.elf.is_text(address) {
            let missing = Some(Missing::OutsideImage);
            return Resolved { address, frames: Vec::new(), symbol: None, missing };
        }
        let symbol = self.symbol_containing(address);
        let (functions, missing) = match self.debug.as_ref().map(|debug| debug.lookup(address.0)) {
            None => (Vec::new(), Some(Missing::NoDebugInfo)),
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
        let frames = frames(functions, symbol.as_ref());
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

/// Frames from what DWARF and the symbol table know. The outermost takes the symbol's name, which
/// tells `f` from `f.cold` where DWARF does not; without DWARF it is all there is.
fn frames<'image>(
    functions: Vec<Function>,
    symbol: Option<&SymbolOffset<'image>>,
) -> Vec<Frame<'image>> {
    let symbol_name = symbol.map(|found| found.symbol.name.clone());
    let Some(outermost) = functions.len().checked_sub(1) else {
        return symbol_name.map(|name| frame(Some(name), None, false)).into_iter().collect();
    };
    functions
        .into_iter()
        .enumerate()
        .map(|(depth, function)| {
            let own = function.name.map(Cow::Owned);
            let inlined = depth != outermost;
            let name = if inlined { own } else { symbol_name.clone().or(own) };
            frame(name, function.location, inlined)
        })
        .collect()
}

fn frame(name: Option<Cow<'_, str>>, location: Option<Location>, inlined: bool) -> Frame<'_> {
    Frame { function: name.as_deref().map(demangle), linkage_name: name, location, inlined }
}
