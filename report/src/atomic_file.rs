//! Files and directories that are complete or absent: written without a name or under another one, then
//! given their name.
//!
//! Owns the order of writing, syncing and naming, and the removal of what a killed process left; refuses to
//! own what is written. Called by `destination`, by cores and by farms.
//!
//! A file has no name while it is written, where the file system has that (O_TMPFILE): nothing remains of it
//! if its process is killed. Elsewhere, and for the moment in which a file replaces another,
//! it is named `.nmiscope-DIGITS.tmp` and locked (flock(2)) as long as its process lives, as a directory is
//! always. The next process that writes into the folder removes those that nobody locks.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, openat, renameat_with};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Mode of a new file: reports and cores hold parts of a guest's memory.
const OWNER_ONLY: u32 = 0o600;

const PREFIX: &str = ".nmiscope-";
const SUFFIX: &str = ".tmp";
/// Number of hexadecimal digits between prefix and suffix.
const DIGITS: usize = 16;

/// Largest number of names that are tried for one file.
const NAMES: usize = 16;

/// Largest number of a directory's entries that are searched for files to remove.
const ENTRIES: usize = 100_000;

/// A file that is being written, and that disappears when it is dropped unless [`persist`] names it.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    /// Name that is removed on a drop; `None` for a file without a name.
    temporary: Option<PathBuf>,
}

impl PendingFile {
    /// Returns the file, which can be read and written.
    pub fn as_file(&self) -> &File {
        &self.file
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // An error cannot be handled here, and the next process tries again.
            let _ = fs::remove_file(name);
        }
    }
}

/// A directory that is being filled, and that disappears when it is dropped unless
/// [`PendingDirectory::persist`] names it.
#[derive(Debug)]
pub struct PendingDirectory {
    /// Temporary path; `None` once it has another name.
    temporary: Option<PathBuf>,
    /// Open directory, whose lock says that its process lives.
    _lock: File,
}

impl PendingDirectory {
    /// Creates an empty directory to take the place of `target`, with the usual permissions.
    ///
    /// # Errors
    /// The folder does not exist, or nothing can be created in it.
    pub fn new(target: &Path) -> io::Result<Self> {
        for _ in 0..NAMES {
            let name = temporary_name(folder_of(target));
            match fs::create_dir(&name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                created => created?,
            }
            let lock = File::open(&name)?;
            let is_locked = lock.try_lock();
            let pending = Self { temporary: Some(name), _lock: lock };
            // As for a file, another process may remove it until it is locked.
            if !matches!(is_locked, Err(fs::TryLockError::WouldBlock)) && pending.path().exists() {
                return Ok(pending);
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }

    /// Returns the path at which the directory is filled.
    pub fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(Path::new(""))
    }

    /// Gives the directory its name. An empty directory of that name is replaced.
    ///
    /// # Errors
    /// The directory cannot be renamed.
    pub fn persist(mut self, target: &Path) -> io::Result<()> {
        fs::rename(self.path(), target)?;
        self.temporary = None;
        sync_folder(target);
        Ok(())
    }
}

impl Drop for PendingDirectory {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // An error cannot be handled here, and the next process tries again.
            let _ = fs::remove_dir_all(name);
        }
    }
}

/// Returns the folder of the file that a path names.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates a file to take the place of `target` that only its owner may read and write (mode 0600).
///
/// # Errors
/// The folder does not exist, or no file can be created in it.
pub fn temporary(target: &Path) -> io::Result<PendingFile> {
    let folder = folder_of(target);
    match unnamed(folder) {
        Some(file) => Ok(PendingFile { file, temporary: None }),
        None => named(folder),
    }
}

/// Creates a file without a name; `None` if the file system has none, or no way to name it later.
fn unnamed(folder: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, folder, flags, Mode::from_raw_mode(OWNER_ONLY)).ok()?);
    descriptor_path(&file).exists().then_some(file)
}

