//! ELF cores of machines: reads those of any program, writes the format of docs/core-format.md.
//!
//! Owns only the container: notes, vCPU registers as NT_PRSTATUS, guest memory as PT_LOADs. Refuses to
//! interpret the notes of other programs (`targets`) and the contents of nmiscope's own note (`capture`).
//! `write` is called once a guest is stopped, `read` by everything that works on a stored machine as it
//! would on a VM.
//!
//! A core is hostile: it may come from anybody, and half of it may be missing. Reading allocates in
//! proportion to the file's headers, never to a size that they claim. Damage that leaves something to
//! work with is reported as [`Damage`], any other as [`CoreError`].
//!
//! The modules, lowest first; each uses only those before it:
//!
//! | module | owns |
//! |---|---|
//! | `extents` | sets of guest-physical ranges |
//! | `fault` | errors of reading a core, and damage to one that can be read |
//! | `format` | ELF's numbers and structures |
//! | `notes` | notes and registers, to bytes and back |
//! | `segments` | the memory that PT_LOADs name |
//! | `plan` | the program headers of a core, and its layout in the file |
//! | `write` | writing a core of nmiscope to a file |
//! | `read` | reading any core from a file |
//! | `own` | the parts of a core of nmiscope |

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

/// Version of the core format that is written.
pub const FORMAT_VERSION: u32 = 4;

/// Oldest version of the core format that is read.
pub const OLDEST_VERSION: u32 = 3;
