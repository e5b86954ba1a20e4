//! Destinations of a whole output such as a report: a file, which is complete or absent, a device, or
//! standard output.
//!
//! Owns the check before the work starts that a destination can be written; refuses to own what is written.
//! Called by the command line and by farms.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::atomic_file::{self, PendingFile};
use crate::blocking::BlockingWriter;

/// The destination of an output. It is opened before the work starts, so that one that cannot be written is
/// reported by then.
///
/// The tool has a destination of cores too: those are written in parts, and renamed when they are complete.
pub enum Destination {
    /// Standard output of the program.
    Stdout,
    /// A file, which is complete or absent.
    File {
        /// Path as it was given, for messages.
        path: PathBuf,
        /// Path with symbolic links followed, which is written to.
        target: PathBuf,
    },
    /// An existing path that is not a regular file: a pipe, a terminal, `/dev/null`.
    Device {
        /// Path as it was given, for messages.
        path: PathBuf,
        /// Device that is open for writing.
        device: File,
    },
}

impl Destination {
    /// Opens a destination: standard output for `-`, otherwise the file of that path.
    ///
    /// # Errors
    /// The path is a directory or names no file, or no file can be created there.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let failed = || format!("failed to prepare to write {}", path.display());
        let target = path.canonicalize().unwrap_or_else(|_| path.into());
        let existing = target.metadata().ok();
        if existing.as_ref().is_some_and(Metadata::is_dir) {
            anyhow::bail!("{}: it is a directory", failed());
        }
        if target.file_name().is_none() {
            anyhow::bail!("{}: it is not the name of a file", failed());
        }
        if existing.is_some_and(|metadata| !metadata.is_file()) {
            let device = File::options().write(true).open(&target).with_context(failed)?;
            return Ok(Self::Device { path: path.into(), device });
        }
        atomic_file::folder_of(&target).metadata().with_context(failed)?;
        atomic_file::remove_abandoned(&target);
        // The error names the temporary file, which the user does not know.
        atomic_file::temporary(&target)
            .map_err(|error| io::Error::from(error.kind()))
            .with_context(failed)?;
        Ok(Self::File { path: path.into(), target })
    }

    /// Returns true for standard output, which then holds nothing else.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }

    /// Returns the path of a file or device; `None` for standard output.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Stdout => None,
            Self::File { path, .. } | Self::Device { path, .. } => Some(path),
        }
    }

    /// Writes the whole output as [`Destination::write`] does, and keeps an existing file of its name, as
    /// `NAME.1.EXTENSION` or with the next number that is free. Several processes may do so at once: each
    /// file is kept. Where an existing file cannot be renamed, the new one gets the number.
    ///
    /// # Errors
    /// The output cannot be written, or [`MOST_KEPT`] numbers are taken.
    pub fn write_and_keep(&self, bytes: &[u8]) -> anyhow::Result<Placed> {
        let Self::File { path, target } = self else {
            self.write(bytes)?;
            return Ok(Placed { written: self.path().map(Path::to_owned), kept: None });
        };
        let failed = || format!("failed to write {}", path.display());
        let mut file = atomic_file::temporary(target).with_context(failed)?;
        file.write_all(bytes).with_context(failed)?;
        persist_and_keep(file, path, target).with_context(failed)
    }

    /// Returns true if [`Destination::write_and_keep`] has a number left.
    pub fn can_keep_existing(&self) -> bool {
        match self {
            Self::File { target, .. } => can_keep_existing(target),
            _ => true,
        }
    }

    /// Writes the whole output. A file of that name is replaced in one step.
    ///
    /// # Errors
    /// The output cannot be written. A closed pipe is not an error: its reader has seen enough.
    pub fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let failed = |path: &Path| format!("failed to write {}", path.display());
        match self {
            Self::Stdout => match write_to_stdout(bytes) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(error).context("failed to write to standard output")
                }
                _ => Ok(()),
            },
            Self::File { path, target } => replace(target, bytes).with_context(|| failed(path)),
            Self::Device { path, device } => {
                (&mut &*device).write_all(bytes).with_context(|| failed(path))
            }
        }
    }
}

/// Largest number of an earlier file that is kept.
pub const MOST_KEPT: u32 = 999;

/// Returns a path with a number before the extension of its name.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Returns true if [`persist_and_keep`] has a number left for an existing file of that name.
pub fn can_keep_existing(target: &Path) -> bool {
    !(target.exists() && numbered(target, MOST_KEPT).exists())
}

