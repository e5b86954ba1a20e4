//! The grammar of stack traces as kernels and debuggers print them: a line of a log in, what it says
//! about code out.
//!
//! Owns which words of a line name an address, and whether the address is exact (the instruction
//! that was about to run) or one that a call returns to. Owns no image and looks nothing up; reads
//! bytes, since a log need not be UTF-8, and changes none. Called by the
//! [`Annotator`](super::Annotator).
//!
//! | form | who prints it |
//! |---|---|
//! | `func+0x14/0x90`, `? func+0x14/0x90 [mod]`, `[mod BUILDID]` | Linux, `%pB` in `printk_stack_address()` |
//! | `RIP: 0010:func+0x14/0x90`, `pc : func+..`, `PC is at func+..`, `EIP: ..`, `NIP [..]`, `epc : ..` | Linux, registers |
//! | `[<ffffffff81234567>] func+0x14/0x90` | Linux up to 4.9, 32-bit Arm; the bundled guest |
//! | `skipped: idling at func+..`, `WARNING: .. at file:line func+..` | Linux, `%pS` of an exact address |
//! | `Workqueue: events func [mod]` | Linux, `print_worker_info()` |
//! | `Kernel Offset: 0x1a000000 from ..` | Linux, `dump_kernel_offset()`, at the end of a panic |
//! | `#1  0xffffffff81234567 in func ()` | gdb; `#0` and what follows `<signal handler called>` are exact |
//! | `#1 [ffffc90000013e50] func at ffffffff81234567`, `[exception RIP: func+95]` | crash |
//! | `ffffffff81234567` at the start of a line | lists of addresses; with a `:`, disassembly |
//!
//! Everything else is no address: values of data registers, stack words, lock addresses.
//!
//! The work is linear in the length of a line: each word is looked at once.

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

/// The longest prefix that a logger puts before a line, in bytes.
const MAX_PREFIX: usize = 256;

/// A part of a line that names code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The bytes of the line that are it.
    pub span: Range<usize>,
    /// The code that it names.
    pub target: CodeLocation<'a>,
    /// The instruction itself is meant, not the call that returns to it.
    pub exact: bool,
}

/// The code that a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeLocation<'a> {
    /// An address of the running kernel.
    Address(u64),
    /// A place in a function.
    Symbol(SymbolReference<'a>),
}

/// A place in a function, as in `func+0x14/0x90 [mod]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolReference<'a> {
    /// The symbol, as the kernel prints it.
    pub name: &'a str,
    /// Bytes from the start of the symbol.
    pub offset: u64,
    /// The size of the symbol in bytes, where it is printed.
    pub size: Option<u64>,
    /// The module that the symbol is in.
    pub module: Option<Module<'a>>,
    /// The address that stands beside the symbol, in `[<..>]`. It may be a hashed pointer.
    pub address: Option<u64>,
}

/// A module, as in `[mod]` or `[mod BUILDID]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// The name that the kernel has for it.
    pub name: &'a str,
    /// The build-id that the log prints, in hexadecimal digits.
    pub build_id: Option<&'a str>,
}

/// Something that a line says about all addresses around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice<'a> {
    /// A kernel boots; the text from `Linux version` on.
    Boot(&'a [u8]),
    /// The difference between the addresses of the running kernel and of its image.
    Offset(u64),
}

/// Everything that a line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line<'a> {
    /// Parts that name code, in the order of the line.
    pub references: Vec<Reference<'a>>,
    /// News that concerns other lines.
    pub notice: Option<Notice<'a>>,
}

/// Reads a log line by line. It remembers what a line says of the next one.
#[derive(Clone, Debug, Default)]
pub struct Grammar {
    /// The next frame was interrupted, and is exact.
    interrupted: bool,
    /// The program counter of crash's exception frame: a frame at this address was interrupted.
    exception: Option<u64>,
    /// The program counter that Arm and RISC-V print; their traces begin with it once more.
    program_counter: Option<(String, u64)>,
    /// A trace begins, and none of its frames has been seen.
    at_trace_start: bool,
}

impl Grammar {
    /// Reads a line, or the first piece of one: without its line feed.
    pub fn line<'a>(&mut self, line: &'a [u8]) -> Line<'a> {
        let content = prefix::length(line);
        if let Some(notice) = notice(line) {
            return Line { references: Vec::new(), notice: Some(notice) };
        }
        self.read_piece(line, content)
    }

    /// Reads a further piece of a line.
    pub fn continuation<'a>(&mut self, piece: &'a [u8]) -> Line<'a> {
        self.read_piece(piece, piece.len())
    }

    /// The notice of a line, without reading the rest of it.
    pub fn notice(line: &[u8]) -> Option<Notice<'_>> {
        notice(line)
    }

    fn read_piece<'a>(&mut self, line: &'a [u8], content: usize) -> Line<'a> {
        let references = Reader::new(line, self).read(content);
        Line { references, notice: None }
    }
}

/// A single reference, as people paste it into a command line: an address in hexadecimal or
/// `func+20`, of which the instruction itself is meant, or a part of a trace's line, which is read as in
/// a trace.
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

/// `Linux version ..` or `Kernel Offset: ..`, behind whatever prefix.
fn notice(line: &[u8]) -> Option<Notice<'_>> {
    const BANNER: &[u8] = b"Linux version ";
    if let Some(offset) = kernel_offset(line) {
        return Some(Notice::Offset(offset));
    }
    let at = labels::find(&line[..line.len().min(MAX_PREFIX)], BANNER)?;
    let banner = &line[at..];
    // `Linux version 6.1.0 (user@host) ..`, and not what a program says of itself.
    let is_banner = banner.get(BANNER.len())?.is_ascii_digit() && banner.contains(&b'(');
    is_banner.then_some(Notice::Boot(banner))
}

/// `Kernel Offset: 0x1a000000 from 0xffffffff81000000 (relocation range: ..)`, `Kernel Offset: disabled`;
/// and crash's `WARNING: kernel relocated [416MB]: patching 97254 gdb minimal_symbol values`.
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
