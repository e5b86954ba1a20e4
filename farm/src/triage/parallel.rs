//! Parallel processing of many small items.
//!
//! Owns the threads and the bound on waiting results; refuses to own the work. Called by `scan`.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;

/// Maximum number of threads: a few suffice to read files at full speed.
const MAX_THREADS: usize = 8;

/// Maximum number of results that wait for the caller.
const WAITING: usize = 64;

/// Calls `process` for each item on several threads, and `take` with each result on this one, in the order of
/// completion.
pub fn for_each<T: Sync, R: Send>(
    items: &[T],
    process: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(&T, R),
) {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, results) = mpsc::sync_channel(WAITING);
        for _ in 0..threads.min(items.len()) {
            let (sender, next, process) = (sender.clone(), &next, &process);
            scope.spawn(move || {
                while let Some(item) = items.get(next.fetch_add(1, Relaxed)) {
                    if sender.send((item, process(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (item, result) in results {
            take(item, result);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_processed_once() {
        for count in [0, 1, 1000] {
            let items: Vec<u32> = (0..count).collect();
            let mut done = Vec::new();
            for_each(&items, |item| item * 2, |item, result| done.push((*item, result)));
            done.sort_unstable();
            assert_eq!(done, items.iter().map(|&item| (item, item * 2)).collect::<Vec<_>>());
        }
    }
}
