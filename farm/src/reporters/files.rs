//! Files of tries that reporters link to.
//!
//! Owns the check that such a file exists in the results directory; refuses to open it. Called by `index` and
//! `markdown`.

use std::path::{Path, PathBuf};

use crate::event::VmFinished;
use crate::relative_path;

/// Returns the path of a try's file, relative to the results directory `root`, by its kind as events spell
/// it.
/// `None` unless it exists there: a journal may name any path, and a file may be gone since.
pub fn existing(root: &Path, end: &VmFinished, kind: &str) -> Option<PathBuf> {
    let relative = end.directory.join(end.files.get(kind)?);
    let path = relative_path::resolve(root, &relative).ok()?;
    path.is_file().then_some(relative)
}
