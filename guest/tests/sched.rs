//! Tasks, run queues, wait queues and mutexes.
//!
//! A task is a thread here, and so is a CPU's main loop. Of the threads of a CPU, one runs at a time.
#![cfg(not(loom))]

mod common;

use std::{
    cell::Cell,
    panic::{Location, catch_unwind},
    sync::{
        Condvar, Mutex as StdMutex, MutexGuard as StdMutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use common::{CPUS, ThreadMachine, interrupts_are_off, on_cpu};
use nmiscope_guest::{
    abi::{TASK_BLOCKED, TASK_ENDED, TASK_READY, TASK_RUNNING, TASK_UNUSED},
    sched::{
        MAX_TASKS, Mutex, RunQueue, Sched, Task, WaitQueue, schedule, take_next, wake_up_task,
        yield_now,
    },
    sync::{Context, WaitFor},
};

static TASKS: [Task; MAX_TASKS] = [const { Task::new() }; MAX_TASKS];
static RUN_QUEUES: [RunQueue<ThreadMachine>; CPUS] = [const { RunQueue::new() }; CPUS];
static NR_RUNNING: [AtomicU32; CPUS] = [const { AtomicU32::new(0) }; CPUS];
static INTERRUPTED: [AtomicBool; CPUS] = [const { AtomicBool::new(false) }; CPUS];

/// Number of the task that may run on each CPU, `None` for the main loop.
static TURN: StdMutex<[Option<usize>; CPUS]> = StdMutex::new([None; CPUS]);
static TURN_CHANGED: Condvar = Condvar::new();

thread_local! {
    static TASK: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Lets the thread `to` of this CPU run, and returns when it is the turn of `this` thread again.
fn hand_over(cpu: usize, to: Option<usize>, this: Option<usize>) {
    let mut turn = TURN.lock().unwrap();
    turn[cpu] = to;
    TURN_CHANGED.notify_all();
    while turn[cpu] != this {
        turn = TURN_CHANGED.wait(turn).unwrap();
    }
}

impl Sched for ThreadMachine {
    fn task(number: usize) -> &'static Task {
        &TASKS[number]
    }

    fn run_queue(cpu: usize) -> &'static RunQueue<Self> {
        &RUN_QUEUES[cpu]
    }

    fn set_nr_running(cpu: usize, count: u32) {
        NR_RUNNING[cpu].store(count, SeqCst);
    }

    fn current_task() -> Option<usize> {
        TASK.get()
    }

    fn switch_from_task(number: usize) {
        assert!(interrupts_are_off());
        hand_over(Self::cpu(), None, Some(number));
    }

    fn send_reschedule_ipi(cpu: usize) {
        INTERRUPTED[cpu].store(true, SeqCst);
    }
}

/// Runs the next ready task of a CPU for a slice and returns its number. Called as the CPU's main loop.
fn run_one(cpu: usize) -> Option<usize> {
    let number = take_next::<ThreadMachine>()?;
    assert_eq!(TASKS[number].state(), TASK_RUNNING);
    hand_over(cpu, Some(number), None);
    Some(number)
}

/// Runs tasks as [`run_one`] does until none is ready; returns their numbers, in order.
fn run_all(cpu: usize) -> Vec<usize> {
    std::iter::from_fn(|| run_one(cpu)).collect()
}

fn nr_running(cpu: usize) -> u32 {
    NR_RUNNING[cpu].load(SeqCst)
}

/// Locks the machine, whose tasks are for one test at a time. All tasks of earlier tests have ended.
fn the_machine() -> StdMutexGuard<'static, ()> {
    static ONE: StdMutex<()> = StdMutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Starts task `number` on `cpu`, which runs `work` when its turn comes. The test need not wait for its
/// thread.
fn spawn(number: usize, cpu: usize, work: impl FnOnce() + Send + 'static) {
    TASKS[number].create("worker", cpu, 0x1000);
    thread::spawn(move || {
        TASK.set(Some(number));
        on_cpu(cpu, || {
            {
                let mut turn = TURN.lock().unwrap();
                while turn[cpu] != Some(number) {
                    turn = TURN_CHANGED.wait(turn).unwrap();
                }
            }
            work();
            TASKS[number].end();
            // In a kernel this does not return.
            schedule::<ThreadMachine>();
        });
    });
    assert!(wake_up_task::<ThreadMachine>(number));
}

#[test]
fn a_task_is_blocked_ready_running_and_ended_in_turn() {
    let _machine = the_machine();
    assert_eq!(TASKS[15].state(), TASK_UNUSED);
    TASKS[0].create("a name that is far too long", 0, 0);
    assert_eq!(TASKS[0].state(), TASK_BLOCKED);
    spawn(0, 0, || assert_eq!(TASKS[0].state(), TASK_RUNNING));
    assert_eq!((TASKS[0].state(), nr_running(0)), (TASK_READY, 1));
    let switches = TASKS[0].switches();
    assert_eq!(run_all(0), [0]);
    assert_eq!((TASKS[0].state(), nr_running(0)), (TASK_ENDED, 0));
    assert_eq!(TASKS[0].switches(), switches + 1);
    assert!(!wake_up_task::<ThreadMachine>(0), "it has ended");
}

#[test]
fn tasks_that_yield_take_turns() {
    let _machine = the_machine();
    for number in 0..3 {
        spawn(number, 0, || (0..2).for_each(|_| yield_now::<ThreadMachine>()));
    }
    assert_eq!(nr_running(0), 3);
    assert_eq!(run_all(0), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_wake_up_interrupts_only_another_cpu() {
    let _machine = the_machine();
    INTERRUPTED[1].store(false, SeqCst);
    spawn(0, 1, || ());
    assert!(INTERRUPTED[1].swap(false, SeqCst));
    on_cpu(1, || {
        spawn(1, 1, || ());
        assert!(!INTERRUPTED[1].load(SeqCst));
        assert_eq!(run_all(1), [0, 1]);
    });
}

#[test]
fn a_task_in_wait_event_sleeps_until_the_condition_holds() {
    static QUEUE: WaitQueue<ThreadMachine> = WaitQueue::new();
    static EVENT: AtomicBool = AtomicBool::new(false);
    let _machine = the_machine();
    spawn(0, 0, || QUEUE.wait_event(|| EVENT.load(SeqCst)));
    assert_eq!(run_all(0), [0]);
    assert_eq!(TASKS[0].state(), TASK_BLOCKED);
    assert_eq!(TASKS[0].wait().what(), Some(WaitFor::Queue(QUEUE.address())));
    assert!(TASKS[0].wait().at().is_some_and(|at| at.file().ends_with("sched.rs")));
    // A wake-up without the event.
    assert!(QUEUE.wake_up());
    assert_eq!(run_all(0), [0]);
    assert_eq!(TASKS[0].state(), TASK_BLOCKED);
    EVENT.store(true, SeqCst);
    assert!(QUEUE.wake_up());
    assert_eq!(run_all(0), [0]);
    assert_eq!((TASKS[0].state(), TASKS[0].wait().what()), (TASK_ENDED, None));
    assert!(!QUEUE.wake_up(), "nobody waits");
}

#[test]
fn a_wake_up_between_check_and_sleep_is_not_lost() {
    static QUEUE: WaitQueue<ThreadMachine> = WaitQueue::new();
    let _machine = the_machine();
    spawn(0, 0, || {
        QUEUE.prepare_to_wait();
        // From an interrupt handler, say.
        assert!(QUEUE.wake_up());
        schedule::<ThreadMachine>();
        QUEUE.finish_wait();
    });
    // The task has only given up its turn.
    assert_eq!(run_all(0), [0, 0]);
    assert_eq!(TASKS[0].state(), TASK_ENDED);
}

#[test]
fn a_task_in_sleep_on_misses_an_earlier_wake_up() {
    static QUEUE: WaitQueue<ThreadMachine> = WaitQueue::new();
    let _machine = the_machine();
    assert!(!QUEUE.wake_up());
    spawn(0, 0, || QUEUE.sleep_on());
    assert_eq!(run_all(0), [0]);
    assert_eq!(TASKS[0].state(), TASK_BLOCKED);
    QUEUE.wake_up();
    run_all(0);
}

#[test]
fn waiters_are_woken_up_in_their_order_or_all_at_once() {
    static QUEUE: WaitQueue<ThreadMachine> = WaitQueue::new();
    let _machine = the_machine();
    for number in [2, 0, 1, 3] {
        spawn(number, 0, || QUEUE.sleep_on());
    }
    assert_eq!(run_all(0), [2, 0, 1, 3]);
    assert!(QUEUE.wake_up());
    assert_eq!(run_all(0), [2]);
    QUEUE.wake_up_all();
    assert_eq!(run_all(0), [0, 1, 3]);
}

#[test]
fn a_mutex_records_its_holder_and_its_waiters_record_it() {
    static MUTEX: Mutex<u32, ThreadMachine> = Mutex::new(0);
    static LINE: AtomicU32 = AtomicU32::new(0);
    let _machine = the_machine();
    assert_eq!((&raw const MUTEX).addr(), MUTEX.record().address());
    spawn(4, 0, || {
        let mut guard = MUTEX.lock();
        *guard += 1;
        yield_now::<ThreadMachine>();
    });
    spawn(5, 0, || {
        assert!(MUTEX.try_lock().is_none());
        LINE.store(Location::caller().line() + 1, SeqCst);
        *MUTEX.lock() += 10;
    });
    assert_eq!((run_one(0), run_one(0)), (Some(4), Some(5)));
    assert_eq!(MUTEX.record().holder(), 5);
    assert_eq!(TASKS[5].state(), TASK_BLOCKED);
    assert_eq!(TASKS[5].wait().what(), Some(WaitFor::Lock(MUTEX.record().address())));
    assert!(TASKS[5].wait().at().is_some_and(|at| at.file().ends_with("sched.rs")));
    assert_eq!(run_all(0), [4, 5]);
    assert_eq!((MUTEX.record().holder(), MUTEX.is_locked()), (0, false));
    assert_eq!(TASKS[5].wait().what(), None);
}

#[test]
fn tasks_of_many_cpus_add_up_under_a_mutex() {
    const ROUNDS: u32 = 300;
    static SUM: Mutex<u32, ThreadMachine> = Mutex::new(0);
    let _machine = the_machine();
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            scope.spawn(move || {
                on_cpu(cpu, || {
                    let mine = [2 * cpu, 2 * cpu + 1];
                    for number in mine {
                        spawn(number, cpu, || {
                            for round in 0..ROUNDS {
                                *SUM.lock() += 1;
                                if round % 7 == 0 {
                                    yield_now::<ThreadMachine>();
                                }
                            }
                        });
                    }
                    // Polls, where a kernel halts until an interrupt.
                    while mine.iter().any(|&number| TASKS[number].state() != TASK_ENDED) {
                        run_one(cpu);
                        thread::sleep(Duration::from_micros(50));
                    }
                });
            });
        }
    });
    let sum = std::sync::Arc::new(AtomicU32::new(0));
    let theirs = sum.clone();
    spawn(0, 0, move || theirs.store(*SUM.lock(), SeqCst));
    run_all(0);
    assert_eq!(sum.load(SeqCst), 2 * CPUS as u32 * ROUNDS);
}

#[test]
fn a_main_loop_cannot_sleep() {
    static MUTEX: Mutex<(), ThreadMachine> = Mutex::new(());
    static QUEUE: WaitQueue<ThreadMachine> = WaitQueue::new();
    let _machine = the_machine();
    for sleep in [|| drop(MUTEX.lock()), || QUEUE.sleep_on(), schedule::<ThreadMachine>] {
        let refused = catch_unwind(sleep).unwrap_err();
        let message = refused.downcast_ref::<String>().unwrap();
        assert_eq!(message, "the main loop of cpu0 is not a task and cannot sleep");
    }
    // A condition that holds at once needs no sleep.
    QUEUE.wait_event(|| true);
}
