//! Files of split units (`.dwo`), opened when a lookup needs them.
//!
//! Owns the open files and the bound on them. Refuses to choose their places (`finder`) and to read them
//! (`nmiscope_symbolizer`). Called by the symbolizer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nmiscope_symbolizer::{SharedBytes, SplitFiles, SplitSearch, SplitUnit};

use super::finder::Finder;

/// Largest number of files. A kernel has one for each of its 3,000 or more source files.
const MAX_FILES: usize = 1 << 14;
/// Largest size of all files together, in bytes, those of other builds included.
const MAX_BYTES: u64 = 4 << 30;
/// Largest number of files of other builds that are looked into. A hostile image could name thousands.
const MAX_MISMATCHES: u64 = 32;
/// Largest size of one file, in bytes. That of a large C++ source file takes some 50 MiB.
const MAX_FILE: usize = 256 << 20;

/// The files of an image's split units.
#[derive(Debug)]
pub struct SplitStore {
    finder: Finder,
    /// Bytes of files by DWO ID and name; `None` for a file that was not found.
    opened: RefCell<HashMap<(u64, String), Option<Kept>>>,
    /// Bytes of the open files by path: a file with several units is kept once.
    by_path: RefCell<HashMap<PathBuf, Kept>>,
    bytes: Cell<u64>,
    mismatches: Cell<u64>,
    /// The budget for looking into files, those of other builds included.
    search: SplitSearch,
}

/// The bytes of an open file, without a view of them in debug output.
struct Kept(SharedBytes);

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", (*self.0).as_ref().len())
    }
}

impl SplitStore {
    /// Creates a store without an open file.
    pub fn new(finder: Finder) -> Self {
        Self {
            finder,
            opened: RefCell::default(),
            by_path: RefCell::default(),
            bytes: Cell::new(0),
            mismatches: Cell::new(0),
            search: SplitSearch::default(),
        }
    }

    fn find(&self, unit: &SplitUnit) -> Option<SharedBytes> {
        let expected = format!("its DWO ID is not {:016x}", unit.id);
        let found = self.finder.by_name(
            Path::new(&unit.name),
            unit.directory.as_deref().map(Path::new),
            &|bytes| self.matches(unit, bytes),
            &expected,
            "the inlined calls and variables of its code",
        )?;
        let mut by_path = self.by_path.borrow_mut();
        let kept = by_path.entry(found.path).or_insert_with(|| Kept(Rc::new(found.bytes)));
        Some(Rc::clone(&kept.0))
    }

    fn matches(&self, unit: &SplitUnit, bytes: &[u8]) -> bool {
        self.bytes.set(self.bytes.get().saturating_add(bytes.len() as u64));
        let is_large = bytes.len() > MAX_FILE;
        if is_large {
            let limit = MAX_FILE >> 20;
            self.finder.notes().add(format!("{} is not read: more than {limit} MiB", unit.name));
        }
        let is_it =
            self.mismatches.get() < MAX_MISMATCHES && !is_large && self.search.matches(unit, bytes);
        self.mismatches.set(self.mismatches.get() + u64::from(!is_it));
        is_it
    }

    /// Returns the reason why no more files are opened; `None` if there is none.
    fn is_full(&self) -> Option<String> {
        if self.mismatches.get() >= MAX_MISMATCHES {
            return Some(format!("{MAX_MISMATCHES} others were of other builds"));
        }
        if self.search.is_spent() {
            return Some("the search among others took too much work or memory".to_owned());
        }
        let files = self.opened.borrow().len();
        (files >= MAX_FILES || self.bytes.get() >= MAX_BYTES)
            .then(|| format!("{MAX_FILES} others, or {} GiB, have been", MAX_BYTES >> 30))
    }
}

impl SplitFiles for SplitStore {
    fn open(&self, unit: &SplitUnit) -> Option<SharedBytes> {
        let key = (unit.id, unit.name.clone());
        if let Some(known) = self.opened.borrow().get(&key) {
            return known.as_ref().map(|kept| Rc::clone(&kept.0));
        }
        if let Some(reason) = self.is_full() {
            self.finder.notes().add(format!("{} is not read: {reason}", unit.name));
            return None;
        }
        let found = self.find(unit);
        let kept = found.as_ref().map(|bytes| Kept(Rc::clone(bytes)));
        self.opened.borrow_mut().insert(key, kept);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{Access, DebugSearch};

    /// An image can name itself, thousands of times.
    #[test]
    fn files_of_other_builds_are_looked_into_a_few_times_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("image");
        std::fs::write(&path, b"\x7fELF").expect("a file");
        let search = DebugSearch::default();
        let store = SplitStore::new(Finder::new(Access::Read, Some(&path), &search));
        for id in 0..10_000 {
            let unit = SplitUnit { name: "image".into(), directory: None, id };
            assert!(store.open(&unit).is_none());
        }
        assert_eq!(store.mismatches.get(), MAX_MISMATCHES);
        assert_eq!(store.bytes.get(), 4 * MAX_MISMATCHES);
        let remarks = search.notes.texts();
        let last = remarks.last().expect("a remark");
        assert_eq!(last, "9984 more files with debug information are missing", "{remarks:?}");
    }

    #[test]
    fn files_of_more_than_the_largest_size_are_refused_with_a_remark() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("large.dwo");
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(MAX_FILE as u64 + 1).expect("a sparse file");
        let search = DebugSearch::default();
        let store = SplitStore::new(Finder::new(Access::Map, Some(&path), &search));
        let unit = SplitUnit { name: "large.dwo".into(), directory: None, id: 1 };
        assert!(store.open(&unit).is_none());
        let remarks = search.notes.texts();
        assert_eq!(remarks[0], "large.dwo is not read: more than 256 MiB", "{remarks:?}");
    }
}
