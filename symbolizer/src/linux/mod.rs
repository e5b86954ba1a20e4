//! The tables by which a Linux kernel describes itself in its own memory.
//!
//! Owns four formats: VMCOREINFO ([`VmcoreInfo`]), the symbol table ([`Kallsyms`]), types ([`Btf`]) and unwind rows
//! ([`OrcTable`]). Refuses to own where they lie and what a kernel's structures mean: that is the adapter's,
//! which reads the bytes out of guest memory. Every format is recognised by what is there, sizes, self-checks and
//! types, and not by a version number, since distributions backport and rebuild.
//!
//! | file | owns |
//! |---|---|
//! | `vmcoreinfo` | the text that a kernel leaves for crash dumps |
//! | `kallsyms` | names and addresses of all symbols, compressed |
//! | `btf` | types: offsets and sizes of structure members, values of enumerators |
//! | `orc` | rows that lead from an instruction to its caller |
//! | `unwind` | stacks, by those rows or what else there is |
//! | `frame_pointer` | stacks of kernels without rows |

mod btf;
mod frame_pointer;
mod kallsyms;
mod orc;
mod unwind;
mod vmcoreinfo;

pub use btf::{Btf, BtfError, Field};
pub use kallsyms::{Kallsyms, KallsymsError, KernelSymbol};
pub use orc::{OrcBase, OrcError, OrcFrame, OrcRow, OrcTable};
pub use unwind::{KernelCode, unwind};
pub use vmcoreinfo::{VmcoreInfo, VmcoreInfoError};
