//! Finding the files that an image refers to: its debug file, its supplementary file, and split units.
//!
//! Owns the places that are tried and the check of each file. Refuses to open anything that an image names
//! outside the image's own folder and the directories of debug files (`beneath`). Called by
//! [`Files`](super::Files).
//!
//! | file | places |
//! |---|---|
//! | by build-id | `DIR/.build-id/xx/yyyy.debug` |
//! | debuglink | beside the image, in `.debug` there, in `DIR` at the path of the image's folder |
//! | others | below each folder at the name that the image has, and at its last part |
//!
//! The places of a debuglink are gdb's (its manual, "Debugging Information in Separate Files").

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use nmiscope_symbolizer::{DebugLink, Image, SupplementaryLink, build_id, is_relocatable};

use super::debuginfod::Debuginfod;
use super::notes::Notes;
use super::{Access, Bytes, beneath, build_id_path, hex, open, open_file};

/// Largest number of mismatches that are named for one missing file.
const MAX_MISMATCHES: usize = 3;

/// Places where files with debug information are looked for.
#[derive(Clone, Debug, Default)]
pub struct DebugSearch {
    /// Directories of debug files, in the order of the search.
    pub directories: Vec<PathBuf>,
    /// Servers that are asked for what no directory has; `None` to ask none.
    pub debuginfod: Option<Debuginfod>,
    /// Remarks on files that are missing or do not match. Lookups in images add to them.
    pub notes: Rc<Notes>,
}

impl DebugSearch {
    /// Creates a search in directories, which asks no server.
    pub fn in_directories(directories: &[PathBuf]) -> Self {
        Self { directories: directories.to_vec(), ..Self::default() }
    }

    /// Asks the servers for the debug file with a build-id, and returns its path.
    pub fn download(&self, build_id: &[u8]) -> Option<PathBuf> {
        self.debuginfod.as_ref()?.find(build_id, &self.notes)
    }

    /// Returns this place in each directory.
    pub fn places<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
        self.directories.iter().map(move |directory| directory.join(path))
    }
}

/// A finder of the files of one image.
#[derive(Clone, Debug)]
pub struct Finder {
    access: Access,
    /// Folder of the image, with and without its links resolved. Empty for the bundled guest.
    folders: Vec<PathBuf>,
    search: DebugSearch,
}

/// A file that was found.
pub struct Found {
    pub bytes: Bytes,
    pub path: PathBuf,
}

/// A file that was found and is not the one that is wanted, and the reason why it cannot be used; `None`
/// for one that can, and is another.
type Mismatch = (PathBuf, Option<String>);

/// A file below a trusted folder.
struct Place {
    folder: PathBuf,
    path: PathBuf,
}

impl Place {
    fn shown(&self) -> PathBuf {
        self.folder.join(&self.path)
    }
}

impl Finder {
    /// Creates a finder for the image at `path`; `None` for the bundled guest.
    pub fn new(access: Access, path: Option<&Path>, search: &DebugSearch) -> Self {
        let folder = |path: PathBuf| path.parent().map(Path::to_owned);
        let resolved = path.and_then(|path| path.canonicalize().ok()).and_then(folder);
        let given = path.and_then(|path| std::path::absolute(path).ok()).and_then(folder);
        let mut folders: Vec<_> = resolved.into_iter().chain(given).collect();
        folders.dedup();
        Self { access, folders, search: search.clone() }
    }

    /// Returns the remarks on files that are missing or do not match.
    pub fn notes(&self) -> &Notes {
        &self.search.notes
    }

