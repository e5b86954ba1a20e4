//! Destinations of a whole output such as a report: a file, which is complete or absent, a device, or
//! standard output.
//!
//! Owns the check before the work starts that a destination can be written; refuses to own what is written.
//! Called by the command line and by farms.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::atomic_file;

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

    /// Keeps an existing file of this name, as `NAME.1.EXTENSION` or with the next number that is free, and
    /// returns its new path; `None` if there is no such file. The file keeps its old name too, until
    /// [`Destination::write`] replaces it.
    ///
    /// # Errors
    /// The file cannot be renamed, or has been kept [`MOST_KEPT`] times.
    pub fn keep_existing(&self) -> anyhow::Result<Option<PathBuf>> {
        let Self::File { path, target } = self else { return Ok(None) };
        if target.symlink_metadata().is_err() {
            return Ok(None);
        }
        for number in 1..=MOST_KEPT {
            match fs::hard_link(target, numbered(target, number)) {
                Ok(()) => return Ok(Some(numbered(path, number))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // Some file systems have no links.
                Err(_) => {
                    return move_to_free_number(target, number)
                        .map(|number| Some(numbered(path, number)));
                }
            }
        }
        anyhow::bail!(
            "failed to keep {}: {MOST_KEPT} files with its name and a number exist",
            path.display()
        )
    }

    /// Returns true if [`Destination::keep_existing`] has a number left.
    pub fn can_keep_existing(&self) -> bool {
        match self {
            Self::File { target, .. } => !(target.exists() && numbered(target, MOST_KEPT).exists()),
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

/// Renames a file to the first free number from `first` on.
fn move_to_free_number(target: &Path, first: u32) -> anyhow::Result<u32> {
    let failed = || format!("failed to keep {}", target.display());
    for number in first..=MOST_KEPT {
        match renameat_with(CWD, target, CWD, numbered(target, number), RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(number),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(io::Error::from(error)).with_context(failed),
        }
    }
    anyhow::bail!("{}: {MOST_KEPT} files with its name and a number exist", failed())
}

fn write_to_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
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
    use super::*;

    fn open(folder: &Path) -> Destination {
        Destination::open(&folder.join("postmortem.json")).unwrap()
    }

    fn text(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap()
    }

    #[test]
    fn existing_files_are_kept_under_the_next_free_number() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let destination = open(folder);
        assert_eq!(destination.keep_existing().unwrap(), None);
        destination.write(b"first").unwrap();
        for (number, written) in [(1, "second"), (2, "third")] {
            let kept = open(folder).keep_existing().unwrap();
            assert_eq!(kept, Some(folder.join(format!("postmortem.{number}.json"))));
            open(folder).write(written.as_bytes()).unwrap();
        }
        assert_eq!(text(folder, "postmortem.1.json"), "first");
        assert_eq!(text(folder, "postmortem.2.json"), "second");
        assert_eq!(text(folder, "postmortem.json"), "third");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 3);
    }

    #[test]
    fn file_is_moved_where_it_cannot_be_linked() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join("postmortem.json"), "first").unwrap();
        fs::write(folder.join("postmortem.1.json"), "another").unwrap();
        assert_eq!(move_to_free_number(&folder.join("postmortem.json"), 1).unwrap(), 2);
        assert_eq!(text(folder, "postmortem.1.json"), "another");
        assert_eq!(text(folder, "postmortem.2.json"), "first");
        assert!(!folder.join("postmortem.json").exists());
    }

    #[test]
    fn numbers_stand_before_the_extension() {
        for (path, expected) in [("a.json", "a.7.json"), ("x/a", "x/a.7"), ("a.b.c", "a.b.7.c")] {
            assert_eq!(numbered(Path::new(path), 7), Path::new(expected));
        }
    }
}
