//! Copies and comparisons of directory trees.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Copies the tree `from` to `to`, by hard links where the file system allows, else by copying bytes.
/// Returns what it left out: symbolic links, which may lead anywhere, and whatever is neither a file nor a
/// directory.
pub fn tree(from: &Path, to: &Path) -> io::Result<Vec<PathBuf>> {
    let mut left_out = Vec::new();
    let mut pending = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = pending.pop() {
        let entries = fs::read_dir(&from)?;
        fs::create_dir_all(&to)?;
        for entry in entries {
            let entry = entry?;
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push((from, to));
            } else if kind.is_file() {
                file(&from, &to)?;
            } else {
                left_out.push(from);
            }
        }
    }
    Ok(left_out)
}

fn file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        // Another file system, one without hard links, or a lack of permission.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            fs::copy(from, to).map(|_| ())
        }
        result => result,
    }
}

/// True if two directories hold the same files with the same bytes. A directory that does not exist counts
/// as empty.
pub fn are_equal(a: Option<&Path>, b: Option<&Path>) -> io::Result<bool> {
    let mut pending = vec![(a.map(Path::to_owned), b.map(Path::to_owned))];
    while let Some((a, b)) = pending.pop() {
        let (in_a, in_b) = (names(a.as_deref())?, names(b.as_deref())?);
        if in_a != in_b {
            return Ok(false);
        }
        let (Some(a), Some(b)) = (a, b) else { continue };
        for name in in_a {
            let (a, b) = (a.join(&name), b.join(&name));
            let (kind, other) =
                (a.symlink_metadata()?.file_type(), b.symlink_metadata()?.file_type());
            if kind != other {
                return Ok(false);
            }
            if kind.is_dir() {
                pending.push((Some(a), Some(b)));
            } else if kind.is_file() && !have_equal_bytes(&a, &b)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn names(directory: Option<&Path>) -> io::Result<BTreeSet<OsString>> {
    let Some(directory) = directory else { return Ok(BTreeSet::new()) };
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

fn have_equal_bytes(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    loop {
        let (in_a, in_b) = (a.fill_buf()?, b.fill_buf()?);
        let length = in_a.len().min(in_b.len());
        if in_a[..length] != in_b[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(in_a.len() == in_b.len());
        }
        a.consume(length);
        b.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copied_tree_equals_the_original_until_one_changes() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/file"), vec![7; 20_000]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).unwrap();
        assert_eq!(tree(&from, &to).unwrap(), [from.join("link")]);
        assert_eq!(names(Some(&to)).unwrap(), BTreeSet::from(["a".into()]));
        let equal = || are_equal(Some(&from), Some(&to)).unwrap();
        assert!(!equal(), "the link is in one of them");
        fs::remove_file(from.join("link")).unwrap();
        assert!(equal());
        // A hard link always equals its target: replace it by another file.
        fs::remove_file(to.join("a/b/file")).unwrap();
        assert!(!equal());
        let mut bytes = vec![7; 20_000];
        bytes[19_999] = 8;
        fs::write(to.join("a/b/file"), bytes).unwrap();
        assert!(!equal());
        fs::write(to.join("a/b/file"), vec![7; 20_000]).unwrap();
        assert!(equal());
        assert!(!are_equal(Some(&from), None).unwrap());
        assert!(are_equal(None, None).unwrap());
    }
}
