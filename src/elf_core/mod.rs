//! ELF cores of machines: any of them read, ours written, as docs/core-format.md describes it.
//!
//! Owns the container, and no more: notes, vCPU registers as NT_PRSTATUS, guest memory as PT_LOADs.
//! Refuses to know what is in the notes of other programs (`targets`), and what a capture or a report
//! is: our own note is somebody else's bytes. `write` is called once a guest is stopped, `read` by
//! everything that works on a stored machine as it would on a VM.
//!
//! A core is hostile: it may come from anybody, and half of it may be missing. Reading allocates in
//! proportion to the file's headers, never to a size that they claim, and what is damaged is a
//! [`Damage`] where anything is left to work with.
//!
//! The modules, lowest first; each uses only those before it:
//!
//! | module | owns |
//! |---|---|
//! | `extents` | sets of guest-physical ranges |
//! | `fault` | how reading a core can fail, and what is damaged in one that is read |
//! | `format` | ELF's numbers and structures |
//! | `notes` | notes and registers, to bytes and back |
//! | `segments` | the memory that PT_LOADs name |
//! | `plan` | which program headers a core has, and where things lie in the file |
//! | `write` | a core of ours, to a file |
//! | `read` | any core, from a file |
//! | `own` | a core of ours, from one that was read |

mod extents;
mod fault;
mod format;
mod notes;
mod own;
mod plan;
mod read;
mod segments;
mod write;

pub use extents::{Extent, Extents};
pub use fault::{CoreError, Damage, FileKind};
pub use notes::{CORE, CpuRegisters, ElfNote, NT_PRSTATUS, QEMU, decode_prstatus};
pub use own::Core;
pub use read::ElfCore;
pub use write::{
    CoreContents, NotePlace, WriteError, WrittenCore, check_path, prepare, write,
    write_all_but_note, write_path,
};

/// The version of the format that is written.
pub const FORMAT_VERSION: u32 = 4;

/// The oldest version of the format that is read.
pub const OLDEST_VERSION: u32 = 3;
