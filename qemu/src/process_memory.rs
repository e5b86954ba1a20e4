//! Guest-physical memory, read from QEMU's process.
//!
//! Owns the reads and the rule that they allocate no memory. Refuses to own the memory's layout
//! (`memory_map`) and the permission to read it (`process`). Nothing is written, and QEMU takes no part, so
//! this works while its main loop is stuck.
//!
//! A page that was never touched has no memory on the host. A read through the process would allocate
//! some: 4 KiB of a file in shared memory, or a huge page. The source depends on the kind of mapping:
//!
//! | mapping | read from |
//! |---|---|
//! | anonymous (`-m`) | the process, if `/proc/PID/pagemap` has the page present or swapped; otherwise the page was never written and is zeros |
//! | shared file (memfd, `share=on`, hugetlbfs) | the file itself: read(2) of a hole gives zeros and allocates nothing. Page tables are insufficient: a page that another process wrote, or that was swapped out, is in the file but not in QEMU's page tables |
//! | private file (hugetlbfs, `share=off`) | the process, if the page is present or swapped; otherwise the file, since the page was never written |
//!
//! The file is reopened through `/proc/PID`. If that fails, pages in QEMU's page tables are read through
//! the process, and others are an error, since their content is unknown.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};

use crate::mappings::{self, FileId, Mapping};
use crate::memory_map::MappedRange;
use crate::process::{ProcessError, ProcessHandle};
use crate::qmp::excerpt;

/// Bytes per page-map entry: the page size of an x86-64 host.
const PAGE: u64 = 4096;
/// Number of page-map entries that are read at once.
const BATCH: usize = 1024;
/// Bits 63 and 62 of an entry: present, swapped (Documentation/admin-guide/mm/pagemap.rst).
const TOUCHED: u64 = 3 << 62;
/// Number of attempts to read the mappings while the process changes them.
const TRIES: u32 = 10;
/// Maximum number of a process's descriptors that are searched for a file.
const MAX_DESCRIPTORS: usize = 1 << 16;

/// Error of opening the memory of a QEMU process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessMemoryError {
    /// The process has ended, or this program may not inspect it.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The process has no mapping at an address that the monitor reported.
    #[error(
        "find guest memory in process {pid}: it has nothing at {host:#x}: is this monitor another \
         QEMU's?"
    )]
    Elsewhere {
        /// PID of the QEMU process.
        pid: i32,
        /// Virtual address in the process.
        host: u64,
    },
    /// A line of `/proc/PID/maps` could not be parsed.
    #[error("find guest memory in process {pid}: its /proc/{pid}/maps has the line {line:?}")]
    Mappings {
        /// PID of the QEMU process.
        pid: i32,
        /// The beginning of that line.
        line: String,
    },
}

/// Guest-physical memory, read from QEMU's process. It keeps its descriptors open, and so never reads a
/// later process with the same PID.
#[derive(Debug)]
pub struct ProcessMemory {
    ranges: Vec<MappedRange>,
    /// Pieces of the ranges, in ascending order of their guest-physical addresses.
    pieces: Vec<Piece>,
    memory: File,
    page_map: File,
    files: Vec<Option<File>>,
}

/// The part of a range that lies in one mapping of the process.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u64,
    length: u64,
    host: u64,
    backing: Backing,
}

#[derive(Debug, Clone, Copy)]
enum Backing {
    Anonymous,
    /// A mapped file: an index into [`ProcessMemory::files`], and the file offset of the piece's first byte.
    File {
        file: usize,
        offset: u64,
        shared: bool,
    },
}

impl ProcessMemory {
    /// Opens the guest memory of `process`, with the memory map of its guest.
    ///
    /// # Errors
    /// [`ProcessMemoryError`], also for the map of another QEMU.
    pub fn open(
        process: &ProcessHandle,
        ranges: Vec<MappedRange>,
    ) -> Result<Self, ProcessMemoryError> {
        let pid = process.pid();
        let mappings = read_mappings(process)?;
        let mut files = Files { process, opened: Vec::new(), known: BTreeMap::new() };
        let mut pieces = Vec::new();
        for range in &ranges {
            split(range, &mappings, &mut files, &mut pieces)
                .map_err(|host| ProcessMemoryError::Elsewhere { pid, host })?;
        }
        let (memory, page_map) = (process.open_file("mem")?, process.open_file("pagemap")?);
        Ok(Self { files: files.opened, ranges, pieces, memory, page_map })
    }

    /// The guest's RAM and firmware, in ascending order; device memory is omitted.
    pub fn ranges(&self) -> &[MappedRange] {
        &self.ranges
    }

    fn piece_at(&self, address: u64) -> Option<&Piece> {
        let behind = self.pieces.partition_point(|piece| piece.start <= address);
        let piece = self.pieces.get(behind.checked_sub(1)?)?;
        (address - piece.start < piece.length).then_some(piece)
    }

    fn read_piece(&self, piece: &Piece, skipped: u64, buffer: &mut [u8]) -> io::Result<()> {
        if let Backing::File { file, offset, shared: true } = piece.backing
            && let Some(Some(file)) = self.files.get(file)
        {
            return file.read_exact_at(buffer, offset + skipped);
        }
        let mut entries = [0; BATCH * 8];
        let mut done = 0;
        while done < buffer.len() {
            let host = piece.host + skipped + done as u64;
            let in_batch = (BATCH as u64 * PAGE - host % PAGE).min((buffer.len() - done) as u64);
            let pages = (host % PAGE + in_batch).div_ceil(PAGE) as usize;
            let entries = &mut entries[..pages * 8];
            self.page_map.read_exact_at(entries, host / PAGE * 8)?;
            let part = &mut buffer[done..][..in_batch as usize];
            self.read_pages(piece, skipped + done as u64, entries, part)?;
            done += in_batch as usize;
        }
        Ok(())
    }

