//! Files that are complete or absent: written under another name, then renamed.
//!
//! Owns the order of writing, syncing and renaming; refuses to own what is written. Called by `destination`
//! and by farms.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

/// Returns the folder of the file that a path names.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates a file beside `target` that only its owner may read and write (mode 0600), since reports and cores
/// hold parts of a guest's memory. It is removed when dropped, unless [`persist`] gives it the target's
/// name.
///
/// # Errors
/// The folder does not exist, or no file can be created in it.
pub fn temporary(target: &Path) -> io::Result<NamedTempFile> {
    let permissions = Permissions::from_mode(0o600);
    tempfile::Builder::new().permissions(permissions).tempfile_in(folder_of(target))
}

/// Renames a file that [`temporary`] made to `target`, after its contents are on the disk. A file that had
/// that name is replaced.
///
/// # Errors
/// The contents cannot be written, or the file cannot be renamed.
pub fn persist(file: NamedTempFile, target: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(target)?;
    // The folder holds the name. Not all file systems can sync a folder, and the file itself is complete by
    // now.
    let _ = File::open(folder_of(target)).and_then(|folder| folder.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_replaces_another_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("report.json");
        std::fs::write(&target, "old").unwrap();
        std::fs::set_permissions(&target, Permissions::from_mode(0o644)).unwrap();
        persist(temporary(&target).unwrap(), &target).unwrap();
        assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
