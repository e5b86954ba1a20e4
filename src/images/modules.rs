//! Files of kernel modules: found by name below directories, decompressed, and laid out as images.
//!
//! Owns the names of module files (`nf_tables.ko`, `nf-tables.ko.xz`, `nf_tables.ko.debug`), and reads each
//! file at most once. Refuses to look up symbols: several files of one name are left to the caller, who
//! may know the build-id, or a symbol and its size. Called by `symbolize`, and by `session` for the modules of a guest,
//! which are laid out at the addresses where the guest has them.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{ElfError, Image, link_module, link_module_at};

use super::compression::Compression;
use super::{Access, Bytes, DebugSearch, Files, open};

/// Largest number of files and directories that are listed. A distribution's kernel has some 5,000 modules.
const MAX_ENTRIES: usize = 200_000;
/// Largest depth to which directories are followed.
const MAX_DEPTH: usize = 32;
/// Largest number of files of one module that are read: one for each of as many kernels.
const MAX_FILES: usize = 64;
/// Largest size of all modules together, in bytes. Those of a distribution, with debug information, have
/// 1.3 GB.
const MAX_BYTES: usize = 2 << 30;

/// The kernel modules below some directories. The directories are listed at the first request for a module.
#[derive(Debug)]
pub struct Modules {
    /// Directories of modules, or single module files.
    roots: Vec<PathBuf>,
    /// Places where the files with a module's debug information are looked for.
    search: DebugSearch,
    /// Files of known modules, whatever their names are.
    known: Vec<(String, PathBuf)>,
    /// Addresses of sections in a guest, by module; empty for modules of no guest.
    sections: BTreeMap<String, Sections>,
    by_name: OnceCell<BTreeMap<String, Vec<Entry>>>,
    /// Size of all modules that have been read, in bytes.
    bytes: Cell<usize>,
}

/// Names and guest-virtual addresses of a module's sections.
pub type Sections = Vec<(String, VirtualAddress)>;

/// A file whose name is that of a module file.
#[derive(Debug)]
struct Entry {
    path: PathBuf,
    read: OnceCell<Result<Files, NoModule>>,
}

/// Reason why a file gives no module. It is cached with the file, as a module is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoModule {
    /// The modules read so far have reached the limit on their size.
    #[error("{} MiB of modules have been read", MAX_BYTES >> 20)]
    TooMuch,
    /// The file cannot be read, or is no module; the text has all causes.
    #[error("{0}")]
    Unreadable(String),
    /// The module, once laid out, cannot be parsed as an image.
    #[error("{}", crate::error_chain(.0))]
    Image(ElfError),
}

/// A module file that was read, parsed as an image.
#[derive(Debug)]
pub struct LoadedModule<'a> {
    /// Image of the module, with symbols at their addresses in the laid-out file.
    pub image: Image<'a>,
    /// Release of the kernel that the module was built for, by its `vermagic`. `None` if the file has no
    /// `vermagic`, as a separate debug file.
    pub release: Option<String>,
}

impl Modules {
    /// Prepares to find the modules below `roots`, each a directory or a file. The files with a module's debug
    /// information are looked for like those of an image: see [`Files::find_debug_files`].
    pub fn new(roots: Vec<PathBuf>, search: &DebugSearch) -> Self {
        Self {
            roots,
            search: search.clone(),
            known: Vec::new(),
            sections: BTreeMap::new(),
            by_name: OnceCell::new(),
            bytes: Cell::new(0),
        }
    }

    /// Adds files of modules by the modules' names. They come before those that are found.
    #[must_use]
    pub fn with_files(self, known: Vec<(String, PathBuf)>) -> Self {
        Self { known, ..self }
    }

    /// Lays modules out at the addresses that their sections have in a guest. A module without sections here is laid
    /// out as the kernel would lay out it alone.
    #[must_use]
    pub fn at(self, sections: BTreeMap<String, Sections>) -> Self {
        Self { sections, ..self }
    }

