//! Remarks on files that are missing or do not match, for people.
//!
//! Owns that each is made once, and their bound: a hostile image may name thousands of files. Called by
//! `finder`, and read by whoever shows warnings.

use std::cell::{Cell, RefCell};

/// Largest number of remarks that are kept.
const MAX_NOTES: usize = 16;

/// Remarks on files, each a sentence.
#[derive(Debug, Default)]
pub struct Notes {
    texts: RefCell<Vec<String>>,
    omitted: Cell<u64>,
}

impl Notes {
    /// Adds a remark, unless it has been made.
    pub fn add(&self, text: String) {
        let mut texts = self.texts.borrow_mut();
        if texts.contains(&text) {
            return;
        }
        if texts.len() < MAX_NOTES {
            texts.push(text);
        } else {
            self.omitted.set(self.omitted.get() + 1);
        }
    }

    /// Adds the remarks to warnings that lack them: a core may have those of its run.
    pub fn add_to(&self, warnings: &mut Vec<String>) {
        for text in self.texts() {
            if !warnings.contains(&text) {
                warnings.push(text);
            }
        }
    }

    /// Returns the remarks, and in the last the number of those that are left out.
    pub fn texts(&self) -> Vec<String> {
        let mut texts = self.texts.borrow().clone();
        match self.omitted.get() {
            0 => {}
            1 => texts.push("1 more file with debug information is missing".into()),
            more => texts.push(format!("{more} more files with debug information are missing")),
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_are_made_once_and_bounded() {
        let notes = Notes::default();
        for number in 0..30 {
            notes.add(format!("{number} is missing"));
            notes.add("0 is missing".into());
        }
        let texts = notes.texts();
        assert_eq!(texts.len(), MAX_NOTES + 1);
        assert_eq!(texts[MAX_NOTES], "14 more files with debug information are missing");
    }
}
