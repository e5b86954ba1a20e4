//! Image files: opens an image, and finds its debug information, in the image or in a separate file by
//! build-id or debuglink, at the paths that distributions use.
//!
//! Owns the choice between copying a file and mapping it, and the one `unsafe` that mapping takes.
//! Refuses to parse (`nmiscope_symbolizer`). Called by `cli` and `session`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nmiscope_symbolizer::{DebugLink, Image};

mod compression;
pub mod modules;
pub mod refused;

/// Largest file that is read into memory, in bytes.
const MAX_BYTES: u64 = 4 << 30;

/// Default directory of separate debug files.
pub const DEBUG_DIRECTORY: &str = "/usr/lib/debug";

const NO_GUEST: &str =
    "no guest is part of this program, which was built without KVM: name an image";

/// Access to the bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Copy into memory. Takes time and memory by the size of the file, and later changes to the file
    /// have no effect: for a session as long as a guest runs, while its image may be rebuilt.
    Read,
    /// Memory mapping, which reads only the pages that are used. A file that is truncated while it is
    /// mapped ends the process by SIGBUS: for a command that answers and exits.
    Map,
}

/// The bytes of an image, and of its separate debug file.
pub struct Files {
    access: Access,
    /// Bytes of the image's file.
    pub image: Bytes,
    /// Bytes of the separate debug file; `None` if the image needs none or none was found.
    pub debug: Option<Bytes>,
}

/// Bytes of a file or of the bundled guest.
pub enum Bytes {
    /// The bundled guest, which is part of this binary.
    Static(&'static [u8]),
    /// A copy of the file in memory.
    Owned(Vec<u8>),
    /// A memory mapping of the file.
    Mapped(memmap2::Mmap),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }
}

impl Files {
    /// Opens an image file; without a path, the bundled guest.
    ///
    /// # Errors
    /// The file cannot be read, or this binary has no bundled guest.
    pub fn open(path: Option<&Path>, access: Access) -> anyhow::Result<Self> {
        let image = match path {
            None => Bytes::Static(crate::bundled::embedded().context(NO_GUEST)?),
            Some(path) => open(path, access)?,
        };
        Ok(Self { access, image, debug: None })
    }

    /// Looks for the separate debug file of an image without debug information. A file that cannot be
    /// used is skipped: the image's own symbols remain.
    pub fn find_debug_file(&mut self, path: Option<&Path>, directory: &Path) {
        let Ok(image) = Image::parse(&self.image) else { return };
        if image.has_debug_info() {
            return;
        }
        let found = candidates(&image, path, directory).into_iter().find_map(|(path, check)| {
            let bytes = open(&path, self.access).ok()?;
            check.matches(&bytes).then(|| {
                tracing::info!(path = %path.display(), "found the image's debug file");
                bytes
            })
        });
        self.debug = found;
    }

    /// Finds the image with this build-id, and its path: `given`, the bundled guest, the path that was
    /// `recorded` for it, or a file below `directory`. Without a build-id the first image of `given` and
    /// `recorded` is taken unchecked. The path is `None` for the bundled guest.
    ///
    /// # Errors
    /// `given` cannot be read, or has another build-id.
    pub fn find(
        build_id: Option<&[u8]>,
        given: Option<&Path>,
        recorded: Option<&Path>,
        directory: &Path,
    ) -> anyhow::Result<Option<(Self, Option<PathBuf>)>> {
        let is_it = |files: &Self| {
            build_id.is_none_or(|wanted| {
                files.parse().is_ok_and(|image| image.build_id() == Some(wanted))
            })
        };
        if let Some(path) = given {
            let files = Self::open(Some(path), Access::Map)?;
            if !is_it(&files) {
                let wanted = build_id.map(hex).unwrap_or_default();
                bail!(
                    "{} is another image: expected the one with build-id {wanted}",
                    path.display()
                );
            }
            return Ok(Some((files, given.map(Path::to_owned))));
        }
        if build_id.is_some() {
            let bundled = Self::open(None, Access::Map).ok().filter(is_it);
            if let Some(bundled) = bundled {
                return Ok(Some((bundled, None)));
            }
        }
        let debug = build_id
            .and_then(build_id_path)
            .map(|file| [directory.join(&file), directory.join(file + ".debug")]);
        let places = recorded.map(Path::to_owned).into_iter().chain(debug.into_iter().flatten());
        let found = places.filter_map(|path| {
            let files = Self::open(Some(&path), Access::Map).ok().filter(is_it)?;
            Some((files, Some(path)))
        });
        Ok({ found }.next())
    }

    /// Gives back the memory of the pages that have been read of mapped files. The next read of a page takes it from
    /// the file again. A process that looks up thousands of addresses would otherwise hold a copy of most of the file's
    /// page table entries, and count as large as the file.
    pub fn release_pages(&self) {
        for bytes in [Some(&self.image), self.debug.as_ref()].into_iter().flatten() {
            if let Bytes::Mapped(map) = bytes {
                release(map);
            }
        }
    }

