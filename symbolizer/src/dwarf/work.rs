//! The budget of work for reading debug information.
//!
//! Owns the count of what lookups have read, and its bounds. Owns no reading: every loop of `dwarf` and its
//! users spends from here before it goes on. The count is of entries, attributes, rows and bytes of text, so
//! that the same questions get the same answers on any machine, whatever its load.
//!
//! A small file can ask for work of its size squared: by entries that share a long abbreviation, a long list
//! of ranges or a long line program. So the bound is on the sum, not on the parts, and the size of the file
//! has no part in it.

use std::cell::Cell;

use super::DwarfError;

/// Work that one question may take. The largest unit of a distribution kernel takes a fiftieth.
const QUESTION: u64 = 1 << 25;
/// Work that all questions together may take before the refills count. An index of all names of a
/// distribution kernel takes a third.
const RESERVE: u64 = 1 << 27;
/// Work that each question adds to the reserve, about the mean of a kernel's units: a long log of a sound
/// image never empties it.
const REFILL: u64 = 1 << 18;
/// Work that a byte of text counts for: a byte of an answer stays in memory and in the report.
const TEXT: u64 = 8;

/// A countdown of the work for one file's debug information. A unit takes some nanoseconds.
#[derive(Debug)]
pub(crate) struct Work {
    question: Cell<u64>,
    /// Work that is left for questions about addresses.
    reserve: Cell<u64>,
    /// Work that is left for passes over all units.
    passes: Cell<u64>,
    is_pass: Cell<bool>,
    is_spent: Cell<bool>,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            question: Cell::new(QUESTION),
            reserve: Cell::new(RESERVE),
            passes: Cell::new(RESERVE),
            is_pass: Cell::new(false),
            is_spent: Cell::new(false),
        }
    }
}

impl Work {
    /// A budget of so much work for questions about addresses, without a refill.
    pub(crate) fn limited(amount: u64) -> Self {
        Self { question: Cell::new(amount), reserve: Cell::new(amount), ..Self::default() }
    }

    /// Work that is left for this question.
    pub(crate) fn left(&self) -> u64 {
        self.question.get().min(self.reserve.get())
    }

    /// Gives back work of a [`limited`](Self::limited) budget.
    pub(crate) fn give_back(&self, amount: u64) {
        self.question.set(self.question.get().saturating_add(amount));
        self.reserve.set(self.reserve.get().saturating_add(amount));
    }

    /// Begins a question about an address.
    pub(crate) fn begin(&self) {
        let reserve = self.reserve.get().saturating_add(REFILL).min(RESERVE);
        self.reserve.set(reserve);
        self.question.set(QUESTION);
        self.is_pass.set(false);
    }

    /// Begins a pass over all units, which has a reserve of its own: addresses are looked up even where it
    /// fails.
    pub(crate) fn begin_pass(&self) {
        self.question.set(u64::MAX);
        self.is_pass.set(true);
    }

    /// Takes work off the budget before it is done.
    ///
    /// # Errors
    /// [`DwarfError::BudgetSpent`] if less than this is left; `what` names the part that was to be read.
    pub(crate) fn spend(&self, amount: u64, what: &'static str) -> Result<(), DwarfError> {
        let reserve = if self.is_pass.get() { &self.passes } else { &self.reserve };
        let left = (self.question.get().checked_sub(amount), reserve.get().checked_sub(amount));
        let (Some(left_of_question), Some(left)) = left else {
            return Err(self.refuse(what));
        };
        self.question.set(left_of_question);
        reserve.set(left);
        Ok(())
    }

    /// Records that a question is not answered for want of work or memory, and returns the error for it.
    pub(crate) fn refuse(&self, what: &'static str) -> DwarfError {
        self.is_spent.set(true);
        DwarfError::BudgetSpent { what }
    }

    /// Takes the work for `length` bytes of text off the budget.
    pub(crate) fn spend_text(&self, length: usize, what: &'static str) -> Result<(), DwarfError> {
        self.spend((length as u64).saturating_mul(TEXT), what)
    }

    /// True if a question was not answered for want of work.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_spent.get()
    }
}

/// A countdown of one operation's items, which it keeps or reads beside the file's [`Work`].
#[derive(Debug)]
pub(crate) struct Budget<'w> {
    work: &'w Work,
    left: u64,
    what: &'static str,
}

impl<'w> Budget<'w> {
    pub(crate) fn new(work: &'w Work, what: &'static str, limit: u64) -> Self {
        Self { work, left: limit, what }
    }

    /// Takes items off both budgets.
    ///
    /// # Errors
    /// [`DwarfError::TooLarge`] or [`DwarfError::BudgetSpent`] if fewer are left.
    pub(crate) fn spend(&mut self, amount: u64) -> Result<(), DwarfError> {
        self.left =
            self.left.checked_sub(amount).ok_or(DwarfError::TooLarge { what: self.what })?;
        self.work.spend(amount, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_a_bound_and_leaves_work_for_the_next() {
        let work = Work::default();
        work.begin();
        assert!(work.spend(QUESTION, "a unit").is_ok() && !work.is_spent());
        assert!(work.spend(1, "a unit").is_err() && work.is_spent());
        work.begin();
        assert_eq!(work.spend(QUESTION, "a unit"), Ok(()));
    }

    #[test]
    fn many_questions_spend_no_more_than_the_reserve_and_the_refills() {
        let work = Work::default();
        let mut spent = 0;
        for _ in 0..1000 {
            work.begin();
            while work.spend(1 << 16, "a unit").is_ok() {
                spent += 1 << 16;
            }
        }
        assert!((RESERVE..=RESERVE + 1000 * REFILL).contains(&spent), "{spent}");
    }
}
