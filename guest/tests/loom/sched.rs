//! Tasks that sleep: nobody sleeps past a wake-up, and a mutex lets in one at a time.
//!
//! CPU n has one task, task n: a thread is the task, and while that sleeps, the CPU's main loop.

use loom::{
    cell::UnsafeCell,
    sync::{
        Notify,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};
use nmiscope_guest::sched::{
    MAX_TASKS, Mutex, RunQueue, Sched, Task, WaitQueue, schedule, take_next, wake_up_task,
};
use nmiscope_guest::sync::Context;

use super::{CPUS, Machine, become_cpu, explore};

struct Cpus {
    tasks: [Task; MAX_TASKS],
    run_queues: [RunQueue<Machine>; CPUS],
    /// The reschedule interrupts.
    interrupts: [Notify; CPUS],
}

loom::lazy_static! {
    static ref MACHINE: Cpus = Cpus {
        tasks: Default::default(),
        run_queues: Default::default(),
        interrupts: std::array::from_fn(|_| Notify::new()),
    };
}

impl Sched for Machine {
    fn task(number: usize) -> &'static Task {
        &MACHINE.tasks[number]
    }

    fn run_queue(cpu: usize) -> &'static RunQueue<Self> {
        &MACHINE.run_queues[cpu]
    }

    fn set_nr_running(_cpu: usize, _count: u32) {}

    fn current_task() -> Option<usize> {
        Some(Self::cpu())
    }

    /// The main loop, until it runs the task again. Without a wake-up it waits for good, which loom
    /// takes for a deadlock.
    fn switch_from_task(number: usize) {
        loop {
            match take_next::<Self>() {
                Some(next) => return assert_eq!(next, number),
                None => MACHINE.interrupts[number].wait(),
            }
        }
    }

    fn send_reschedule_ipi(cpu: usize) {
        MACHINE.interrupts[cpu].notify();
    }
}

/// From here on, this thread is the task of that CPU.
fn become_task(number: usize) {
    become_cpu(number);
    MACHINE.tasks[number].create("task", number, 0);
    assert!(wake_up_task::<Machine>(number));
    assert_eq!(take_next::<Machine>(), Some(number));
}

struct World {
    mutex: Mutex<(), Machine>,
    queue: WaitQueue<Machine>,
    /// Written by whoever holds the mutex: loom reports a second one.
    witness: UnsafeCell<u32>,
    /// What the queue's waiters wait for.
    flag: AtomicU32,
}

// SAFETY: `witness` is what the mutex is to protect; if it does not, loom says so.
unsafe impl Sync for World {}

impl World {
    /// Never dropped: loom cannot drop what is its own when it has found a deadlock.
    fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            mutex: Mutex::new(()),
            queue: WaitQueue::new(),
            witness: UnsafeCell::new(0),
            flag: AtomicU32::new(0),
        }))
    }

    fn add_one(&self) {
        let _guard = self.mutex.lock();
        assert_eq!(self.mutex.record().holder() as usize, Machine::cpu() + 1);
        // SAFETY: the caller holds the mutex; whether that is enough is what loom checks.
        self.witness.with_mut(|witness| unsafe { *witness += 1 });
    }

    fn raise_flag(&self) {
        self.flag.store(1, Ordering::Relaxed);
        self.queue.wake_up();
    }

    fn flag_is_up(&self) -> bool {
        self.flag.load(Ordering::Relaxed) == 1
    }
}

#[test]
fn a_mutex_lets_in_one_task_at_a_time_and_wakes_up_who_sleeps_for_it() {
    explore(3, || {
        let world = World::new();
        let other = thread::spawn(move || {
            become_task(1);
            world.add_one();
        });
        become_task(0);
        world.add_one();
        world.add_one();
        other.join().unwrap();
        // SAFETY: nobody else is left.
        let sum = world.witness.with(|witness| unsafe { *witness });
        assert_eq!(sum, 3);
    });
}

/// Task 0 waits for the flag, each model in its own way, while CPU 1 raises it.
fn the_flag_is_raised_while_a_task(waits: fn(&'static World)) {
    explore(4, move || {
        let world = World::new();
        let waker = thread::spawn(move || {
            become_cpu(1);
            world.raise_flag();
        });
        become_task(0);
        waits(world);
        waker.join().unwrap();
    });
}

#[test]
fn a_task_that_waits_for_an_event_never_sleeps_past_it() {
    the_flag_is_raised_while_a_task(|world| {
        world.queue.wait_event(|| world.flag_is_up());
        assert!(!Machine::task(0).wait().is_waiting());
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn one_that_looks_first_and_then_goes_to_sleep_may() {
    the_flag_is_raised_while_a_task(|world| {
        if !world.flag_is_up() {
            world.queue.sleep_on();
        }
    });
}

#[test]
fn a_task_that_yields_runs_again_whoever_wakes_it_up_meanwhile() {
    explore(4, || {
        become_task(0);
        let waker = thread::spawn(|| {
            become_cpu(1);
            assert!(!wake_up_task::<Machine>(0), "it does not sleep");
        });
        schedule::<Machine>();
        assert_eq!(Machine::task(0).switches(), 2);
        waker.join().unwrap();
    });
}