    /// Reads the pages that `entries` describe, each run of touched or untouched pages at once.
    fn read_pages(
        &self,
        piece: &Piece,
        skipped: u64,
        entries: &[u8],
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let touched = |entry: &[u8; 8]| u64::from_le_bytes(*entry) & TOUCHED != 0;
        let (entries, _) = entries.as_chunks::<8>();
        let host = piece.host + skipped;
        let mut done = 0;
        for run in entries.chunk_by(|one, next| touched(one) == touched(next)) {
            let at = host + done as u64;
            let to_end = run.len() as u64 * PAGE - at % PAGE;
            let length = to_end.min((buffer.len() - done) as u64) as usize;
            let part = &mut buffer[done..][..length];
            if run.first().is_some_and(touched) {
                self.memory.read_exact_at(part, at)?;
            } else {
                self.read_untouched(piece, skipped + done as u64, part)?;
            }
            done += length;
        }
        Ok(())
    }

    fn read_untouched(&self, piece: &Piece, skipped: u64, buffer: &mut [u8]) -> io::Result<()> {
        match piece.backing {
            Backing::Anonymous => {
                buffer.fill(0);
                Ok(())
            }
            Backing::File { file, offset, .. } => match self.files.get(file) {
                Some(Some(file)) => file.read_exact_at(buffer, offset + skipped),
                _ => Err(io::Error::other(
                    "QEMU has not touched the page, and its file cannot be opened: run this as root",
                )),
            },
        }
    }
}

impl PhysicalMemory for ProcessMemory {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let mut done = 0;
        while done < length {
            let at = address.0.checked_add(done as u64);
            let Some((at, piece)) = at.and_then(|at| Some((at, self.piece_at(at)?))) else {
                return Err(ReadError::Unbacked { address, length });
            };
            let skipped = at - piece.start;
            let now = (piece.length - skipped).min((length - done) as u64) as usize;
            let part = &mut buffer[done..][..now];
            self.read_piece(piece, skipped, part).map_err(|error| {
                let reason = match error.kind() {
                    // After the process has ended, its memory file reads as empty.
                    ErrorKind::UnexpectedEof => "QEMU's memory ends there: has it ended?".into(),
                    _ => error.to_string(),
                };
                ReadError::Target { address, length, reason }
            })?;
            done += now;
        }
        Ok(())
    }
}

/// Reads the mappings of a process. Since Linux 6.17 the kernel generates the file without holding the lock
/// on the mappings (fs/proc/task_mmu.c), so two lines can overlap if the process maps memory meanwhile: then
/// the file is read again. On 6.18 it happened to 12 of 3000 reads of a process
/// that did nothing but map memory.
fn read_mappings(process: &ProcessHandle) -> Result<Vec<Mapping>, ProcessMemoryError> {
    let pid = process.pid();
    let mut tries = 0;
    loop {
        tries += 1;
        let text = process.read_file("maps")?;
        match mappings::parse(&text) {
            Ok(mappings) => return Ok(mappings),
            Err(_) if tries < TRIES => {}
            Err(line) => return Err(ProcessMemoryError::Mappings { pid, line: excerpt(line) }),
        }
    }
}

/// Splits a range at the boundaries of mappings. The error is the first address without a mapping.
fn split(
    range: &MappedRange,
    mappings: &[Mapping],
    files: &mut Files<'_>,
    pieces: &mut Vec<Piece>,
) -> Result<(), u64> {
    let end = range.host.checked_add(range.length).ok_or(range.host)?;
    let mut host = range.host;
    let first = mappings.partition_point(|mapping| mapping.end <= host);
    for mapping in &mappings[first..] {
        if host >= end || mapping.start > host {
            break;
        }
        let length = mapping.end.min(end) - host;
        let backing = match mapping.file {
            None => Backing::Anonymous,
            Some(id) => Backing::File {
                file: files.index(mapping, id),
                offset: mapping.offset.checked_add(host - mapping.start).ok_or(host)?,
                shared: mapping.shared,
            },
        };
        pieces.push(Piece { start: range.start.0 + (host - range.host), length, host, backing });
        host += length;
    }
    if host < end { Err(host) } else { Ok(()) }
}

/// The files behind mappings, each opened once.
struct Files<'a> {
    process: &'a ProcessHandle,
    opened: Vec<Option<File>>,
    known: BTreeMap<FileId, usize>,
}

impl Files<'_> {
    fn index(&mut self, mapping: &Mapping, id: FileId) -> usize {
        let next = self.opened.len();
        let index = *self.known.entry(id).or_insert(next);
        if index == next {
            self.opened.push(self.open(mapping, id));
        }
        index
    }

    /// Opens the file through its mapping, which needs root and works for shared anonymous memory too, or
    /// else through a descriptor that QEMU has of it.
    fn open(&self, mapping: &Mapping, id: FileId) -> Option<File> {
        let name = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
        let by_mapping = open_regular(&self.process.path(&name), |_| true);
        by_mapping.or_else(|| {
            let entries = fs::read_dir(self.process.path("fd")).ok()?.take(MAX_DESCRIPTORS);
            let is_it = |metadata: &fs::Metadata| {
                let device = metadata.dev();
                let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
                FileId { major, minor, inode: metadata.ino() } == id
            };
            entries.flatten().find_map(|entry| open_regular(&entry.path(), is_it))
        })
    }
}

/// Opens a regular file that passes the test. Devices are not opened: reading one may have side effects.
fn open_regular(path: &Path, test: impl Fn(&fs::Metadata) -> bool) -> Option<File> {
    let metadata = fs::metadata(path).ok()?;
    (metadata.is_file() && test(&metadata)).then(|| File::open(path).ok())?
}
