//! Relative paths in results. A journal may come from anywhere, so a path in it is followed only if it
//! stays inside the results directory.
//!
//! Owns the check; refuses to open the file (its callers). Called by `merge`, `junit` and triage.

use std::path::{Component, Path, PathBuf};

/// Reason why a path is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RejectedPath {
    /// Path that is absolute, is empty, or contains `.` or `..`.
    #[error("{} does not lie in the results directory", .0.display())]
    Outside(PathBuf),
    /// Path with a symbolic link in it, which may lead anywhere.
    #[error("{} is a symbolic link", .0.display())]
    Link(PathBuf),
}

/// Joins `root` and a path relative to it, which need not exist.
///
/// # Errors
/// Fails if the path leads out of `root`, or could do so through a symbolic link.
pub fn resolve(root: &Path, relative: &Path) -> Result<PathBuf, RejectedPath> {
    let mut path = root.to_owned();
    for component in relative.components() {
        let Component::Normal(name) = component else {
            return Err(RejectedPath::Outside(relative.into()));
        };
        path.push(name);
        if path.is_symlink() {
            return Err(RejectedPath::Link(path));
        }
    }
    if path == root { Err(RejectedPath::Outside(relative.into())) } else { Ok(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_directory_are_rejected() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        std::os::unix::fs::symlink("/", root.join("link")).unwrap();
        for path in ["", "/etc", "..", "a/../..", "a/..", "./.."] {
            assert_eq!(
                resolve(root, Path::new(path)),
                Err(RejectedPath::Outside(path.into())),
                "{path}"
            );
        }
        for path in ["link", "link/etc"] {
            let refused = Err(RejectedPath::Link(root.join("link")));
            assert_eq!(resolve(root, Path::new(path)), refused, "{path}");
        }
        for path in ["a", "vms/..a/1.1", "vms/a--b/1.1/report.json"] {
            assert_eq!(resolve(root, Path::new(path)), Ok(root.join(path)), "{path}");
        }
    }
}
