//! Writes a core: headers and notes first, so that a truncated file is still recognised, then the extents
//! of memory. Pages of zeros become holes.
//!
//! Owns the file and the copy of memory, which goes through one small buffer: a guest may be larger than
//! the host's free memory. Refuses to own the layout (`plan`). Called by `capture`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nmiscope_machine::{Mapping, PhysicalAddress, PhysicalMemory, ReadError};
use nmiscope_report::atomic_file::{self, PendingFile};

use super::extents::{Extent, Extents};
use super::format::{
    EHDR_BYTES, Header, MAX_SEGMENTS, PAGE, ProgramHeader, counting_section, needs_section,
};
use super::notes::{self, CpuRegisters};
use super::plan::{Placed, Plan, Refused};

/// Number of bytes of memory that are read at once.
const CHUNK: usize = 64 << 10;

/// Number of times that a core is written, each time without the memory found unreadable before.
const ATTEMPTS: usize = 3;

/// Contents of a core, except for the memory itself.
#[derive(Debug, Clone, Copy)]
pub struct CoreContents<'a> {
    /// Registers of the vCPUs that have them.
    pub cpus: &'a [CpuRegisters],
    /// Contents of nmiscope's own note.
    pub note: &'a [u8],
    /// VMCOREINFO of the guest, if it has one.
    pub vmcoreinfo: Option<&'a [u8]>,
    /// Build-id of the image, if it has one.
    pub build_id: Option<&'a [u8]>,
    /// Guest-physical memory to write into the core.
    pub extents: &'a Extents,
    /// Virtual addresses of that memory. Parts outside the extents are left out; of views that map one
    /// virtual address differently, the first takes precedence.
    pub views: &'a [Mapping],
}

/// Sizes of a core that was written, and the parts that were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenCore {
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Number of bytes of memory in the file, without pages of zeros. The rest is headers, notes and holes.
    pub memory_bytes: u64,
    /// Number of PT_LOADs in the file.
    pub segments: usize,
    /// Memory that was requested and could not be read.
    pub unreadable: Extents,
    /// Number of views, or pieces of views, without a program header: they are no ranges of pages, or
    /// there are too many.
    pub views_left_out: usize,
}

/// Reason why a core could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The path names something other than a file, such as a directory or a device, which is not replaced.
    #[error("failed to make {}: what is there is not a file", path.display())]
    NotAFile {
        /// Path that was given for the core.
        path: PathBuf,
    },
    /// An open file could not be written.
    #[error("failed to write the core")]
    File(#[source] io::Error),
    /// The file could not be made, written or renamed.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// Verb for the step that failed, as in "write".
        action: &'static str,
        /// Path that could not be written.
        path: PathBuf,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// A note has 4 GiB or more, or does not fit into its room.
    #[error("failed to lay out the core: a note in it is too long")]
    NoteTooLong,
    /// The memory has more separate ranges than a reader accepts program headers.
    #[error("failed to lay out the core: {extents} ranges of memory, more than {MAX_SEGMENTS}")]
    TooManyExtents {
        /// Number of separate ranges of memory.
        extents: usize,
    },
    /// The memory has more bytes than a file can have.
    #[error("failed to lay out the core: {bytes} bytes of memory do not fit into a file")]
    TooLarge {
        /// Number of bytes of memory.
        bytes: u64,
    },
    /// More memory became unreadable at each attempt.
    #[error("failed to read the guest's memory: it goes away while it is read")]
    Unstable(#[source] ReadError),
}

/// Writes a core to `path`, which then has the whole core or is unchanged: the core is written to another
/// name in the same folder, flushed to the disk, and then renamed.
///
/// # Errors
/// See [`WriteError`].
pub fn write_path(
    path: &Path,
    contents: &CoreContents<'_>,
    memory: &dyn PhysicalMemory,
) -> Result<WrittenCore, WriteError> {
    let failed = |action| move |source| WriteError::Io { action, path: path.into(), source };
    let (target, file) = prepare(path)?;
    let written = write(file.as_file(), contents, memory).map_err(|error| match error {
        WriteError::File(source) => failed("write")(source),
        other => other,
    })?;
    atomic_file::persist(file, &target).map_err(failed("finish"))?;
    Ok(written)
}

/// Checks that a core can be written to `path`, and leaves nothing there: an error is then reported before
/// the guest starts.
///
/// # Errors
/// [`WriteError::NotAFile`] or [`WriteError::Io`].
pub fn check_path(path: &Path) -> Result<(), WriteError> {
    prepare(path).map(drop)
}

/// Returns the path with links resolved, and a temporary file to take its place, which is removed when it
/// is dropped.
///
/// # Errors
/// [`WriteError::NotAFile`] or [`WriteError::Io`].
pub fn prepare(path: &Path) -> Result<(PathBuf, PendingFile), WriteError> {
    // A symbolic link stays one.
    let target = path.canonicalize().unwrap_or_else(|_| path.into());
    if target.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(WriteError::NotAFile { path: path.into() });
    }
    atomic_file::remove_abandoned(&target);
    let file = atomic_file::temporary(&target).map_err(|error| WriteError::Io {
        action: "make a file beside",
        path: path.into(),
        // Without the temporary file's name, which means nothing to the user.
        source: error.kind().into(),
    })?;
    Ok((target, file))
}

