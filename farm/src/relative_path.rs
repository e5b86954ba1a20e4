//! Paths that stand in results, which may have been written by anybody: they name what lies in the
//! results directory, or nothing.

use std::path::{Component, Path, PathBuf};

/// Why a path is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RejectedPath {
    /// It is absolute, empty, or has `.` or `..` in it.
    #[error("{} does not lie in the results directory", .0.display())]
    Outside(PathBuf),
    /// A part of it is a symbolic link, which may lead anywhere.
    #[error("{} is a symbolic link", .0.display())]
    Link(PathBuf),
}

/// The path of something in a directory, from its path relative to that. It need not be there.
///
/// # Errors
/// The path leads out of the directory, or may do so.
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
    fn nothing_leads_out_of_a_directory() {
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
        for path in ["a", "vms/..a/1.1", "vms/a%2Fb/1.1/report.json"] {
            assert_eq!(resolve(root, Path::new(path)), Ok(root.join(path)), "{path}");
        }
    }
}
