//! Destinations of a whole output such as a report: a file, which is complete or absent, a device, or
//! standard output.
//!
//! Owns the check before the work starts that a destination can be written; refuses to own what is written.
//! Called by the command line and by farms.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

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

    /// Writes the whole output. A file of that name is replaced in one step.
    ///
    /// # Errors
    /// The output cannot be written. A closed pipe is not an error: its reader has seen enough.
    pub fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let failed = |path: &Path| format!("failed to write {}", path.display());
        match self {
            Self::Stdout => match io::stdout().lock().write_all(bytes) {
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

fn replace(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = atomic_file::temporary(target)?;
    file.write_all(bytes)?;
    atomic_file::persist(file, target)
}