/// Writes a core into an open file, and replaces the file's contents.
///
/// # Errors
/// See [`WriteError`].
pub fn write(
    file: &File,
    contents: &CoreContents<'_>,
    memory: &dyn PhysicalMemory,
) -> Result<WrittenCore, WriteError> {
    let own = notes::encode_own(contents.note).ok_or(WriteError::NoteTooLong)?;
    let (written, place) = write_all_but_note(file, contents, memory, own.len() as u64)?;
    place.write(file, contents.note)?;
    Ok(written)
}

/// Room in a core's file for nmiscope's own note, which is written last.
#[derive(Debug)]
pub struct NotePlace {
    /// File offset of the segment of notes.
    segment: u64,
    /// File offset of the own note.
    start: u64,
    /// Number of bytes that the own note may have.
    room: u64,
}

impl NotePlace {
    /// Returns the largest number of bytes of contents that fit.
    pub fn room(&self) -> u64 {
        const NAME_AND_NUMBERS: u64 = 12 + 12 + notes::OWN_HEADER as u64;
        self.room.saturating_sub(NAME_AND_NUMBERS + 3)
    }

    /// Writes the own note, which completes the core.
    ///
    /// # Errors
    /// The note does not fit, or could not be written.
    pub fn write(&self, file: &File, contents: &[u8]) -> Result<(), WriteError> {
        let note = notes::encode_own(contents).ok_or(WriteError::NoteTooLong)?;
        if note.len() as u64 > self.room {
            return Err(WriteError::NoteTooLong);
        }
        file.write_all_at(&note, self.start).map_err(WriteError::File)?;
        let length = self.start - self.segment + note.len() as u64;
        // The segment of notes has the first program header.
        let at = (EHDR_BYTES + ProgramHeader::FILE_SIZE) as u64;
        file.write_all_at(&length.to_le_bytes(), at).map_err(WriteError::File)
    }
}

/// Writes a core without `contents.note`, for which it leaves `room` bytes, a hole where they are not
/// filled. For a core whose note is known later than its memory.
///
/// # Errors
/// See [`WriteError`]; those of I/O name no path.
pub fn write_all_but_note(
    file: &File,
    contents: &CoreContents<'_>,
    memory: &dyn PhysicalMemory,
    room: u64,
) -> Result<(WrittenCore, NotePlace), WriteError> {
    let notes = notes::encode(contents.cpus, contents.vmcoreinfo, contents.build_id)
        .ok_or(WriteError::NoteTooLong)?;
    let room = usize::try_from(room).map_err(|_| WriteError::NoteTooLong)?;
    let notes_and_room = notes.len().checked_add(room).ok_or(WriteError::NoteTooLong)?;
    let mut extents = contents.extents.clone();
    let mut unreadable = Extents::new();
    let mut attempt = 0;
    loop {
        let plan =
            Plan::new(&extents, contents.views, notes_and_room).map_err(|why| match why {
                Refused::TooManyExtents => WriteError::TooManyExtents { extents: extents.len() },
                Refused::TooLarge => WriteError::TooLarge { bytes: extents.bytes() },
            })?;
        write_headers(file, &plan, &notes).map_err(WriteError::File)?;
        let mut copy = Copy::new(file, memory);
        for placed in &plan.placed {
            copy.extent(placed).map_err(WriteError::File)?;
        }
        let Some(error) = copy.error else {
            let written = WrittenCore {
                bytes: plan.length,
                memory_bytes: copy.written,
                segments: plan.headers.len() - 1,
                unreadable,
                views_left_out: plan.views_left_out,
            };
            let start = plan.notes + notes.len() as u64;
            return Ok((written, NotePlace { segment: plan.notes, start, room: room as u64 }));
        };
        attempt += 1;
        if attempt == ATTEMPTS {
            return Err(WriteError::Unstable(error));
        }
        // The headers claim memory that is not there. Write again with headers that do not.
        for Extent { start, length } in copy.unreadable.iter() {
            unreadable.insert(start, length);
            extents.remove(start, length);
        }
    }
}

