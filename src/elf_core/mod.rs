//! The core file: an ELF64 core of a VM, as docs/core-format.md describes it.
//!
//! Owns the container, and no more: vCPU registers as NT_PRSTATUS, guest memory as PT_LOADs, and a
//! note of our own whose contents are somebody else's bytes. Refuses to know what a capture or a
//! report is; it is handed plain values and hands back the same ones. `write` is called once a guest
//! is stopped, `read` by everything that works on a core as it would on a VM.
//!
//! A core is hostile: it may come from anybody, and half of it may be missing. Reading allocates in
//! proportion to the file's headers, never to a size that they claim, and what is damaged is a
//! [`Finding`] where anything is left to work with.
//!
//! The modules, lowest first; each uses only those before it:
//!
//! | module | owns |
//! |---|---|
//! | `extents` | sets of guest-physical ranges |
//! | `fault` | how reading a core can fail, and what is damaged in one that is read |
//! | `format` | ELF's numbers and structures |
//! | `notes` | notes and registers, to bytes and back |
//! | `plan` | which program headers a core has, and where things lie in the file |
//! | `write`, `read` | the file |

mod extents;
mod fault;
mod format;
mod notes;
mod plan;
mod read;
mod write;

pub use extents::{Extent, Extents};
pub use fault::{CoreError, Finding, Kind};
pub use notes::CpuRegisters;
pub use read::Core;
pub use write::{
    Contents, NotePlace, WriteError, Written, check_path, prepare, write, write_all_but_note,
    write_path,
};

/// The version of the format that is written.
pub const FORMAT_VERSION: u32 = 4;

/// The oldest version of the format that is read.
pub const OLDEST_VERSION: u32 = 3;
