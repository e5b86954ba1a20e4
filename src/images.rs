//! Image files: opens an image, and finds its debug information, in the image or in files that it refers
//! to, at the paths that distributions use.
//!
//! Owns the choice between copying a file and mapping it, and the one `unsafe` that mapping takes.
//! Refuses to parse (`nmiscope_symbolizer`). Called by `cli` and `session`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{Companions, Image, SplitFiles, is_relocatable};

use compression::Compression;
pub use debuginfod::Debuginfod;
pub use finder::DebugSearch;
use finder::{Finder, Found};
pub use notes::Notes;
use split_files::SplitStore;

pub(crate) mod beneath;
mod compression;
mod debuginfod;
mod finder;
pub mod modules;
mod notes;
pub mod refused;
mod split_files;

/// Largest file that is read into memory, in bytes.
const MAX_BYTES: u64 = 4 << 30;

/// Largest size of the contents of `.gnu_debugdata`, in bytes. Those of a distribution's kernel or libc
/// have less than one megabyte.
const MAX_MINIMAL: u64 = 64 << 20;

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

/// The bytes of an image, and of the files that supply its debug information.
pub struct Files {
    access: Access,
    /// Bytes of the image's file.
    pub image: Bytes,
    /// Bytes of the separate debug file; `None` if the image needs none or none was found.
    pub debug: Option<Bytes>,
    supplementary: Option<Bytes>,
    package: Option<Bytes>,
    minimal: Option<Vec<u8>>,
    split: Option<SplitStore>,
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

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
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
        Ok(Self::new(image, access))
    }

    fn new(image: Bytes, access: Access) -> Self {
        let (debug, supplementary, package, minimal, split) = Default::default();
        Self { access, image, debug, supplementary, package, minimal, split }
    }

    /// Checks that the image at `path` has the code that a guest runs.
    ///
    /// # Errors
    /// The image is a debug file, which has none.
    pub fn check_code(&self, path: &Path) -> anyhow::Result<()> {
        if Image::parse(&self.image).is_ok_and(|image| image.is_debug_file()) {
            let path = path.display();
            bail!("{path} is a debug file, without code: give the image that it was split from");
        }
        Ok(())
    }

    /// Lays out a kernel module's file as an image: addresses are offsets in `.text`, and other sections lie
    /// elsewhere. Returns true for such a file, by its name and contents; another file is left as it is.
    ///
    /// # Errors
    /// The module is damaged.
    pub fn lay_out_module(&mut self, path: Option<&Path>) -> anyhow::Result<bool> {
        let is_named = |path: &&Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(modules::module_name).is_some()
        };
        let is_packed = Compression::detect(&self.image).is_some();
        let is_object = is_packed || is_relocatable(&self.image);
        let Some(path) = path.filter(is_named).filter(|_| is_object) else { return Ok(false) };
        self.image = Bytes::Owned(modules::read(path, Some(&module_sections()))?);
        Ok(true)
    }

    /// Looks for the files that the image at `path` refers to: the debug file of one without debug
    /// information, the supplementary file, a package of split units. Files of split units are opened by
    /// later lookups. What a missing file would have supplied is missing, and the search's notes name it.
    pub fn find_debug_files(&mut self, path: Option<&Path>, search: &DebugSearch) {
        self.find_debug_files_at(path, search, Some(&module_sections()));
    }

    /// Looks for files like [`find_debug_files`](Self::find_debug_files), and lays out the debug file of a
    /// module at `sections` or as the kernel would lay it out alone.
    fn find_debug_files_at(
        &mut self,
        path: Option<&Path>,
        search: &DebugSearch,
        sections: Option<&modules::Sections>,
    ) {
        let Ok(image) = Image::parse(&self.image) else { return };
        let finder = Finder::new(self.access, path, search);
        let needs_debug = self.debug.is_none() && !image.has_debug_info();
        let debug = needs_debug.then(|| finder.debug_file(&image)).flatten();
        let debug = debug.and_then(|found| found.laid_out(sections));
        let (debug, debug_path) = debug.map(|found| (found.bytes, found.path)).unzip();
        // The file with the debug information is the one that refers to others.
        let holder = debug.as_ref().and_then(|debug| Image::parse(debug).ok());
        let holder_path = debug_path.as_deref().or(path);
        let link = holder.as_ref().unwrap_or(&image).supplementary_link();
        let bytes = |found: Option<Found>| found.map(|found| found.bytes);
        let supplementary = bytes(link.and_then(|link| finder.supplementary(&link, holder_path)));
        let package = bytes(finder.package(path));
        let package = package.or_else(|| bytes(finder.package(debug_path.as_deref())));
        let minimal = minimal_symbols(&image, &search.notes);
        drop((image, holder));
        self.split = Some(SplitStore::new(finder));
        self.debug = self.debug.take().or(debug);
        (self.supplementary, self.package) = (supplementary, package);
        self.minimal = minimal;
    }

    /// Finds the image with this build-id, and its path: `given`, the bundled guest, the path that was
    /// `recorded` for it, or a file that `search` finds. Without a build-id the first image of `given` and
    /// `recorded` is taken unchecked. The path is `None` for the bundled guest.
    ///
    /// # Errors
    /// `given` cannot be read, or has another build-id.
    pub fn find(
        build_id: Option<&[u8]>,
        given: Option<&Path>,
        recorded: Option<&Path>,
        search: &DebugSearch,
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
        let in_directories = build_id.and_then(build_id_path).into_iter().flat_map(|file| {
            let debug = PathBuf::from(file.clone() + ".debug");
            search
                .directories
                .iter()
                .flat_map(move |folder| [folder.join(&file), folder.join(&debug)])
        });
        let downloaded = || search.download(build_id?);
        let places = recorded.map(Path::to_owned).into_iter().chain(in_directories);
        let places = places.chain(std::iter::once_with(downloaded).flatten());
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
        let [debug, supplementary, package] = [&self.debug, &self.supplementary, &self.package];
        let others = [debug, supplementary, package].into_iter().flatten();
        for bytes in others.chain([&self.image]) {
            if let Bytes::Mapped(map) = bytes {
                release(map);
            }
        }
    }

    /// Parses the image, with the files that were found for it.
    ///
    /// # Errors
    /// The image is not an ELF file that can hold a guest.
    pub fn parse(&self) -> Result<Image<'_>, nmiscope_symbolizer::ElfError> {
        let files = Companions {
            debug: self.debug.as_deref(),
            supplementary: self.supplementary.as_deref(),
            package: self.package.as_deref(),
            minimal: self.minimal.as_deref(),
            split: self.split.as_ref().map(|split| split as &dyn SplitFiles),
        };
        Image::parse_with(&self.image, files)
    }
}