    /// Parses the image, with its separate debug file if there is one.
    ///
    /// # Errors
    /// The image is not an ELF file that can hold a guest.
    pub fn parse(&self) -> Result<Image<'_>, nmiscope_symbolizer::ElfError> {
        Image::parse_with_debug(&self.image, self.debug.as_deref())
    }
}

/// Property that a candidate for the debug file has to match.
enum Check<'a> {
    BuildId(Vec<u8>),
    Checksum(DebugLink<'a>),
}

impl Check<'_> {
    fn matches(&self, bytes: &[u8]) -> bool {
        match self {
            Self::BuildId(id) => {
                Image::parse(bytes).is_ok_and(|image| image.build_id() == Some(id))
            }
            Self::Checksum(link) => link.matches(bytes),
        }
    }
}

fn candidates<'a>(
    image: &Image<'a>,
    path: Option<&Path>,
    directory: &Path,
) -> Vec<(PathBuf, Check<'a>)> {
    let mut found = Vec::new();
    if let Some(id) = image.build_id()
        && let Some(file) = build_id_path(id)
    {
        found.push((directory.join(file + ".debug"), Check::BuildId(id.to_vec())));
    }
    if let Some(link) = image.debuglink()
        && let Some(path) = path.and_then(|path| path.canonicalize().ok())
        && let Some(folder) = path.parent()
    {
        let name = Path::new(OsStr::from_bytes(link.name));
        // Only the file's name, not a path: the image must not choose the files that are read.
        if let Some(name) = name.file_name() {
            let absolute = folder.strip_prefix("/").unwrap_or(folder);
            for folder in [folder.into(), folder.join(".debug"), directory.join(absolute)] {
                found.push((folder.join(name), Check::Checksum(link)));
            }
        }
    }
    found
}

/// Returns the directories that source paths are shown relative to: the working directory, and the bundled
/// guest's repository.
pub fn source_roots() -> Vec<String> {
    let working_directory = std::env::current_dir().ok();
    let roots: BTreeSet<String> = working_directory
        .into_iter()
        .map(|path| path.to_string_lossy().into_owned())
        .chain([crate::bundled::SOURCE_ROOT.to_owned()])
        .collect();
    roots.into_iter().collect()
}

/// Returns the path of the image with this build-id, relative to a directory of debug files; with `.debug`
/// appended it is the path of the debug file. `None` for an empty build-id.
pub fn build_id_path(build_id: &[u8]) -> Option<String> {
    let (first, rest) = build_id.split_first()?;
    Some(format!(".build-id/{first:02x}/{}", hex(rest)))
}

/// Returns bytes as lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Opens a file for reading or mapping.
///
/// # Errors
/// The file does not exist, is no regular file, or is too large to be read.
pub fn open(path: &Path, access: Access) -> anyhow::Result<Bytes> {
    // Checked before it is opened: opening a pipe would wait for its writer.
    let metadata = path.metadata().with_context(|| format!("failed to open {}", path.display()))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory, not a file" } else { "no regular file" };
        bail!("{} is {what}", path.display());
    }
    let file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
    match access {
        Access::Read => read(path, &file).map(Bytes::Owned),
        // Some file systems cannot map files.
        Access::Map => {
            map(&file).map(Bytes::Mapped).or_else(|_| read(path, &file).map(Bytes::Owned))
        }
    }
}

fn read(path: &Path, file: &File) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Reserved at once, since a growing vector is copied repeatedly. If there is too little memory, the
    // read itself fails with a reason.
    let size = file.metadata().map_or(0, |file| file.len().min(MAX_BYTES));
    let _ = bytes.try_reserve_exact(size as usize + 1);
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("failed to read {}", path.display()))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{} is larger than {} GiB", path.display(), MAX_BYTES >> 30);
    }
    Ok(bytes)
}

fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is private and read-only. Only `symbolize` and `report` use it, and they write
    // to no existing file: a report has another name until it is whole. Another process may still change
    // the file. If it writes, bytes change between two reads: every reader of an image or a core treats
    // it as hostile and checks each offset at each use, so the answer may be wrong but no access is. If
    // it truncates the file, the kernel sends SIGBUS, which ends a command that only reads and has
    // nothing to clean up; a session with more to lose uses `Access::Read`.
    unsafe { memmap2::Mmap::map(file) }
}

fn release(map: &memmap2::Mmap) {
    // SAFETY: MADV_DONTNEED drops the pages of a mapping, and the next access reads them from the file again. Every
    // `Mmap` of this module is private, read-only and of a file (`map`), so that no page has contents of its own that
    // would be lost.
    let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
}
