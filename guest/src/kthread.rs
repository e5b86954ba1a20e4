//! Kernel threads: the table of tasks, and the main loop's side of running them.
//!
//! Owns the table and the per-CPU variables about the CPU's own tasks. Refuses to know the order in which
//! tasks run (the library half's `sched`) and how stacks are switched (`switch.rs`). Called by the main
//! loop, and by workloads that start tasks.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{Relaxed, Release},
};

use nmiscope_guest::sched::{self, MAX_TASKS, RunQueue, Sched, Task};
use nmiscope_guest::sync::Context;

use crate::machine::{self, X86, percpu};

/// All tasks, by their numbers. The host finds them by this name.
#[unsafe(no_mangle)]
static TASKS: [Task; MAX_TASKS] = [const { Task::new() }; MAX_TASKS];

/// Number of entries of `TASKS` that have been handed out. The last one may be unused for a moment yet.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "found by name from outside")]
static nr_tasks: AtomicU32 = AtomicU32::new(0);

percpu! {
    /// Number plus one of the task that runs on this CPU; 0 while the main loop runs.
    static current_task: AtomicU32 = AtomicU32::new(0);
    /// Length of this CPU's run queue: tasks that are ready and not running.
    static nr_running: AtomicU32 = AtomicU32::new(0);
    /// Queue of this CPU's ready tasks.
    static run_queue: RunQueue<X86> = RunQueue::new();
}

impl Sched for X86 {
    fn task(number: usize) -> &'static Task {
        &TASKS[number]
    }

    fn run_queue(cpu: usize) -> &'static RunQueue<Self> {
        run_queue.on(cpu)
    }

    fn set_nr_running(cpu: usize, count: u32) {
        nr_running.on(cpu).store(count, Relaxed);
    }

    fn current_task() -> Option<usize> {
        current_task.this().load(Relaxed).checked_sub(1).map(|number| number as usize)
    }

    fn switch_from_task(number: usize) {
        machine::switch_to_main(&TASKS[number]);
    }

    fn send_reschedule_ipi(cpu: usize) {
        machine::send_reschedule(cpu);
    }
}

/// Starts a task that runs `function` with `argument` on `cpu`, at the next turn of that CPU's main loop.
/// Must not be called from an interrupt handler.
///
/// # Panics
/// Panics if [`MAX_TASKS`] tasks have been started already.
pub fn spawn(name: &str, cpu: usize, function: fn(usize), argument: usize) {
    let next = |count| (count < MAX_TASKS as u32).then_some(count + 1);
    let Ok(number) = nr_tasks.fetch_update(Release, Relaxed, next) else {
        panic!("no room for task {name}: there are {MAX_TASKS} already")
    };
    let number = number as usize;
    let stack_pointer = machine::new_task_stack(number, function, argument);
    TASKS[number].create(name, cpu, stack_pointer);
    sched::wake_up_task::<X86>(number);
}

/// Runs a task from its beginning to its end, on its own stack. Called by `task_start` in switch.S with
/// interrupts off.
#[unsafe(no_mangle)]
extern "C" fn task_main(function: *const (), argument: usize) -> ! {
    // SAFETY: `new_task_stack` has been given a function of this type, and has kept it.
    let function = unsafe { core::mem::transmute::<*const (), fn(usize)>(function) };
    machine::interrupts_on();
    function(argument);
    if let Some(number) = X86::current_task() {
        TASKS[number].end();
    }
    loop {
        sched::schedule::<X86>();
    }
}

/// Runs each task that is ready on this CPU for a slice. Called by the main loop.
#[inline]
pub fn run_ready() {
    let ready = nr_running.this().load(Relaxed);
    if ready != 0 {
        run_slices(ready);
    }
}

#[inline(never)]
fn run_slices(count: u32) {
    for _ in 0..count {
        let flags = X86::irq_save();
        if let Some(number) = sched::take_next::<X86>() {
            let current = current_task.this();
            current.store(number as u32 + 1, Relaxed);
            machine::switch_to_task(&TASKS[number]);
            current.store(0, Relaxed);
        }
        X86::irq_restore(flags);
    }
}

/// Halts this CPU until an interrupt arrives, unless a task is ready. Called by the main loop.
#[inline]
pub fn wait_for_interrupt() {
    // A wake-up after this sends an interrupt, which ends the halt.
    machine::interrupts_off();
    if nr_running.this().load(Relaxed) == 0 {
        machine::wait_for_interrupt();
    } else {
        machine::interrupts_on();
    }
}
