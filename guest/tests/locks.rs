//! The locks, and the records that they keep for an observer.
#![cfg(not(loom))]

mod common;

use std::{panic::Location, sync::mpsc, thread, time::Duration};

use common::{ThreadMachine, interrupts_are_off, on_cpu, pass};
use nmiscope_guest::{
    abi::{LOCK_SPIN, LOCK_TICKET},
    sync::{Context, Lock, RawLock, SpinLock, TicketLock, Wait, WaitFor},
};

type Counter<R> = Lock<u32, R, ThreadMachine>;

/// Returns the source line of the call.
#[track_caller]
fn here() -> u32 {
    Location::caller().line()
}

/// Defines each test for both kinds of locks.
macro_rules! both_locks {
    ($($test:ident;)*) => {
        mod spin_lock {
            use super::*;
            $(#[test] fn $test() { super::$test::<_>(SpinLock::new(0)); })*
        }
        mod ticket_lock {
            use super::*;
            $(#[test] fn $test() { super::$test::<_>(TicketLock::new(0)); })*
        }
    };
}

both_locks! {
    only_one_guard_exists_at_a_time;
    no_increment_is_lost_between_threads;
    a_lock_records_its_holder_and_where_it_was_taken;
    a_lock_begins_with_its_record;
    a_waiter_records_its_lock_and_its_place;
    a_bounded_waiter_records_its_lock_and_its_place;
    no_wait_is_recorded_for_a_free_or_given_up_lock;
    interrupts_are_off_while_an_irqsave_guard_lives;
}

fn only_one_guard_exists_at_a_time<R: RawLock>(lock: Counter<R>) {
    let guard = lock.lock();
    assert!(lock.is_locked());
    assert!(lock.try_lock().is_none());
    assert!(lock.lock_bounded(100).is_none());
    drop(guard);
    assert!(!lock.is_locked());
    assert_eq!(lock.lock_bounded(0).map(|guard| *guard), Some(0));
}

fn no_increment_is_lost_between_threads<R: RawLock + Sync>(lock: Counter<R>) {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| *lock.lock() += 1));
        }
    });
    assert_eq!(*lock.lock(), 4000);
}

fn a_lock_records_its_holder_and_where_it_was_taken<R: RawLock>(lock: Counter<R>) {
    assert_eq!((lock.record().holder(), lock.record().taken_at()), (0, None));
    let line = |lock: &Counter<R>| lock.record().taken_at().map(Location::line);
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
    // The place where it was taken last stays recorded.
    assert_eq!(lock.record().holder(), 0);
    assert!(line(&lock).is_some());
}

/// The host takes a lock's address from its waiter, and reads the lock's record there.
fn a_lock_begins_with_its_record<R: RawLock>(lock: Counter<R>) {
    assert_eq!((&raw const lock).addr(), lock.record().address());
    // SAFETY: the record's first word is an AtomicU32, and there is no writer.
    let kind = unsafe { (&raw const lock).cast::<u32>().read() };
    assert_eq!(kind, R::KIND);
    assert!([LOCK_SPIN, LOCK_TICKET].contains(&kind));
}

/// Makes a thread wait for a held lock by `take`, and checks the record of its wait meanwhile.
fn observe_waiting<R: RawLock + Sync>(lock: Counter<R>, take: fn(&Counter<R>) -> u32) {
    let held = lock.lock();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            sender.send(ThreadMachine::cpu_wait()).unwrap();
            let at = take(&lock);
            assert_eq!(ThreadMachine::cpu_wait().what(), None);
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

fn a_waiter_records_its_lock_and_its_place<R: RawLock + Sync>(lock: Counter<R>) {
    observe_waiting(lock, |lock| {
        let (_guard, at) = (lock.lock(), here());
        at
    });
}

fn a_bounded_waiter_records_its_lock_and_its_place<R: RawLock + Sync>(lock: Counter<R>) {
    observe_waiting(lock, |lock| {
        let (guard, at) = (lock.lock_bounded(u32::MAX), here());
        assert!(guard.is_some());
        at
    });
}

fn no_wait_is_recorded_for_a_free_or_given_up_lock<R: RawLock>(lock: Counter<R>) {
    drop(lock.lock());
    assert!(ThreadMachine::cpu_wait().at().is_none());
    let held = lock.lock();
    assert!(lock.try_lock().is_none());
    assert!(ThreadMachine::cpu_wait().at().is_none());
    assert!(lock.lock_bounded(1).is_none());
    assert!(!ThreadMachine::cpu_wait().is_waiting());
    drop(held);
}

#[test]
fn an_interrupted_wait_is_restored_when_the_inner_one_ends() {
    let outer = Wait::begin_on_this_cpu::<ThreadMachine>(WaitFor::CpuOnline(3), Location::caller());
    pass(Duration::from_millis(1));
    let inner = Wait::begin_on_this_cpu::<ThreadMachine>(WaitFor::Lock(0x1000), Location::caller());
    assert_eq!(ThreadMachine::cpu_wait().what(), Some(WaitFor::Lock(0x1000)));
    drop(inner);
    assert_eq!(ThreadMachine::cpu_wait().what(), Some(WaitFor::CpuOnline(3)));
    outer.now_for_cpu(4);
    assert_eq!(ThreadMachine::cpu_wait().what(), Some(WaitFor::CpuOnline(4)));
    drop(outer);
    assert_eq!(ThreadMachine::cpu_wait().what(), None);
}

fn interrupts_are_off_while_an_irqsave_guard_lives<R: RawLock>(lock: Counter<R>) {
    let guard = lock.lock_irqsave();
    assert!(interrupts_are_off() && lock.is_locked());
    assert_eq!(*guard, 0);
    drop(guard);
    assert!(!interrupts_are_off() && !lock.is_locked());
}

#[test]
fn a_ticket_lock_is_taken_in_order_of_arrival() {
    const WAITERS: u32 = 6;
    let lock = TicketLock::<Vec<u32>, ThreadMachine>::new(Vec::new());
    let held = lock.lock();
    thread::scope(|scope| {
        for waiter in 0..WAITERS {
            let (sender, receiver) = mpsc::channel();
            let lock = &lock;
            scope.spawn(move || {
                sender.send(ThreadMachine::cpu_wait()).unwrap();
                lock.lock().push(waiter);
            });
            // The next waiter starts only then.
            let wait: &Wait = receiver.recv().unwrap();
            while !wait.is_waiting() {
                thread::yield_now();
            }
        }
        assert!(lock.try_lock().is_none());
        drop(held);
    });
    assert!(lock.lock().iter().copied().eq(0..WAITERS));
}
