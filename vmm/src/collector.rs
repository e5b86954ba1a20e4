//! Collecting the answers of many threads, at the cost of one wake-up.
//!
//! Owns the wait; refuses to know the questions (`world`) and the threads that answer (`vcpu`). A channel
//! would wake its receiver for every answer: one thread switch each, on a host with fewer cores than
//! vCPUs.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// State that a collector and its slots share.
struct Shared<T> {
    state: Mutex<State<T>>,
    complete: Condvar,
}

struct State<T> {
    answers: Vec<T>,
    /// Number of slots that exist and have not answered.
    open: usize,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A poisoned lock is sound to use: no code under it panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving end, which waits for answers.
pub(crate) struct Collector<T>(Arc<Shared<T>>);

/// The sending end, for one answer. The collector does not wait for a slot that was dropped without one.
pub(crate) struct Slot<T>(Arc<Shared<T>>);

impl<T> Collector<T> {
    pub(crate) fn new() -> Self {
        let state = Mutex::new(State { answers: Vec::new(), open: 0 });
        Self(Arc::new(Shared { state, complete: Condvar::new() }))
    }

    /// Opens a slot, which is waited for from now on.
    pub(crate) fn slot(&self) -> Slot<T> {
        self.0.lock().open += 1;
        Slot(self.0.clone())
    }

    /// Waits until no slot is open, at most until a point in time. Answers so far are kept.
    pub(crate) fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let guard = self.0.lock();
        let waited = self.0.complete.wait_timeout_while(guard, left, |state| state.open > 0);
        drop(waited);
    }

    /// Returns true if no slot is open.
    pub(crate) fn is_complete(&self) -> bool {
        self.0.lock().open == 0
    }

    /// Passes the answers so far to `inspect`, in the order in which they came.
    pub(crate) fn inspect<R>(&self, inspect: impl FnOnce(&[T]) -> R) -> R {
        inspect(&self.0.lock().answers)
    }

    /// Returns the answers so far. Later ones are dropped.
    pub(crate) fn into_answers(self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().answers)
    }
}

impl<T> Slot<T> {
    pub(crate) fn answer(self, answer: T) {
        self.0.lock().answers.push(answer);
        // The slot is dropped here, which closes it and may end the wait.
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.open -= 1;
        if state.open == 0 {
            self.0.complete.notify_one();
        }
    }
}

impl<T> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_collector_waits_for_answers_and_keeps_their_order() {
        let collector = Collector::new();
        let slots: Vec<Slot<u32>> = (0..3).map(|_| collector.slot()).collect();
        assert!(!collector.is_complete());
        let thread = std::thread::spawn(move || {
            for (slot, answer) in slots.into_iter().zip(7..) {
                slot.answer(answer);
            }
        });
        collector.wait(Instant::now() + LONG);
        assert!(collector.is_complete());
        assert_eq!(collector.inspect(<[u32]>::to_vec), [7, 8, 9]);
        assert_eq!(collector.into_answers(), [7, 8, 9]);
        thread.join().unwrap();
    }

    #[test]
    fn a_dropped_slot_ends_the_wait() {
        let collector = Collector::new();
        let (kept, lost) = (collector.slot(), collector.slot());
        kept.answer(1);
        drop(lost);
        let started = Instant::now();
        collector.wait(started + LONG);
        assert!(started.elapsed() < LONG);
        assert_eq!(collector.into_answers(), [1]);
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_a_late_answer_is_dropped() {
        let collector = Collector::new();
        let late = collector.slot();
        collector.wait(Instant::now() + Duration::from_millis(10));
        assert!(!collector.is_complete());
        assert!(collector.into_answers().is_empty());
        late.answer(1);
    }
}