    /// Finds the debug file of an image without debug information.
    pub fn debug_file(&self, image: &Image<'_>) -> Option<Found> {
        let by_id = image.build_id().and_then(|id| self.by_build_id(id));
        if by_id.is_some() {
            return by_id;
        }
        let link = image.debuglink();
        let mut mismatches = Vec::new();
        let by_link = link.and_then(|link| self.by_debuglink(&link, &mut mismatches));
        let found = by_link.or_else(|| self.download(image.build_id()?));
        if let (None, Some(link)) = (&found, link) {
            if mismatches.is_empty() {
                let name = String::from_utf8_lossy(link.name);
                let remark =
                    format!("{name}, which the image names as its debug file, was not found");
                self.search.notes.add(remark);
            }
            let expected =
                format!("the checksum in the image is {:08x}, and it has another", link.crc);
            self.name_mismatches(&mismatches, &expected);
        }
        found
    }

    /// Finds the supplementary file that debug information refers to; `holder` is the path of the file with
    /// that.
    pub fn supplementary(
        &self,
        link: &SupplementaryLink<'_>,
        holder: Option<&Path>,
    ) -> Option<Found> {
        let name = Path::new(OsStr::from_bytes(link.name));
        let base = holder.and_then(Path::parent);
        let is_it = |bytes: &[u8]| link.matches(bytes);
        let by_id = self.at_build_id(link.id, &is_it);
        let mut mismatches = Vec::new();
        let found = by_id.or_else(|| self.first(self.named(name, base), &is_it, &mut mismatches));
        if found.is_some() {
            return found;
        }
        let downloaded = self.search.download(link.id);
        let downloaded = downloaded.and_then(|path| self.checked(path, &is_it));
        if downloaded.is_none() {
            let expected = format!("its build-id is not {}", hex(link.id));
            self.explain(
                &name.to_string_lossy(),
                &mismatches,
                &expected,
                "names and types that the image shares",
            );
        }
        downloaded
    }

    /// Finds the package of an image's split units, beside the file with its debug information.
    pub fn package(&self, holder: Option<&Path>) -> Option<Found> {
        let holder = holder?;
        let mut name = holder.file_name()?.to_owned();
        name.push(".dwp");
        let places = self.named(Path::new(&name), holder.parent());
        self.first(places, &|_| true, &mut Vec::new())
    }

    /// Finds a file of an image by the name that the image has for it, relative to `base`. Remarks that
    /// `lost` is missing if there is no such file, or none that `is_it` accepts, which holds for others
    /// than `expected` says.
    pub fn by_name(
        &self,
        name: &Path,
        base: Option<&Path>,
        is_it: &dyn Fn(&[u8]) -> bool,
        expected: &str,
        lost: &str,
    ) -> Option<Found> {
        let mut mismatches = Vec::new();
        let found = self.first(self.named(name, base), is_it, &mut mismatches);
        if found.is_none() {
            self.explain(&name.to_string_lossy(), &mismatches, expected, lost);
        }
        found
    }

    fn by_build_id(&self, id: &[u8]) -> Option<Found> {
        self.at_build_id(id, &|bytes| is_image_with(id, bytes))
    }

    /// Finds a file at the place for its build-id. Links are followed: no image chooses that name, and
    /// distributions link from there.
    fn at_build_id(&self, id: &[u8], is_it: &dyn Fn(&[u8]) -> bool) -> Option<Found> {
        let path = PathBuf::from(build_id_path(id)? + ".debug");
        self.search.places(&path).find_map(|path| self.checked(path, is_it))
    }

    fn download(&self, id: &[u8]) -> Option<Found> {
        self.checked(self.search.download(id)?, &|bytes| is_image_with(id, bytes))
    }

    /// Opens a file whose name no image chose.
    fn checked(&self, path: PathBuf, is_it: &dyn Fn(&[u8]) -> bool) -> Option<Found> {
        let bytes = open(&path, self.access).ok()?;
        if is_it(&bytes) {
            tracing::info!(path = %path.display(), "found a file with debug information");
            return Some(Found { bytes, path });
        }
        self.search.notes.add(format!(
            "{} was found and does not match: it is of another build",
            path.display()
        ));
        None
    }

