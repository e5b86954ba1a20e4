//! Runs that wait for their turn.
//!
//! Owns their order, and how often a run that does not fit may be overtaken; refuses to own how much room
//! there is (`budget`). Called by the runner.

use std::collections::VecDeque;

use super::budget::Resources;
use super::event::Id;

/// Number of runs that may overtake one that does not fit, before all others wait for it.
const MAX_OVERTAKEN: u32 = 32;

/// A run that waits for its turn.
#[derive(Debug)]
pub struct WaitingRun {
    /// Identity of the try that is next for this run.
    pub id: Id,
    /// Index of the run's VM.
    pub vm: usize,
    /// Number of runs that have overtaken this one.
    overtaken: u32,
}

/// Waiting runs in the order of their turn.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<WaitingRun>,
}

impl Queue {
    /// Adds a run behind all others.
    pub fn add(&mut self, id: Id, vm: usize) {
        self.waiting.push_back(WaitingRun { id, vm, overtaken: 0 });
    }

    /// Adds a run ahead of all others.
    pub fn add_first(&mut self, id: Id, vm: usize) {
        self.waiting.push_front(WaitingRun { id, vm, overtaken: 0 });
    }

    /// Removes and returns the first run whose `share` fits into `free`. A run that has been overtaken
    /// `MAX_OVERTAKEN` times lets no other pass.
    pub fn take_first_that_fits(
        &mut self,
        free: Resources,
        share: impl Fn(usize) -> Resources,
    ) -> Option<(WaitingRun, Resources)> {
        for at in 0..self.waiting.len() {
            let run = &self.waiting[at];
            let share = share(run.vm);
            if free.without(share).is_some() {
                self.waiting.iter_mut().take(at).for_each(|run| run.overtaken += 1);
                return Some((self.waiting.remove(at)?, share));
            }
            if run.overtaken >= MAX_OVERTAKEN {
                return None;
            }
        }
        None
    }

    /// Returns the number of waiting runs.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True if no run is waiting.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Removes all runs and returns their number.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.waiting).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a queue of VMs that need as many CPUs as their index says.
    fn queue(vms: impl IntoIterator<Item = usize>) -> Queue {
        let mut queue = Queue::default();
        for vm in vms {
            queue.add(Id { name: format!("vm{vm}"), run: 1, attempt: 1 }, vm);
        }
        queue
    }

    fn take(queue: &mut Queue, free: u32) -> Option<usize> {
        let room = |cpus| Resources { cpus, memory: 0 };
        let taken = queue.take_first_that_fits(room(free), |vm| room(vm as u32));
        taken.map(|(run, _)| run.vm)
    }

    #[test]
    fn first_run_that_fits_is_taken() {
        let mut queue = queue([3, 1, 2]);
        assert_eq!(take(&mut queue, 2), Some(1));
        assert_eq!(take(&mut queue, 3), Some(3));
        assert_eq!(take(&mut queue, 1), None);
        assert_eq!(queue.clear(), 1);
    }

    #[test]
    fn run_overtaken_too_often_blocks_all_others() {
        let small = MAX_OVERTAKEN as usize + 1;
        let mut queue = queue([2].into_iter().chain(std::iter::repeat_n(1, small)));
        for _ in 0..MAX_OVERTAKEN {
            assert_eq!(take(&mut queue, 1), Some(1));
        }
        assert_eq!(take(&mut queue, 1), None);
        assert_eq!(take(&mut queue, 2), Some(2));
        assert_eq!(take(&mut queue, 1), Some(1));
    }
}