/// Creates a locked file with a temporary name.
fn named(folder: &Path) -> io::Result<PendingFile> {
    for _ in 0..NAMES {
        let name = temporary_name(folder);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(OWNER_ONLY);
        let file = match options.open(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        // Where there are no locks, nobody removes the file either.
        let lock = file.try_lock();
        let pending = PendingFile { file, temporary: Some(name) };
        // Another process may take the file for a dead one's until it is locked.
        if matches!(lock, Err(fs::TryLockError::WouldBlock))
            || pending.file.metadata()?.nlink() == 0
        {
            continue;
        }
        return Ok(pending);
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

/// Gives a file that [`temporary`] made its name, after its contents are on the disk. A file that had that
/// name is replaced in one step.
///
/// # Errors
/// The contents cannot be written, or the file cannot be named.
pub fn persist(mut file: PendingFile, target: &Path) -> io::Result<()> {
    // A link cannot replace a file, but a file with another name can.
    if link_or_copy(&mut file, target)? == Linked::NameIsTaken {
        name(&mut file, target)?;
    }
    if let Some(temporary) = &file.temporary {
        fs::rename(temporary, target)?;
        file.temporary = None;
    }
    sync_folder(target);
    Ok(())
}

/// Gives a file that [`temporary`] made its name, after its contents are on the disk, unless another file has
/// that name. After an error the file can be given another name.
///
/// # Errors
/// The name is taken (`AlreadyExists`), the contents cannot be written, or the file cannot be named.
pub fn persist_new(file: &mut PendingFile, target: &Path) -> io::Result<()> {
    if link_or_copy(file, target)? == Linked::NameIsTaken {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    if let Some(temporary) = &file.temporary {
        match rename_to_free(temporary, target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) => file.temporary = None,
            // A network file system may have links only. The temporary name is removed on a drop.
            Err(_) => fs::hard_link(temporary, target)?,
        }
    }
    sync_folder(target);
    Ok(())
}

/// Outcome of the attempt to give a file its name by [`link_or_copy`].
#[derive(Debug, PartialEq, Eq)]
enum Linked {
    /// The file has its name, or a temporary one, by which it can be renamed.
    Named,
    /// The file has no name, since another one has it.
    NameIsTaken,
}

/// Writes a file's contents to the disk, and gives it its name if it has none.
fn link_or_copy(file: &mut PendingFile, target: &Path) -> io::Result<Linked> {
    file.file.sync_all()?;
    if file.temporary.is_none() {
        match link(&file.file, target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Ok(Linked::NameIsTaken);
            }
            // A security module may forbid links.
            Err(_) => *file = named_copy(&file.file, target)?,
        }
    }
    Ok(Linked::Named)
}

/// Renames a file, unless another one has the new name.
///
/// # Errors
/// The name is taken (`AlreadyExists`), there is no such file (`NotFound`), or the file system or its
/// permissions do not allow it.
pub fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            // The name is taken by an empty file first, which nobody else then takes for free.
            File::options().write(true).create_new(true).mode(OWNER_ONLY).open(to)?;
            fs::rename(from, to).inspect_err(|_| drop(fs::remove_file(to)))
        }
        renamed => Ok(renamed?),
    }
}

/// Copies a file to one with a temporary name, in the folder of `target`.
fn named_copy(file: &File, target: &Path) -> io::Result<PendingFile> {
    let mut source = file.try_clone()?;
    source.rewind()?;
    let mut copy = named(folder_of(target))?;
    io::copy(&mut source, &mut copy.file)?;
    copy.file.sync_all()?;
    Ok(copy)
}

