//! Dispatch of every exception, interrupt and NMI from `entry.S` to its handler. An exception ends the
//! kernel: it is printed and becomes a panic, unless it is a page fault that a workload handles.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

use nmiscope_guest::sync;

use super::instructions::read_cr2;
use super::layout::vector;
use super::percpu::{cpu_number, percpu};
use super::platform::X86;
use super::time::clock_ns;
use super::trap_frame::TrapFrame;
use super::{apic, nmi, serial, stack_trace};
use crate::panic::print_last_words;
use crate::sysrq;

percpu! {
    /// Count of ticks. It does not grow on a CPU that takes no interrupts.
    static tick_heartbeat: AtomicU64 = AtomicU64::new(0);
    /// Time of the last tick, in nanoseconds since boot. In a dump, it shows since when the CPU has taken
    /// no ticks.
    static tick_ns: AtomicU64 = AtomicU64::new(0);
    /// Count of interrupts that this CPU has taken, ticks included, exceptions and NMIs not.
    static irq_count: AtomicU64 = AtomicU64::new(0);
    /// Function to run in a reschedule interrupt; null for none.
    static reschedule_hook: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
    /// Function to run in a page fault, after which the faulting instruction runs again; null for none.
    static page_fault_hook: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
    /// 1 once the CPU has taken an exception, from which it does not return.
    static in_exception: AtomicU32 = AtomicU32::new(0);
}

#[unsafe(no_mangle)]
extern "C" fn trap_entry(frame: &TrapFrame) {
    match frame.vector {
        vector::NMI => nmi::handle(frame),
        vector::FIRST_INTERRUPT.. => interrupt(frame.vector as u8),
        vector::PAGE_FAULT if run_hook(page_fault_hook.this()) => {}
        _ => exception(frame),
    }
    // So that no handler is called by a jump, and this function is on the stack.
    core::hint::black_box(frame);
}

/// Handles an interrupt. Never inlined: this function on a stack shows the host that the functions further
/// out were interrupted by chance, not by their own fault.
#[inline(never)]
fn interrupt(vector: u8) {
    advance(irq_count.this());
    match vector {
        vector::TIMER => tick(),
        vector::SERIAL => receive(),
        vector::CALL_FUNCTION => {
            // First, so that a call that arrives while others are answered raises the interrupt again.
            apic::end_of_interrupt();
            sync::answer_calls::<X86>();
        }
        vector::SPURIOUS => {}
        vector::RESCHEDULE => {
            // The interrupt's only purpose is to end the CPU's halt.
            apic::end_of_interrupt();
            run_hook(reschedule_hook.this());
        }
        _ => apic::end_of_interrupt(),
    }
    // So that no handler is called by a jump, and this function is on the stack.
    core::hint::black_box(vector);
}

/// Adds one to a counter that only this CPU writes, which needs no locked instruction.
fn advance(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

/// Sets the function that this CPU runs in each reschedule interrupt from now on, for workloads that need
/// interrupt context.
pub fn set_reschedule_hook(hook: fn()) {
    reschedule_hook.this().store(hook as *mut (), Relaxed);
}

/// Sets the function that this CPU runs in each page fault from now on, for workloads that handle their own.
pub fn set_page_fault_hook(hook: fn()) {
    page_fault_hook.this().store(hook as *mut (), Relaxed);
}

/// Runs a hook; returns false if there is none.
fn run_hook(hook: &AtomicPtr<()>) -> bool {
    let hook = hook.load(Relaxed);
    if hook.is_null() {
        return false;
    }
    // SAFETY: the setters are the only writers, and store functions of this type.
    let hook = unsafe { core::mem::transmute::<*mut (), fn()>(hook) };
    hook();
    true
}

/// Returns the number of ticks that this CPU has taken.
pub fn ticks() -> u64 {
    tick_heartbeat.this().load(Relaxed)
}

fn tick() {
    tick_ns.this().store(clock_ns(), Relaxed);
    advance(tick_heartbeat.this());
    apic::end_of_interrupt();
}

/// Handles received keys, then acknowledges the interrupt. Not before: an edge-triggered interrupt that is
/// acknowledged while its cause remains is lost.
fn receive() {
    const MOST_AT_ONCE: usize = 64;
    for _ in 0..MOST_AT_ONCE {
        match serial::read() {
            Some(key) => sysrq::handle(key),
            None => break,
        }
    }
    apic::end_of_interrupt();
}

/// Returns the name of an exception (SDM vol. 3, table 6-1).
fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid task-state segment",
        11 => "segment not present",
        12 => "stack-segment fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "x87 error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD exception",
        _ => "unknown exception",
    }
}

#[inline(never)]
fn exception(frame: &TrapFrame) -> ! {
    // A second exception, while the first is printed, would only repeat itself.
    if in_exception.this().swap(1, Relaxed) != 0 {
        crate::panic::end();
    }
    let what = name(frame.vector);
    if frame.vector == vector::PAGE_FAULT {
        let address = read_cr2();
        print_last_words(format_args!(
            "BUG: {what} at {address:016x}, error code {:x}\n{frame}\n",
            frame.error_code
        ));
    } else {
        print_last_words(format_args!("BUG: {what}, error code {:x}\n{frame}\n", frame.error_code));
    }
    stack_trace::print_interrupted(frame, cpu_number(), print_last_words);
    panic!("{what} at {:016x}", frame.rip)
}
