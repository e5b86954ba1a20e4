//! The grammar of stack traces as kernels and debuggers print them: parses a line of a log, and returns its
//! references to code.
//!
//! Owns the recognition of words that name an address, and of addresses that are exact (the instruction
//! that was about to run) as opposed to return addresses. Refuses to look anything up in an image. Parses
//! bytes, since a log need not be UTF-8. Called by the [`Annotator`](super::Annotator).
//!
//! | form | printed by |
//! |---|---|
//! | `func+0x14/0x90`, `? func+0x14/0x90 [mod]`, `[mod BUILDID]` | Linux, `%pB` in `printk_stack_address()` |
//! | `RIP: 0010:func+0x14/0x90`, `pc : func+..`, `PC is at func+..`, `EIP: ..`, `NIP [..]`, `epc : ..` | Linux, registers |
//! | `[<ffffffff81234567>] func+0x14/0x90` | Linux up to 4.9, 32-bit Arm; the bundled guest |
//! | `skipped: idling at func+..`, `WARNING: .. at file:line func+..` | Linux, `%pS` of an exact address |
//! | `Workqueue: events func [mod]` | Linux, `print_worker_info()` |
//! | `Kernel Offset: 0x1a000000 from ..` | Linux, `dump_kernel_offset()`, at the end of a panic |
//! | `#1  0xffffffff81234567 in func ()` | gdb; `#0` and a frame after `<signal handler called>` are exact |
//! | `#1 [ffffc90000013e50] func at ffffffff81234567`, `[exception RIP: func+95]` | crash |
//! | `ffffffff81234567` at the start of a line | lists of addresses; with a `:`, disassembly |
//!
//! No other words are references: values of data registers, stack words, lock addresses.
//!
//! The work is linear in the length of a line: each word is parsed once.

mod labels;
mod prefix;
mod reader;
mod symbol;
#[cfg(test)]
mod tests;
mod words;

use std::ops::Range;

use reader::Reader;
use symbol::symbol_without_size;
use words::{address_in, hex};

/// Longest prefix that a logger puts before a line, in bytes.
const MAX_PREFIX: usize = 256;

/// A part of a line that names code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Range of the line's bytes that are the reference.
    pub span: Range<usize>,
    /// Code that the reference names.
    pub target: CodeLocation<'a>,
    /// True if the instruction itself is meant, not the call that returns to it.
    pub exact: bool,
}

/// The code that a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeLocation<'a> {
    /// A virtual address of the running kernel.
    Address(u64),
    /// A symbol, and an offset from it.
    Symbol(SymbolReference<'a>),
}

/// A place in a function, as in `func+0x14/0x90 [mod]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolReference<'a> {
    /// Name of the symbol, as the kernel prints it.
    pub name: &'a str,
    /// Offset from the start of the symbol, in bytes.
    pub offset: u64,
    /// Size of the symbol in bytes; `None` if it is not printed.
    pub size: Option<u64>,
    /// Module of the symbol; `None` for one of the kernel's image.
    pub module: Option<Module<'a>>,
    /// Address that is printed beside the symbol, in `[<..>]`. It may be a hashed pointer.
    pub address: Option<u64>,
}

/// A module in a log, as in `[mod]` or `[mod BUILDID]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// Name of the module, as the kernel prints it.
    pub name: &'a str,
    /// Build-id of the module in hexadecimal digits; `None` if it is not printed.
    pub build_id: Option<&'a str>,
}

/// Information in a line that concerns the addresses of other lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice<'a> {
    /// A kernel boots; the line from `Linux version` on.
    Boot(&'a [u8]),
    /// KASLR offset of the running kernel from its image's link addresses, in bytes.
    Offset(u64),
}

/// The parsed contents of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line<'a> {
    /// References to code, in the order of the line.
    pub references: Vec<Reference<'a>>,
    /// Information that concerns other lines, if the line has any.
    pub notice: Option<Notice<'a>>,
}

