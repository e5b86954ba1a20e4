//! Image files: opens one, and finds the debug information that belongs to it, in itself or in a
//! separate file by build-id or debuglink, where distributions put those.
//!
//! Owns whether a file is copied into memory or mapped, and the one `unsafe` that mapping takes.
//! Owns no parsing. Called by `cli`, `session`.

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

/// More than any image that makes sense to read into memory.
const MAX_BYTES: u64 = 4 << 30;

/// Where separate debug files are looked for, unless told otherwise.
pub const DEBUG_DIRECTORY: &str = "/usr/lib/debug";

const NO_GUEST: &str =
    "no guest is part of this program, which was built without KVM: name an image";

/// How the bytes of a file are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Copied. Takes time and memory by the size of the file, and then nothing that happens to the
    /// file matters any more: for what runs as long as a guest does, while its image may well be
    /// built anew.
    Read,
    /// Mapped, so that only what is looked at is read. A file that is cut short while it is mapped
    /// ends the process by SIGBUS: for a command that answers and ends.
    Map,
}

/// The bytes of an image, and of its debug file.
pub struct Files {
    access: Access,
    /// The image.
    pub image: Bytes,
    /// Its separate debug file, if it has one and needs it.
    pub debug: Option<Bytes>,
}

/// Bytes from a file, or those of the bundled guest.
pub enum Bytes {
    /// Part of this binary.
    Static(&'static [u8]),
    /// A copy.
    Owned(Vec<u8>),
    /// The file itself.
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
    /// The bundled guest, or an image file.
    ///
    /// # Errors
    /// The file cannot be read, or there is no bundled guest.
    pub fn open(path: Option<&Path>, access: Access) -> anyhow::Result<Self> {
        let image = match path {
            None => Bytes::Static(crate::bundled::embedded().context(NO_GUEST)?),
            Some(path) => open(path, access)?,
        };
        Ok(Self { access, image, debug: None })
    }

    /// Looks for a separate debug file, if the image has no debug information of its own. One that
    /// is there and cannot be used is passed over: the image's own symbols are better than nothing.
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

    /// The image with that build-id, and its path: the `given` one, the bundled guest, the file that
    /// it was `recorded` as, or one below `directory`. Without a build-id the given one or the
    /// recorded one is taken at its word.
    ///
    /// # Errors
    /// The given one cannot be read, or is another.
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
                    "{} is another image: the one with build-id {wanted} is wanted",
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

    /// The image, parsed.
    ///
    /// # Errors
    /// It is not an ELF file that can hold a guest.
    pub fn parse(&self) -> Result<Image<'_>, nmiscope_symbolizer::ElfError> {
        Image::parse_with_debug(&self.image, self.debug.as_deref())
    }
}

/// What a candidate has to agree with.
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
        // A name, not a path: the image is not to choose which files are read.
        if let Some(name) = name.file_name() {
            let absolute = folder.strip_prefix("/").unwrap_or(folder);
            for folder in [folder.into(), folder.join(".debug"), directory.join(absolute)] {
                found.push((folder.join(name), Check::Checksum(link)));
            }
        }
    }
    found
}

/// Paths are shown relative to the bundled guest's repository, or to the working directory.
pub fn source_roots() -> Vec<String> {
    let working_directory = std::env::current_dir().ok();
    let roots: BTreeSet<String> = working_directory
        .into_iter()
        .map(|path| path.to_string_lossy().into_owned())
        .chain([crate::bundled::SOURCE_ROOT.to_owned()])
        .collect();
    roots.into_iter().collect()
}

/// The path below a directory of debug files at which the image with that build-id is, and with
/// `.debug` behind it its debug file. `None` for an empty build-id.
fn build_id_path(build_id: &[u8]) -> Option<String> {
    let (first, rest) = build_id.split_first()?;
    Some(format!(".build-id/{first:02x}/{}", hex(rest)))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Opens a file.
///
/// # Errors
/// It is not there, no regular file, or too large to be read.
pub fn open(path: &Path, access: Access) -> anyhow::Result<Bytes> {
    // Before it is opened: to open a pipe is to wait for somebody.
    let metadata = path.metadata().with_context(|| format!("failed to open {}", path.display()))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory, not a file" } else { "no regular file" };
        bail!("{} is {what}", path.display());
    }
    let file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
    match access {
        Access::Read => read(path, &file).map(Bytes::Owned),
        // Some file systems map nothing.
        Access::Map => {
            map(&file).map(Bytes::Mapped).or_else(|_| read(path, &file).map(Bytes::Owned))
        }
    }
}

fn read(path: &Path, file: &File) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // What grows is copied again and again. Where there is not so much memory, reading says so.
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
    // SAFETY: the mapping is private and read-only. `symbolize` and `report` alone ask for it, and
    // write to no file that is there: a report has another name until it is whole. What is left is
    // somebody else who changes the file while it is looked at. If they write, bytes change between
    // two looks: whoever reads an image or a core takes it for hostile and checks every offset at
    // each use, never once for all, so the answer is wrong and no access is. If they cut the file
    // short, the kernel sends SIGBUS, which ends a command that only reads and has nothing to clean
    // up; who has more to lose asks for `Access::Read`.
    unsafe { memmap2::Mmap::map(file) }
}
