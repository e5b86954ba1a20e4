//! Bytes in, frames out.
//!
//! This crate owns what an image and a guest's memory show: the function and source line of an address
//! ([`Image`]), the callers of a frame ([`Unwinder`]) and their arguments ([`Variables`]), and the place
//! and value of a variable ([`Types`], [`Place`]).
//!
//! The crate refuses to own where the bytes come from. An image is a `&[u8]` that the caller read or mapped;
//! memory is any [`VirtualMemory`](nmiscope_machine::VirtualMemory), through page tables or otherwise.
//! There is no I/O, no KVM and no clock here, so everything works the same on a live VM and on a stored
//! core.
//!
//! Images and memory are hostile: no input makes this crate panic or recurse without bound. Reading debug
//! information has a budget of work and memory that the input does not decide ([`Missing::BudgetSpent`]),
//! other work is bounded by the size of the input, and an answer that is missing is a value with a reason ([`Missing`], [`End`],
//! [`TypeError`]). Names and paths come out as the image has them, control characters included: a renderer
//! has to escape them.
//!
//! The modules, lowest first; each uses only those before it:
//!
//! | module | owns |
//! |---|---|
//! | `program_counter` | the address of a frame that is looked up |
//! | `ranges`, `strings`, `source` | a sorted map of address ranges; strings of tables; source paths |
//! | `elf`, `symbols` | the container and its symbol table |
//! | `dwarf` | address to function, inlined calls and line |
//! | `expression` | DWARF expressions over the registers of a frame |
//! | `call_frames` | address to call frame information |
//! | `code` | the recognition of a call at the end of a function |
//! | `companions` | the files that supply what an image lacks |
//! | `relocatable` | a kernel module's object file, laid out as an image |
//! | `image` | all of the above behind a single lookup |
//! | `types` | variables and types by name, reads through them |
//! | `unwind` | the frames of a stack, from registers |
//! | `linux` | the tables in which a Linux kernel describes itself, and its stacks |
//! | `variables` | arguments and locals of a frame |
//!
//! The function at an address of an image, and the stack above it:
//!
//! ```
//! use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};
//! use nmiscope_symbolizer::{Image, ProgramCounter, Unwinder};
//!
//! /// Guest-virtual memory of zeros, in which every stack ends at once.
//! struct Zeros;
//!
//! impl VirtualMemory for Zeros {
//!     fn read(&self, _: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
//!         buffer.fill(0);
//!         Ok(())
//!     }
//! }
//!
//! // Any ELF64 image for x86-64; here, the running program.
//! let bytes = std::fs::read("/proc/self/exe")?;
//! let image = Image::parse(&bytes)?;
//! let main = image.symbol("main").expect("a program has a main");
//!
//! let resolved = image.frames(ProgramCounter::Interrupted(main.address));
//! let function = resolved.frames.last().expect("a symbol covers it");
//! assert_eq!(function.function.as_deref(), Some("main"));
//!
//! // A vCPU that is about to run the first instruction of `main`.
//! let mut registers = UnwindRegisters::new(main.address, VirtualAddress(0x7000));
//! registers.set(Register::Rbp, 0);
//! let trace = Unwinder::new(&image).unwind(&registers, &Zeros);
//! assert_eq!(trace.frames.len(), 1);
//! assert!(trace.end.is_complete(), "{}", trace.end);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod call_frames;
mod code;
mod companions;
mod dwarf;
mod elf;
mod expression;
mod image;
pub mod linux;
mod program_counter;
mod ranges;
mod relocatable;
mod source;
mod strings;
mod symbols;
mod types;
mod unwind;
mod variables;

pub use companions::Companions;
pub use dwarf::{DwarfError, SharedBytes, SplitFiles, SplitSearch, SplitUnit};
pub use elf::{DebugLink, ElfError, SupplementaryLink, build_id};
pub use expression::ExpressionError;
pub use image::{Frame, Image, Missing, Resolved};
pub use nmiscope_names::{demangle, short_name};
pub use program_counter::ProgramCounter;
pub use relocatable::{is_relocatable, link_module, link_module_at};
pub use source::{Location, SourceRoots};
pub use symbols::{NamedSymbol, Symbol, SymbolKind, SymbolOffset};
pub use types::{Encoding, Member, Place, Type, TypeError, TypeKind, Types};
pub use unwind::{
    CfiError, End, FramePointerError, MAX_FRAMES, Strategy, Trace, Unwinder, UnwoundFrame,
};
pub use variables::{
    FunctionVariables, ValueError, Variable, VariableKind, VariableValue, Variables,
};
