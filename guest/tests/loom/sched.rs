//! Tasks that sleep: no task sleeps past a wake-up, and a mutex has one holder at a time.
//!
//! CPU n has one task, task n: a thread is the task, and while the task sleeps, the CPU's main loop.

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
    /// Signals of reschedule interrupts, by CPU.
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

    /// Runs the main loop until that runs the task again. Without a wake-up it waits for good, which loom
    /// reports as a deadlock.
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

/// Makes this thread the task of the CPU with this number.
fn become_task(number: usize) {
    become_cpu(number);
    MACHINE.tasks[number].create("task", number, 0);
    assert!(wake_up_task::<Machine>(number));
    assert_eq!(take_next::<Machine>(), Some(number));
}

struct World {
    mutex: Mutex<(), Machine>,
    queue: WaitQueue<Machine>,
    /// Cell that the holder of the mutex writes: loom reports a second writer.
    witness: UnsafeCell<u32>,
    /// Flag that the queue's waiters wait for.
    flag: AtomicU32,
}

// SAFETY: the mutex is to protect `witness`; if it does not, loom reports it.
unsafe impl Sync for World {}

impl World {
    /// Makes a world that is never dropped: after a deadlock, loom cannot drop its own objects.
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
fn a_mutex_has_one_holder_at_a_time_and_wakes_up_waiters() {
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
        // SAFETY: the other thread has ended.
        let sum = world.witness.with(|witness| unsafe { *witness });
        assert_eq!(sum, 3);
    });
}

/// Runs a model in which CPU 1 raises the flag while task 0 waits for it by `waits`.
fn raise_flag_while_a_task(waits: fn(&'static World)) {
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
fn a_task_in_wait_event_never_sleeps_past_the_event() {
    raise_flag_while_a_task(|world| {
        world.queue.wait_event(|| world.flag_is_up());
        assert!(!Machine::task(0).wait().is_waiting());
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_task_that_checks_before_sleep_on_may_miss_the_event() {
    raise_flag_while_a_task(|world| {
        if !world.flag_is_up() {
            world.queue.sleep_on();
        }
    });
}

#[test]
fn a_yielding_task_runs_again_in_spite_of_a_wake_up() {
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