fn write_headers(file: &File, plan: &Plan, notes: &[u8]) -> io::Result<()> {
    // Makes the holes too: bytes that are not written later read as zeros.
    file.set_len(0)?;
    file.set_len(plan.length)?;
    let count = plan.headers.len();
    let mut bytes = Header::for_core(count).encode().to_vec();
    for header in &plan.headers {
        bytes.extend_from_slice(&header.encode());
    }
    if needs_section(count) {
        bytes.extend_from_slice(&counting_section(count));
    }
    file.write_all_at(&bytes, 0)?;
    file.write_all_at(notes, plan.notes)
}

/// A copy of memory into the file.
struct Copy<'a> {
    file: &'a File,
    memory: &'a dyn PhysicalMemory,
    buffer: Vec<u8>,
    written: u64,
    unreadable: Extents,
    /// Last error of reading memory; `None` if all of it was readable.
    error: Option<ReadError>,
}

impl<'a> Copy<'a> {
    fn new(file: &'a File, memory: &'a dyn PhysicalMemory) -> Self {
        let unreadable = Extents::new();
        Self { file, memory, buffer: vec![0; CHUNK], written: 0, unreadable, error: None }
    }

    fn extent(&mut self, placed: &Placed) -> io::Result<()> {
        let mut done = 0;
        while done < placed.extent.length {
            let at = PhysicalAddress(placed.extent.start.0 + done);
            // A chunk ends at a page boundary, so that each page is checked for zeros as a whole.
            let most = CHUNK as u64 - at.0 % PAGE;
            let length = most.min(placed.extent.length - done);
            self.chunk(at, placed.offset + done, length as usize)?;
            done += length;
        }
        Ok(())
    }

    fn chunk(&mut self, at: PhysicalAddress, offset: u64, length: usize) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let chunk = &mut buffer[..length];
        let result = match self.memory.read(at, chunk) {
            Ok(()) => self.pages(at, offset, chunk),
            Err(_) => self.page_by_page(at, offset, chunk),
        };
        self.buffer = buffer;
        result
    }

    /// Copies a chunk with unreadable memory, page by page, and records the pages that cannot be read.
    fn page_by_page(
        &mut self,
        at: PhysicalAddress,
        offset: u64,
        chunk: &mut [u8],
    ) -> io::Result<()> {
        for (start, page) in split_pages(at, chunk.len()) {
            let address = PhysicalAddress(at.0 + start as u64);
            let page = &mut chunk[page];
            match self.memory.read(address, page) {
                Ok(()) => self.pages(address, offset + start as u64, page)?,
                Err(error) => {
                    self.unreadable.insert(address, page.len() as u64);
                    self.error = Some(error);
                }
            }
        }
        Ok(())
    }

    /// Writes the pages that are not zero, adjacent ones together.
    fn pages(&mut self, at: PhysicalAddress, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut run = 0..0;
        for (start, page) in split_pages(at, bytes.len()) {
            let end = page.end;
            if is_zero(&bytes[page]) {
                self.run(offset, bytes, run)?;
                run = end..end;
            } else {
                run = run.start.min(start)..end;
            }
        }
        self.run(offset, bytes, run)
    }

    fn run(&mut self, offset: u64, bytes: &[u8], run: std::ops::Range<usize>) -> io::Result<()> {
        self.written += run.len() as u64;
        let at = offset + run.start as u64;
        if run.is_empty() { Ok(()) } else { self.file.write_all_at(&bytes[run], at) }
    }
}

/// Splits `length` bytes at address `at` into pages, of which the first and the last may be partial.
/// Returns each page's offset from `at`, and its range of offsets.
fn split_pages(
    at: PhysicalAddress,
    length: usize,
) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let in_page = PAGE as usize - ((at.0 + start as u64) % PAGE) as usize;
        let page = start..length.min(start + in_page);
        start = page.end;
        (!page.is_empty()).then_some((page.start, page))
    })
}

fn is_zero(page: &[u8]) -> bool {
    const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    page == &ZEROS[..page.len()]
}
