//! Opening files whose names come from an image, which is hostile: below a folder that is trusted, and
//! nowhere else.
//!
//! Owns the step from a folder and a name to an open file. Refuses to choose folders and names (`finder`, and
//! `cli/page` for source files).
//! A name may lead through links inside the folder, never out of it, and what it leads to is a regular
//! file.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

/// Flags of the file: not blocked by a pipe without a writer, and no terminal of this process.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const FOLDER: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::DIRECTORY);

/// Opens the regular file at `path` below `folder`.
///
/// # Errors
/// There is no such file, it is no regular file, or `path` leads out of the folder.
pub fn open(folder: &Path, path: &Path) -> io::Result<File> {
    let folder = openat(CWD, folder, FOLDER, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = match openat2(&folder, path, FILE, Mode::empty(), resolve) {
        // Kernels before 5.6 lack the call, and filters of system calls refuse it.
        Err(Errno::NOSYS | Errno::PERM) => walk(folder, path),
        opened => opened,
    };
    let file = opened.map_err(|error| match error {
        Errno::XDEV => io::Error::other("it leads out of the folder"),
        error => error.into(),
    })?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file.into())
}

/// Opens `path` component by component, through no link at all.
fn walk(folder: OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut components = path.components().filter(|part| *part != Component::CurDir).peekable();
    let mut folder = folder;
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else { return Err(Errno::XDEV) };
        if components.peek().is_none() {
            return openat(&folder, name, FILE | OFlags::NOFOLLOW, Mode::empty());
        }
        folder = openat(&folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A way to open a file below a folder.
    type Open = fn(&Path, &Path) -> io::Result<File>;

    fn walked(folder: &Path, path: &Path) -> io::Result<File> {
        let folder = openat(CWD, folder, FOLDER, Mode::empty())?;
        Ok(walk(folder, path)?.into())
    }

    const WAYS: [Open; 2] = [open, walked];

    /// A folder `in` with files and links, beside a file `out`.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("in");
        fs::create_dir_all(inside.join("sub")).expect("a folder");
        fs::write(folder.path().join("out"), "out").expect("a file");
        fs::write(inside.join("file"), "in").expect("a file");
        fs::write(inside.join("sub/file"), "sub").expect("a file");
        symlink("../out", inside.join("link")).expect("a link");
        symlink(folder.path().join("out"), inside.join("absolute")).expect("a link");
        symlink("..", inside.join("up")).expect("a link");
        symlink("file", inside.join("near")).expect("a link");
        folder
    }

    #[test]
    fn files_below_the_folder_are_opened() {
        let folder = folder();
        let inside = folder.path().join("in");
        for open in WAYS {
            for (path, contents) in [("file", "in"), ("./sub/file", "sub")] {
                let mut file = open(&inside, Path::new(path)).expect(path);
                assert_eq!(io::read_to_string(&mut file).expect("a text"), contents);
            }
            assert!(
                open(&inside, Path::new("none"))
                    .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
            );
        }
        assert!(open(&inside, Path::new("near")).is_ok(), "a link inside");
    }

    #[test]
    fn names_and_links_that_lead_out_are_refused() {
        let folder = folder();
        let inside = folder.path().join("in");
        let absolute = folder.path().join("out");
        for open in WAYS {
            for path in ["../out", "link", "absolute", "up/out", "sub/../../out", "/etc/passwd", ""]
            {
                assert!(open(&inside, Path::new(path)).is_err(), "{path}");
            }
            assert!(open(&inside, &absolute).is_err());
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = folder();
        let inside = folder.path().join("in");
        rustix::fs::mkfifoat(CWD, inside.join("pipe"), Mode::RWXU).expect("a pipe");
        for path in ["sub", "pipe", "."] {
            assert!(open(&inside, Path::new(path)).is_err(), "{path}");
        }
    }
}
