//! The room that a page has left for parts whose number a guest decides.
//!
//! Owns the limits of a whole page, so that it stays small whatever its report holds; refuses to own what is
//! shown first (the parts of the page, which ask for room in their order).

use std::collections::BTreeSet;

/// The room that a page has left.
#[derive(Debug)]
pub(super) struct Room {
    /// Number of lines of stacks that there is room for.
    lines: usize,
    /// Bytes of registers, of texts of NMI handlers and of other details of vCPUs.
    details: usize,
    /// Rows of the tables of tasks.
    tasks: usize,
    /// Hangs and backtraces that are shown as a part of their own.
    parts: usize,
    /// Number of pictures of vCPUs' histories that there is room for.
    strips: usize,
    /// Places in source files whose lines are shown: as many as there are sources.
    places: BTreeSet<(String, u32)>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            lines: 400,
            details: 16 << 10,
            tasks: 1200,
            parts: 24,
            strips: 1,
            places: BTreeSet::new(),
        }
    }
}

impl Room {
    /// Takes room for some lines of stacks; false where there is none left for all of them.
    pub(super) fn lines(&mut self, wanted: usize) -> bool {
        take(&mut self.lines, wanted)
    }

    /// Takes room for details of some bytes; false where there is none left.
    pub(super) fn details(&mut self, wanted: usize) -> bool {
        take(&mut self.details, wanted)
    }

    /// Takes room for rows of tasks, and returns how many there is room for.
    pub(super) fn tasks(&mut self, wanted: usize) -> usize {
        let given = wanted.min(self.tasks);
        self.tasks -= given;
        given
    }

    /// Takes room for a hang or a backtrace; false where there is none left.
    pub(super) fn part(&mut self) -> bool {
        take(&mut self.parts, 1)
    }

    /// Returns true the first time that a line of a source file is asked for.
    pub(super) fn is_new_place(&mut self, file: &str, line: u32) -> bool {
        self.places.insert((file.to_owned(), line))
    }

    /// Takes room for the picture of a history; false where there is none left.
    pub(super) fn strips(&mut self) -> bool {
        take(&mut self.strips, 1)
    }

    /// Returns true while there is room for the picture of a history.
    pub(super) fn has_strips(&self) -> bool {
        self.strips > 0
    }
}

fn take(left: &mut usize, wanted: usize) -> bool {
    match left.checked_sub(wanted) {
        Some(rest) => *left = rest,
        None => return false,
    }
    true
}
