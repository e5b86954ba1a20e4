//! Files that are there whole or not at all: written under another name, then renamed.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

/// The folder that a path names a file in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A file beside `target`, with the permissions that a new file there would have. It is removed
/// unless it takes the target's place.
pub fn temporary(target: &Path) -> io::Result<NamedTempFile> {
    let permissions = Permissions::from_mode(0o666);
    tempfile::Builder::new().permissions(permissions).tempfile_in(folder_of(target))
}

/// Gives a file that [`temporary`] made the name `target`, once what is in it is on the disk.
/// Whatever had that name is gone.
pub fn persist(file: NamedTempFile, target: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(target)?;
    // The name is the folder's. Not all file systems can be asked to write one, and the file is
    // there by now.
    let _ = File::open(folder_of(target)).and_then(|folder| folder.sync_all());
    Ok(())
}
