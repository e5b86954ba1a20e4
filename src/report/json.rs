//! Reports as JSON: to a file, all or nothing, or to standard output; and their schema.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::NamedTempFile;

use super::Report;

/// Where a report goes. Made before the work starts, so that a place that cannot be written to is
/// known by then.
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file, which is there whole or not at all.
    File {
        /// Its path.
        path: PathBuf,
        /// The folder in which it is made.
        folder: PathBuf,
    },
}

impl Destination {
    /// Standard output for `-`; otherwise that file, after making sure that it can be written.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let failed = || format!("failed to prepare to write {}", path.display());
        if path.is_dir() {
            anyhow::bail!("{}: it is a directory; name a file in it", failed());
        }
        if path.file_name().is_none() {
            anyhow::bail!("{}: it is not the name of a file", failed());
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        NamedTempFile::new_in(folder).with_context(failed)?;
        Ok(Self::File { path: path.into(), folder: folder.into() })
    }

    /// Whether standard output is to hold nothing but the report.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }

    /// Writes the report. A file of that name is replaced, in one step.
    pub fn write(&self, report: &Report) -> anyhow::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(report).context("failed to encode the report")?;
        bytes.push(b'\n');
        match self {
            Self::Stdout => match io::stdout().lock().write_all(&bytes) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(error).context("failed to write the report to standard output")
                }
                _ => Ok(()),
            },
            Self::File { path, folder } => write_file(path, folder, &bytes)
                .with_context(|| format!("failed to write {}", path.display())),
        }
    }
}

fn write_file(path: &Path, folder: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    #[cfg(unix)]
    {
        // A temporary file is its owner's alone; a report is for whoever may read what is here.
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    file.persist(path)?;
    Ok(())
}

/// The JSON schema of [`Report`], as docs/report.schema.json holds it.
pub fn schema() -> String {
    let schema = schemars::schema_for!(Report);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain JSON");
    text.push('\n');
    text
}
