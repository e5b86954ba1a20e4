//! Where a whole file's worth of output goes, such as a report: to a file, all or nothing, to a device, or
//! to standard output.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::atomic_file;

/// Where something goes. Made before the work starts, so that a place that cannot be written to is
/// known by then.
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file, which is there whole or not at all.
    File {
        /// Its path, as it was given.
        path: PathBuf,
        /// The same with symbolic links followed.
        target: PathBuf,
    },
    /// Something that is there and is no file: a pipe, a terminal, `/dev/null`.
    Device {
        /// Its path.
        path: PathBuf,
        /// Opened for writing.
        device: File,
    },
}

impl Destination {
    /// Standard output for `-`; otherwise that file, after making sure that it can be written.
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
        // The error names a temporary file, which is of no use to anybody.
        atomic_file::temporary(&target)
            .map_err(|error| io::Error::from(error.kind()))
            .with_context(failed)?;
        Ok(Self::File { path: path.into(), target })
    }

    /// Whether standard output is to hold nothing else.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }

    /// What was written to, if it has a name.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Stdout => None,
            Self::File { path, .. } | Self::Device { path, .. } => Some(path),
        }
    }

    /// Writes all of it. A file of that name is replaced, in one step.
    ///
    /// # Errors
    /// It cannot be written. Somebody who reads no more is no error.
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
