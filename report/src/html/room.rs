//! The room that a page has left for parts whose number a guest decides.
//!
//! Owns the limits of a whole page, so that it stays small whatever its report holds; refuses to own what is
//! shown first (the parts of the page, which ask for room in their order).

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
}

impl Default for Room {
    fn default() -> Self {
        Self { lines: 700, details: 28 << 10, tasks: 1200, parts: 24, strips: 1 }
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

    /// Takes room for the picture of a history; false where there is none left.
    pub(super) fn strips(&mut self) -> bool {
        take(&mut self.strips, 1)
    }
}

fn take(left: &mut usize, wanted: usize) -> bool {
    match left.checked_sub(wanted) {
        Some(rest) => *left = rest,
        None => return false,
    }
    true
}