/// Gives a whole file the name `target`, and keeps an existing one as [`Destination::write_and_keep`] does.
/// The paths that are returned are made of `path`, the name as it was given.
///
/// # Errors
/// The contents cannot be written to the disk, or [`MOST_KEPT`] numbers are taken.
pub fn persist_and_keep(mut file: PendingFile, path: &Path, target: &Path) -> io::Result<Placed> {
    let (named, kept) = place(&mut file, target)?;
    let written = named.map_or_else(|| path.into(), |number| numbered(path, number));
    Ok(Placed { written: Some(written), kept: kept.map(|number| numbered(path, number)) })
}

/// Paths of a file that was written, and of one that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Path of the new file or device; `None` for standard output.
    pub written: Option<PathBuf>,
    /// Path that the earlier file has now; `None` if there was none, or it has its old name still.
    pub kept: Option<PathBuf>,
}

/// Maximum number of times that an earlier file is moved out of the way, for as many others that write at
/// once.
const MOST_MOVES: u32 = 100;

/// Gives a file the name `target`, and an earlier one of that name a number. Returns the number that the new
/// file has, if it has one, and that of the earlier file.
fn place(file: &mut PendingFile, target: &Path) -> io::Result<(Option<u32>, Option<u32>)> {
    let mut kept = None;
    for _ in 0..MOST_MOVES {
        match atomic_file::persist_new(file, target) {
            Ok(()) => return Ok((None, kept)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => break,
        }
        match to_free_number(target, |name| atomic_file::rename_to_free(target, name)) {
            Ok(number) => kept = Some(number),
            // Another process has moved it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => break,
        }
    }
    let number = to_free_number(target, |name| atomic_file::persist_new(file, name))?;
    Ok((Some(number), kept))
}

/// Calls `give` with the numbered names of a file, until one is free. Returns its number.
fn to_free_number(target: &Path, mut give: impl FnMut(&Path) -> io::Result<()>) -> io::Result<u32> {
    for number in 1..=MOST_KEPT {
        match give(&numbered(target, number)) {
            Ok(()) => return Ok(number),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("{MOST_KEPT} files with its name and a number exist")))
}

fn write_to_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = BlockingWriter::new(io::stdout().lock(), rustix::stdio::stdout());
    stdout.write_all(bytes)?;
    // Bytes after the last line feed are in a buffer until now.
    stdout.flush()
}

fn replace(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = atomic_file::temporary(target)?;
    file.write_all(bytes)?;
    atomic_file::persist(file, target)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open(folder: &Path) -> Destination {
        Destination::open(&folder.join("postmortem.json")).unwrap()
    }

    fn text(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap()
    }

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut texts: Vec<String> =
            entries.map(|path| fs::read_to_string(path).unwrap()).collect();
        texts.sort();
        texts
    }

    #[test]
    fn existing_files_are_kept_under_the_next_free_number() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let path = |name: &str| Some(folder.join(name));
        fs::write(folder.join("postmortem.2.json"), "another").unwrap();
        for (written, kept) in [
            ("first", None),
            ("second", path("postmortem.1.json")),
            ("third", path("postmortem.3.json")),
        ] {
            let placed = open(folder).write_and_keep(written.as_bytes()).unwrap();
            assert_eq!(placed, Placed { written: path("postmortem.json"), kept });
        }
        assert_eq!(text(folder, "postmortem.1.json"), "first");
        assert_eq!(text(folder, "postmortem.2.json"), "another");
        assert_eq!(text(folder, "postmortem.3.json"), "second");
        assert_eq!(text(folder, "postmortem.json"), "third");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 4);
    }

    #[test]
    fn files_that_are_written_at_once_are_all_kept() {
        for _ in 0..10 {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let write = |number: usize| {
                let destination = open(folder);
                move || destination.write_and_keep(number.to_string().as_bytes()).unwrap()
            };
            std::thread::scope(|scope| {
                (0..8).for_each(|number| drop(scope.spawn(write(number))));
            });
            assert_eq!(files(folder), ["0", "1", "2", "3", "4", "5", "6", "7"]);
            assert!(folder.join("postmortem.json").exists());
        }
    }

    #[test]
    fn numbers_stand_before_the_extension() {
        for (path, expected) in [("a.json", "a.7.json"), ("x/a", "x/a.7"), ("a.b.c", "a.b.7.c")] {
            assert_eq!(numbered(Path::new(path), 7), Path::new(expected));
        }
    }
}