/// Names an unnamed file temporarily, in the folder of `target`.
fn name(file: &mut PendingFile, target: &Path) -> io::Result<()> {
    // Locked before it has a name. Where there are no locks, nobody removes the file.
    let _ = file.file.try_lock();
    for _ in 0..NAMES {
        let name = temporary_name(folder_of(target));
        match link(&file.file, &name) {
            Ok(()) => {
                file.temporary = Some(name);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

/// Writes a folder's names to the disk. Not all file systems can, and the file itself is complete by then.
fn sync_folder(target: &Path) {
    let _ = File::open(folder_of(target)).and_then(|folder| folder.sync_all());
}

fn link(file: &File, name: &Path) -> io::Result<()> {
    // The descriptor itself could be linked with a capability only (linkat(2), AT_EMPTY_PATH).
    Ok(linkat(CWD, descriptor_path(file), CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

fn descriptor_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn temporary_name(folder: &Path) -> PathBuf {
    // Each state is seeded anew; the number need not be secret.
    let number = RandomState::new().hash_one(std::process::id());
    folder.join(format!("{PREFIX}{number:0DIGITS$x}{SUFFIX}"))
}

/// Returns true for a name that [`temporary_name`] may have made.
fn is_temporary_name(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
    digits.is_some_and(|digits| {
        digits.len() == DIGITS
            && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Removes the files and directories that killed processes left in the folder of `target`. What cannot be removed stays.
pub fn remove_abandoned(target: &Path) {
    let Ok(entries) = fs::read_dir(folder_of(target)) else { return };
    for entry in entries.take(ENTRIES).flatten() {
        if entry.file_name().to_str().is_some_and(is_temporary_name) {
            // An error means that the file is another's, or gone.
            let _ = remove_if_abandoned(&entry.path());
        }
    }
}

fn remove_if_abandoned(path: &Path) -> io::Result<()> {
    let is_directory = fs::symlink_metadata(path)?.is_dir();
    // Neither a link nor a pipe is followed or waited for. Some file systems lock only what can be written.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).write(!is_directory).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    let is_private_file = found.is_file() && found.mode() & 0o077 == 0;
    let is_ours = found.uid() == geteuid().as_raw() && (is_private_file || found.is_dir());
    if !is_ours || file.try_lock().is_err() {
        return Ok(());
    }
    // The name may have become another file's by now.
    let now = fs::symlink_metadata(path)?;
    if (now.dev(), now.ino()) != (found.dev(), found.ino()) {
        return Ok(());
    }
    if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn file_that_replaces_another_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("report.json");
        for make in [temporary, |target: &Path| named(folder_of(target))] {
            fs::write(&target, "old").unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
            let mut file = make(&target).unwrap();
            file.write_all(b"new").unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"old");
            persist(file, &target).unwrap();
            assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::read(&target).unwrap(), b"new");
            assert_eq!(names(folder.path()), ["report.json"]);
        }
    }

    #[test]
    fn new_file_takes_no_name_that_another_has() {
        for make in [temporary, |target: &Path| named(folder_of(target))] {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("report.json");
            fs::write(&target, "old").unwrap();
            let mut file = make(&target).unwrap();
            file.write_all(b"new").unwrap();
            let taken = persist_new(&mut file, &target).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
            let free = folder.path().join("report.1.json");
            persist_new(&mut file, &free).unwrap();
            drop(file);
            assert_eq!(fs::read(&target).unwrap(), b"old");
            assert_eq!(fs::read(&free).unwrap(), b"new");
            assert_eq!(names(folder.path()), ["report.1.json", "report.json"]);
        }
    }

    #[test]
    fn copy_of_a_file_without_a_name_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("report.json");
        let mut file = temporary(&target).unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        let copy = named_copy(file.as_file(), &target).unwrap();
        drop(file);
        persist(copy, &target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), [7; 100_000]);
        assert_eq!(names(folder.path()), ["report.json"]);
    }

    #[test]
    fn dropped_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(temporary(&folder.path().join("x")).unwrap());
        drop(named(folder.path()).unwrap());
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn directory_replaces_an_empty_one_and_leaves_nothing_if_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("merged");
        fs::create_dir(&target).unwrap();
        let fill = || {
            let pending = PendingDirectory::new(&target).unwrap();
            fs::write(pending.path().join("file"), "x").unwrap();
            pending
        };
        drop(fill());
        assert_eq!(names(folder.path()), ["merged"]);
        assert_eq!(names(&target), [""; 0]);
        fill().persist(&target).unwrap();
        assert_eq!(names(folder.path()), ["merged"]);
        assert_eq!(names(&target), ["file"]);
    }

    #[test]
    fn only_abandoned_directories_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("merged");
        let abandoned = folder.path().join(".nmiscope-0123456789abcdef.tmp");
        fs::create_dir_all(abandoned.join("vms")).unwrap();
        fs::write(abandoned.join("vms/report.json"), "x").unwrap();
        let in_use = PendingDirectory::new(&target).unwrap();
        remove_abandoned(&target);
        let in_use = in_use.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(names(folder.path()), [in_use]);
    }

    #[test]
    fn only_abandoned_files_of_ours_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("report.json");
        let write = |name: &str, mode| {
            let path = folder.path().join(name);
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write(".nmiscope-0123456789abcdef.tmp", 0o600);
        // Names and modes that no file of ours has.
        let kept = [
            (".nmiscope-0123456789ABCDEF.tmp", 0o600),
            (".nmiscope-0123456789abcde.tmp", 0o600),
            (".nmiscope-0123456789abcdef.tmp.old", 0o600),
            (".nmiscope-00000000000000aa.tmp", 0o644),
            (".tmpAbCdEf", 0o600),
        ];
        kept.iter().for_each(|(name, mode)| write(name, *mode));
        let link = folder.path().join(".nmiscope-00000000000000bb.tmp");
        std::os::unix::fs::symlink(folder.path().join(".tmpAbCdEf"), &link).unwrap();
        let in_use = named(folder.path()).unwrap();
        let in_use_name = in_use.temporary.clone().unwrap();

        remove_abandoned(&target);
        let mut expected: Vec<String> = kept.iter().map(|(name, _)| (*name).to_owned()).collect();
        expected.push(".nmiscope-00000000000000bb.tmp".into());
        expected.push(in_use_name.file_name().unwrap().to_str().unwrap().to_owned());
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }
}
