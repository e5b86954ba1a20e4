//! Stack switches from a CPU's main loop to a task and back.
//!
//! Owns the layout of the registers saved on the stack that is left. Refuses to choose the task: that is
//! `kthread.rs` and the scheduler in the library half. Called by `kthread.rs`, with interrupts off.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use nmiscope_guest::sched::Task;

use super::memory::map_task_stack;
use super::percpu::percpu;

core::arch::global_asm!(include_str!("switch.S"), options(att_syntax));

/// Callee-saved registers that `switch_stacks` leaves on a stack, lowest address first. The caller's stack
/// pointer is the address behind it. The host reads it.
#[repr(C)]
struct SwitchFrame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbx: u64,
    rbp: u64,
    rip: u64,
}

percpu! {
    /// Address of the main loop's saved registers while a task runs; null while the main loop runs.
    static main_stack_pointer: AtomicPtr<SwitchFrame> = AtomicPtr::new(null_mut());
}

unsafe extern "C" {
    fn switch_stacks(save: *mut *mut SwitchFrame, to: *mut SwitchFrame);
    static task_start: u8;
}

/// Makes the stack of task `number`, so that the first switch to it runs `task_main(function, argument)`.
/// Returns the task's stack pointer.
pub fn new_task_stack(number: usize, function: fn(usize), argument: usize) -> usize {
    /// Length of the instruction that `task_start` begins with.
    const NOP: u64 = 1;
    let top = map_task_stack(number);
    let stack_pointer = top - size_of::<SwitchFrame>();
    let frame = SwitchFrame {
        r15: 0,
        r14: 0,
        r13: argument as u64,
        r12: function as usize as u64,
        rbx: 0,
        rbp: 0,
        rip: &raw const task_start as u64 + NOP,
    };
    // SAFETY: below the top of a stack that has just been mapped and is unused; aligned.
    unsafe { (stack_pointer as *mut SwitchFrame).write(frame) };
    stack_pointer
}

/// Runs `task`, which this CPU's scheduler has picked, until it gives up the CPU. Called by the main loop.
pub fn to_task(task: &Task) {
    let to = task.stack_pointer().swap(0, Relaxed) as *mut SwitchFrame;
    // SAFETY: a frame of `new_task_stack` or of `to_main`; it is used once, since the word that led
    // to it is 0 now. The task is this CPU's own, so no other CPU runs on its stack.
    unsafe { switch_stacks(main_stack_pointer.this().as_ptr(), to) };
}

/// Switches from `task`, the caller, to the CPU's main loop; returns when that runs the task again.
pub fn to_main(task: &Task) {
    let to = main_stack_pointer.this().swap(null_mut(), Relaxed);
    // SAFETY: the frame that `to_task` has left on this CPU, used once, likewise.
    unsafe { switch_stacks(task.stack_pointer().as_ptr().cast(), to) };
}
