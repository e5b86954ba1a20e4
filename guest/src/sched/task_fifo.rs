//! A queue of task numbers, first in, first out. Each is in it at most once, so it never overflows.

use super::MAX_TASKS;

/// A queue of tasks, by their numbers.
#[derive(Debug)]
pub(super) struct TaskFifo {
    len: usize,
    /// The numbers, oldest first. The queue is too short for a ring to be worth its code.
    numbers: [u8; MAX_TASKS],
}

impl TaskFifo {
    /// Makes an empty queue; all its bytes are zero.
    pub(super) const fn new() -> Self {
        Self { len: 0, numbers: [0; MAX_TASKS] }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Appends a task, unless it is in the queue already.
    pub(super) fn push(&mut self, number: usize) {
        if !self.as_slice().contains(&(number as u8))
            && let Some(slot) = self.numbers.get_mut(self.len)
        {
            *slot = number as u8;
            self.len += 1;
        }
    }

    /// Removes the first task and returns it.
    pub(super) fn pop(&mut self) -> Option<usize> {
        let first = *self.as_slice().first()?;
        self.remove_at(0);
        Some(first.into())
    }

    /// Removes a task from any place in the queue.
    pub(super) fn remove(&mut self, number: usize) {
        if let Some(index) = self.as_slice().iter().position(|&other| usize::from(other) == number)
        {
            self.remove_at(index);
        }
    }

    fn remove_at(&mut self, index: usize) {
        self.numbers.copy_within(index + 1..self.len, index);
        self.len -= 1;
    }

    fn as_slice(&self) -> &[u8] {
        &self.numbers[..self.len]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_task_fifo_behaves_like_a_queue_without_duplicates(
            steps in prop::collection::vec((0..3, 0..MAX_TASKS), 0..200),
        ) {
            let (mut fifo, mut model) = (TaskFifo::new(), VecDeque::new());
            for (step, number) in steps {
                match step {
                    0 => {
                        fifo.push(number);
                        if !model.contains(&number) {
                            model.push_back(number);
                        }
                    }
                    1 => prop_assert_eq!(fifo.pop(), model.pop_front()),
                    _ => {
                        fifo.remove(number);
                        model.retain(|&other| other != number);
                    }
                }
                prop_assert_eq!(fifo.len(), model.len());
            }
        }
    }
}