    fn by_debuglink(&self, link: &DebugLink<'_>, mismatches: &mut Vec<Mismatch>) -> Option<Found> {
        // Only the file's name, not a path.
        let name = Path::new(OsStr::from_bytes(link.name)).file_name()?;
        let place = |folder: &Path, path: PathBuf| Place { folder: folder.to_owned(), path };
        let mut places = Vec::new();
        for folder in &self.folders {
            places.push(place(folder, name.into()));
            places.push(place(folder, Path::new(".debug").join(name)));
        }
        for directory in &self.search.directories {
            let folders = self.folders.iter().filter_map(|folder| folder.strip_prefix("/").ok());
            places.extend(folders.map(|folder| place(directory, folder.join(name))));
        }
        self.first(places, &|bytes| link.matches(bytes), mismatches)
    }

    /// Returns the places of a file that an image names, which is relative to `base`.
    fn named(&self, name: &Path, base: Option<&Path>) -> Vec<Place> {
        let whole = normalized(&base.unwrap_or(Path::new("")).join(name));
        let mut places: Vec<Place> = Vec::new();
        let mut add = |folder: &Path, path: &Path| {
            let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
            let known = places.iter().any(|place| place.folder == folder && place.path == path);
            if is_plain && !known && path.file_name().is_some() {
                places.push(Place { folder: folder.to_owned(), path: path.to_owned() });
            }
        };
        let directories = self.search.directories.iter();
        let directories = directories.filter_map(|directory| std::path::absolute(directory).ok());
        for folder in self.folders.iter().cloned().chain(directories) {
            if let Ok(path) = whole.strip_prefix(&folder) {
                add(&folder, path);
            }
            add(&folder, &normalized(name));
            add(&folder, whole.strip_prefix("/").unwrap_or(&whole));
            add(&folder, name.file_name().map_or(Path::new(""), Path::new));
        }
        places
    }

    /// Opens the first of these files that is the right one. `mismatches` gets those that are another, or
    /// that cannot be used.
    fn first(
        &self,
        places: Vec<Place>,
        is_it: &dyn Fn(&[u8]) -> bool,
        mismatches: &mut Vec<Mismatch>,
    ) -> Option<Found> {
        for place in places {
            let path = place.shown();
            let opened = beneath::open(&place.folder, &place.path);
            let reason = match opened.map(|file| open_file(&path, &file, self.access)) {
                Ok(Ok(bytes)) if is_it(&bytes) => {
                    tracing::info!(path = %path.display(), "found a file with debug information");
                    return Some(Found { bytes, path });
                }
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(error) if is_absent(&error) => continue,
                Err(error) => Some(error.to_string()),
            };
            if mismatches.len() < MAX_MISMATCHES {
                mismatches.push((path, reason));
            }
        }
        None
    }

    /// Remarks that the file `name` is missing, or that the files found in its place are others.
    fn explain(&self, name: &str, mismatches: &[Mismatch], expected: &str, lost: &str) {
        if mismatches.is_empty() {
            self.search.notes.add(format!(
                "{name} was not found, and with it {lost}: give the folder that has it with --debug-dir"
            ));
        }
        self.name_mismatches(mismatches, expected);
    }

    fn name_mismatches(&self, mismatches: &[Mismatch], expected: &str) {
        for (path, reason) in mismatches {
            let path = path.display();
            self.search.notes.add(match reason {
                None => format!("{path} was found and does not match: {expected}"),
                Some(reason) => format!("{path} was found and cannot be used: {reason}"),
            });
        }
    }
}

/// Returns true if a file is an image or a module with this build-id.
fn is_image_with(id: &[u8], bytes: &[u8]) -> bool {
    build_id(bytes) == Some(id) && (is_relocatable(bytes) || Image::parse(bytes).is_ok())
}

/// Returns true if an error means that there is no file.
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidFilename, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidFilename)
}

/// Removes `.` and `..` from a path by its text alone. A `..` at the start remains.
fn normalized(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(normal.components().next_back(), Some(Component::Normal(_))) =>
            {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}
