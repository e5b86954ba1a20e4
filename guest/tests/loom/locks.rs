//! The locks: a holder is alone, sees what the last holder did, and is the one that the record names.

use loom::{cell::UnsafeCell, sync::Arc, thread};
use nmiscope_guest::sync::{Context, Lock, RawLock, SpinLock, TicketLock};

use super::{Machine, become_cpu, explore};

/// A lock around nothing, and the cell that it is to protect: loom reports two threads that access it.
struct World<R> {
    lock: Lock<(), R, Machine>,
    witness: UnsafeCell<u32>,
}

// SAFETY: the lock is to protect `witness`; if it does not, loom reports it.
unsafe impl<R: Sync> Sync for World<R> {}

impl<R: RawLock> World<R> {
    fn add_one(&self) {
        assert_eq!(self.lock.record().holder() as usize, Machine::cpu() + 1);
        // SAFETY: the caller holds the lock; whether that is enough is what loom checks.
        self.witness.with_mut(|witness| unsafe { *witness += 1 });
    }
}

/// Runs two CPUs: CPU 1 takes the lock and then tries to take it again, CPU 0 takes it twice.
fn two_cpus<R: RawLock + Send + Sync + 'static>(lock: fn() -> Lock<(), R, Machine>) {
    let world = Arc::new(World { lock: lock(), witness: UnsafeCell::new(0) });
    let other = {
        let world = world.clone();
        thread::spawn(move || {
            become_cpu(1);
            let guard = world.lock.lock();
            world.add_one();
            drop(guard);
            let guard = world.lock.lock_bounded(1);
            guard.is_some_and(|_guard| {
                world.add_one();
                true
            })
        })
    };
    for _ in 0..2 {
        let _guard = world.lock.lock();
        world.add_one();
    }
    let got_in = other.join().unwrap();
    let _guard = world.lock.lock();
    // SAFETY: as in `add_one`.
    let added = world.witness.with(|witness| unsafe { *witness });
    assert_eq!(added, 3 + u32::from(got_in));
}

#[test]
fn a_spin_lock_lets_in_one_cpu_at_a_time() {
    explore(3, || two_cpus(|| SpinLock::new(())));
}

#[test]
fn a_ticket_lock_lets_in_one_cpu_at_a_time() {
    explore(3, || two_cpus(|| TicketLock::new(())));
}
