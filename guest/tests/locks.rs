//! The locks, and what they say of themselves to an observer.
#![cfg(not(loom))]

mod common;

use std::{panic::Location, sync::mpsc, thread, time::Duration};

use common::{Machine, interrupts_are_off, on_cpu, pass};
use nmiscope_guest::{
    abi::LOCK_SPIN,
    sync::{Context, RawSpinLock, SpinLock, Wait, WaitFor},
};

type Lock<T> = SpinLock<T, Machine>;

/// The line of the call.
#[track_caller]
fn here() -> u32 {
    Location::caller().line()
}

#[test]
fn only_one_guard_exists_at_a_time() {
    let lock = Lock::new(1);
    let guard = lock.lock();
    assert!(lock.is_locked());
    assert!(lock.try_lock().is_none());
    assert!(lock.lock_bounded(100).is_none());
    drop(guard);
    assert!(!lock.is_locked());
    assert_eq!(lock.lock_bounded(0).map(|guard| *guard), Some(1));
}

#[test]
fn no_increment_is_lost_between_threads() {
    let lock = Lock::new(0_u32);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| *lock.lock() += 1));
        }
    });
    assert_eq!(*lock.lock(), 4000);
}

#[test]
fn a_lock_says_who_holds_it_and_where_it_was_taken() {
    let lock = Lock::new(());
    assert_eq!((lock.record().holder(), lock.record().taken_at()), (0, None));
    let line = |lock: &Lock<()>| lock.record().taken_at().map(Location::line);
    on_cpu(2, || {
        let (_guard, at) = (lock.lock(), here());
        assert_eq!((lock.record().holder(), line(&lock)), (3, Some(at)));
    });
    on_cpu(1, || {
        let (_guard, at) = (lock.try_lock(), here());
        assert_eq!((lock.record().holder(), line(&lock)), (2, Some(at)));
    });
    on_cpu(3, || {
        let (_guard, at) = (lock.lock_bounded(1), here());
        assert_eq!((lock.record().holder(), line(&lock)), (4, Some(at)));
    });
    // Where it was taken last remains known.
    assert_eq!(lock.record().holder(), 0);
    assert!(line(&lock).is_some());
}

/// The host takes a lock's address from who waits for it, and reads its record there.
#[test]
fn a_lock_begins_with_its_record() {
    let lock = Lock::new(0_u64);
    assert_eq!((&raw const lock).addr(), lock.record().address());
    // SAFETY: the record's first word is an AtomicU32, and nobody writes it.
    let kind = unsafe { (&raw const lock).cast::<u32>().read() };
    assert_eq!(kind, LOCK_SPIN);
    fn is_spin_lock<T>(_: &nmiscope_guest::sync::Lock<T, RawSpinLock, Machine>) {}
    is_spin_lock(&lock);
}

/// Has a thread wait for a held lock by `take`, and looks at what it says meanwhile.
fn observe_waiting(take: fn(&Lock<()>) -> u32) {
    let lock = Lock::new(());
    let held = lock.lock();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            sender.send(Machine::cpu_wait()).unwrap();
            let at = take(&lock);
            assert_eq!(Machine::cpu_wait().what(), None);
            at
        });
        let wait: &Wait = receiver.recv().unwrap();
        while !wait.is_waiting() {
            thread::yield_now();
        }
        assert_eq!(wait.what(), Some(WaitFor::Lock(lock.record().address())));
        let line = wait.at().map(Location::line);
        drop(held);
        assert_eq!(line, Some(waiter.join().unwrap()));
    });
}

#[test]
fn who_waits_for_a_lock_says_for_which_and_where() {
    observe_waiting(|lock| {
        let (_guard, at) = (lock.lock(), here());
        at
    });
    observe_waiting(|lock| {
        let (guard, at) = (lock.lock_bounded(u32::MAX), here());
        assert!(guard.is_some());
        at
    });
}

#[test]
fn a_lock_that_is_free_is_not_waited_for_and_one_that_is_given_up_no_longer() {
    let lock = Lock::new(());
    drop(lock.lock());
    assert!(Machine::cpu_wait().at().is_none());
    let held = lock.lock();
    assert!(lock.try_lock().is_none());
    assert!(Machine::cpu_wait().at().is_none());
    assert!(lock.lock_bounded(1).is_none());
    assert!(!Machine::cpu_wait().is_waiting());
    drop(held);
}

#[test]
fn an_interrupted_wait_goes_on_when_the_inner_one_ends() {
    let outer = Wait::begin_on_this_cpu::<Machine>(WaitFor::CpuOnline(3), Location::caller());
    pass(Duration::from_millis(1));
    let inner = Wait::begin_on_this_cpu::<Machine>(WaitFor::Lock(0x1000), Location::caller());
    assert_eq!(Machine::cpu_wait().what(), Some(WaitFor::Lock(0x1000)));
    drop(inner);
    assert_eq!(Machine::cpu_wait().what(), Some(WaitFor::CpuOnline(3)));
    outer.now_for_cpu(4);
    assert_eq!(Machine::cpu_wait().what(), Some(WaitFor::CpuOnline(4)));
    drop(outer);
    assert_eq!(Machine::cpu_wait().what(), None);
}

#[test]
fn interrupts_are_off_for_as_long_as_an_irqsave_guard_lives() {
    let lock = Lock::new(5);
    let guard = lock.lock_irqsave();
    assert!(interrupts_are_off() && lock.is_locked());
    assert_eq!(*guard, 5);
    drop(guard);
    assert!(!interrupts_are_off() && !lock.is_locked());
}