/// The parser of a log, line by line, with the state that one line leaves for the next.
#[derive(Clone, Debug, Default)]
pub struct Grammar {
    /// True if the next frame was interrupted, and so is exact.
    interrupted: bool,
    /// Program counter of crash's exception frame: a frame at this address was interrupted.
    exception: Option<u64>,
    /// Program counter that Arm and RISC-V print, by symbol and offset; their traces begin with it again.
    program_counter: Option<(String, u64)>,
    /// True after the first line of a trace, before its first frame.
    at_trace_start: bool,
}

impl Grammar {
    /// Parses a line, or the first piece of one, without its line feed.
    pub fn line<'a>(&mut self, line: &'a [u8]) -> Line<'a> {
        let content = prefix::length(line);
        if let Some(notice) = notice(line) {
            return Line { references: Vec::new(), notice: Some(notice) };
        }
        self.read_piece(line, content)
    }

    /// Parses a further piece of a line.
    pub fn continuation<'a>(&mut self, piece: &'a [u8]) -> Line<'a> {
        self.read_piece(piece, piece.len())
    }

    /// Parses only the notice of a line, which leaves the grammar's state unchanged.
    pub fn notice(line: &[u8]) -> Option<Notice<'_>> {
        notice(line)
    }

    fn read_piece<'a>(&mut self, line: &'a [u8], content: usize) -> Line<'a> {
        let references = Reader::new(line, self).read(content);
        Line { references, notice: None }
    }
}

/// Parses a single reference, as pasted into a command line: an address in hexadecimal or `func+20`, which
/// are exact, or a part of a trace's line, which is parsed as in a trace. `None` for any other text.
pub fn argument(text: &str) -> Option<Reference<'_>> {
    let bytes = text.as_bytes();
    let digits = bytes.strip_prefix(b"0x").unwrap_or(bytes);
    if !digits.is_empty()
        && let Some(address) = hex(digits)
    {
        return Some(Reference {
            span: 0..text.len(),
            target: CodeLocation::Address(address),
            exact: true,
        });
    }
    let references = Grammar::default().line(bytes).references;
    if let [only] = references.as_slice() {
        return Some(only.clone());
    }
    let (name, offset) = symbol_without_size(bytes)?;
    let target = symbol_target(name, offset, None);
    Some(Reference { span: 0..text.len(), target, exact: true })
}

/// Parses `Linux version ..` or `Kernel Offset: ..`, behind any prefix.
fn notice(line: &[u8]) -> Option<Notice<'_>> {
    const BANNER: &[u8] = b"Linux version ";
    if let Some(offset) = kernel_offset(line) {
        return Some(Notice::Offset(offset));
    }
    let at = labels::find(&line[..line.len().min(MAX_PREFIX)], BANNER)?;
    let banner = &line[at..];
    // `Linux version 6.1.0 (user@host) ..`, not a program's message that begins alike.
    let is_banner = banner.get(BANNER.len())?.is_ascii_digit() && banner.contains(&b'(');
    is_banner.then_some(Notice::Boot(banner))
}

/// Parses a KASLR offset in bytes: `Kernel Offset: 0x1a000000 from 0xffffffff81000000 (relocation range:
/// ..)`, `Kernel Offset: disabled`, or crash's `WARNING: kernel relocated [416MB]: patching 97254 gdb
/// minimal_symbol values`.
fn kernel_offset(line: &[u8]) -> Option<u64> {
    const OFFSET: &[u8] = b"Kernel Offset: ";
    const RELOCATED: &[u8] = b"kernel relocated [";
    if let Some(at) = labels::find(line, OFFSET) {
        let rest = &line[at + OFFSET.len()..];
        if rest.starts_with(b"disabled") {
            return Some(0);
        }
        return address_in(rest.split(|byte| !byte.is_ascii_alphanumeric()).next()?);
    }
    let rest = &line[labels::find(line, RELOCATED)? + RELOCATED.len()..];
    let digits = rest.split(|byte| !byte.is_ascii_digit()).next()?;
    let mebibytes: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    rest[digits.len()..].starts_with(b"MB]").then(|| mebibytes.checked_mul(1 << 20))?
}

fn symbol_target(name: &str, offset: u64, size: Option<u64>) -> CodeLocation<'_> {
    CodeLocation::Symbol(SymbolReference { name, offset, size, module: None, address: None })
}