/// Returns the addresses of a module's sections, where it stands for an image.
fn module_sections() -> modules::Sections {
    vec![(".text".to_owned(), VirtualAddress(0))]
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files")
            .field("image", &self.image.len())
            .field("debug", &self.debug.as_ref().map(|debug| debug.len()))
            .finish_non_exhaustive()
    }
}

impl Found {
    /// Lays out the debug file of a module at `sections` or as the kernel would lay it out alone; another file is
    /// left as it is. `None` for a damaged one.
    fn laid_out(self, sections: Option<&modules::Sections>) -> Option<Self> {
        if !is_relocatable(&self.bytes) {
            return Some(self);
        }
        let bytes = modules::lay_out(&self.bytes, sections).ok()?;
        let is_sound = Image::parse(&bytes).is_ok();
        is_sound.then_some(Self { bytes: Bytes::Owned(bytes), ..self })
    }
}

/// Decompresses the symbols of MiniDebugInfo.
fn minimal_symbols(image: &Image<'_>, notes: &Notes) -> Option<Vec<u8>> {
    let contents = Compression::Xz.decompress_within(image.section(".gnu_debugdata")?, MAX_MINIMAL);
    let remark = |error| notes.add(format!("the image's .gnu_debugdata cannot be read: {error}"));
    contents.map_err(remark).ok()
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
    open_file(path, &file, access)
}

/// Reads or maps an open file; `path` is its name in errors.
fn open_file(path: &Path, file: &File, access: Access) -> anyhow::Result<Bytes> {
    match access {
        Access::Read => read(path, file).map(Bytes::Owned),
        // Some file systems cannot map files.
        Access::Map => map(file).map(Bytes::Mapped).or_else(|_| read(path, file).map(Bytes::Owned)),
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