    /// Reads the files of the module `name`: each gives the module, or the reason why it cannot be read.
    /// Modules with debug information come first.
    pub fn named(&self, name: &str) -> Vec<Result<LoadedModule<'_>, NoModule>> {
        let name = canonical(name);
        let entries = self.by_name.get_or_init(|| self.search()).get(&name);
        let entries = entries.into_iter().flatten().take(MAX_FILES);
        let sections = self.sections.get(&name);
        let mut found: Vec<_> = entries.map(|entry| self.read(entry, sections)).collect();
        found.sort_by_key(|module| match module {
            Ok(module) => !module.image.has_debug_info(),
            Err(_) => true,
        });
        found
    }

    fn read<'a>(
        &'a self,
        entry: &'a Entry,
        sections: Option<&Sections>,
    ) -> Result<LoadedModule<'a>, NoModule> {
        let read = || {
            if self.bytes.get() >= MAX_BYTES {
                return Err(NoModule::TooMuch);
            }
            let files = self.open(&entry.path, sections);
            let files = files.map_err(|error| NoModule::Unreadable(format!("{error:#}")))?;
            let debug = files.debug.as_ref().map_or(0, |debug| debug.len());
            self.bytes.set(self.bytes.get() + files.image.len() + debug);
            Ok(files)
        };
        let files = entry.read.get_or_init(read).as_ref().map_err(Clone::clone)?;
        let image = files.parse().map_err(NoModule::Image)?;
        let release = release(&image);
        Ok(LoadedModule { image, release })
    }

    /// Reads a module's file, and finds the files with its debug information. All are laid out as
    /// [`at`](Self::at) has it.
    fn open(&self, path: &Path, sections: Option<&Sections>) -> anyhow::Result<Files> {
        let module = read(path, sections)?;
        Image::parse(&module).with_context(|| format!("failed to read {}", path.display()))?;
        let mut files = Files::new(Bytes::Owned(module), Access::Map);
        files.find_debug_files_at(Some(path), &self.search, sections);
        Ok(files)
    }

    fn search(&self) -> BTreeMap<String, Vec<Entry>> {
        let mut found: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        let mut budget = MAX_ENTRIES;
        let mut folders = Vec::new();
        for root in &self.roots {
            if root.is_dir() {
                folders.push((root.clone(), 0));
            } else {
                add(&mut found, root.clone());
            }
        }
        while let Some((folder, depth)) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                if budget == 0 {
                    tracing::warn!(
                        limit = MAX_ENTRIES,
                        "too many files below --modules: the rest is skipped"
                    );
                    folders.clear();
                    break;
                }
                budget -= 1;
                // Links to directories are not followed: `build` leads to a whole source tree.
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => {
                        folders.push((entry.path(), depth + 1));
                    }
                    Ok(kind) if !kind.is_dir() => add(&mut found, entry.path()),
                    _ => {}
                }
            }
        }
        for files in found.values_mut() {
            files.sort_by(|a, b| a.path.cmp(&b.path));
        }
        for (name, path) in self.known.iter().rev() {
            let entry = Entry { path: path.clone(), read: OnceCell::new() };
            found.entry(canonical(name)).or_default().insert(0, entry);
        }
        found
    }
}

/// Returns the build-id of a module's file; `None` if it has none.
///
/// # Errors
/// The file cannot be read or decompressed, or is no module.
pub fn build_id(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let module = read(path, None)?;
    let image = Image::parse(&module);
    let image = image.with_context(|| format!("failed to read {}", path.display()))?;
    Ok(image.build_id().map(<[u8]>::to_vec))
}

/// Returns the release in a module's `vermagic` (include/linux/vermagic.h), its first word.
fn release(image: &Image<'_>) -> Option<String> {
    let mut fields = image.section(".modinfo")?.split(|&byte| byte == 0);
    let vermagic = fields.find_map(|field| field.strip_prefix(b"vermagic="))?;
    let release = vermagic.split(|&byte| byte == b' ').next()?;
    std::str::from_utf8(release).ok().map(str::to_owned)
}

/// Adds a path under the name of its module, if it is the path of a module file.
fn add(found: &mut BTreeMap<String, Vec<Entry>>, path: PathBuf) {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(module_name);
    if let Some(name) = name {
        found.entry(name).or_default().push(Entry { path, read: OnceCell::new() });
    }
}

/// Returns the name of the module in a file of this name; `None` if it is no module file.
pub fn module_name(file: &str) -> Option<String> {
    let (name, suffix) = file.split_once(".ko")?;
    let known = ["", ".debug", ".xz", ".zst", ".gz", ".debug.xz", ".debug.zst", ".debug.gz"];
    (known.contains(&suffix) && !name.is_empty()).then(|| canonical(name))
}

/// Returns a module's name as the kernel prints it: with underscores for the dashes of a file's name.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Reads a module's file, laid out at `sections` or as the kernel would lay it out alone.
///
/// # Errors
/// The file cannot be read or decompressed, or is no module.
pub(super) fn read(path: &Path, sections: Option<&Sections>) -> anyhow::Result<Vec<u8>> {
    let bytes = open(path, Access::Map)?;
    let contents = Compression::detect(&bytes)
        .map(|format| format.decompress(&bytes))
        .transpose()
        .with_context(|| format!("failed to decompress {}", path.display()))?;
    let bytes: &[u8] = contents.as_deref().unwrap_or(&bytes);
    if bytes.is_empty() {
        bail!("{} is empty", path.display());
    }
    lay_out(bytes, sections).with_context(|| format!("failed to read {}", path.display()))
}

/// Lays a module out at `sections` or as the kernel would lay it out alone.
///
/// # Errors
/// The bytes are no module, or a damaged one.
pub(super) fn lay_out(bytes: &[u8], sections: Option<&Sections>) -> Result<Vec<u8>, ElfError> {
    match sections {
        Some(sections) => link_module_at(bytes, &|wanted| {
            let named = sections.iter().find(|(name, _)| name.as_bytes() == wanted);
            named.map(|(_, address)| *address)
        }),
        None => link_module(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_file_is_recognised_by_its_name() {
        for file in ["nf_tables.ko", "nf-tables.ko.xz", "nf_tables.ko.zst", "nf_tables.ko.debug"] {
            assert_eq!(module_name(file).as_deref(), Some("nf_tables"), "{file}");
        }
        for file in ["nf_tables.c", "nf_tables.ko.txt", ".ko", "nf_tables.kobject"] {
            assert_eq!(module_name(file), None, "{file}");
        }
    }
}
