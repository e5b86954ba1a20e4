//! The kernel's debugger, as far as the hypervisor sees it: a CPU that has stopped all others, and polls the
//! console with interrupts off.
//!
//! Owns the record that says so, which the host reads: a stopped kernel makes no progress, and does not
//! hang. Refuses to understand commands. Called by the workload `debugger-prompt`.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use nmiscope_guest::sync::Context;

use crate::machine::{self, X86};

/// Number plus one of the CPU whose debugger has stopped the kernel; 0 while none has. The host reads it by
/// this name.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "found by name from outside")]
static debugger_cpu: AtomicU32 = AtomicU32::new(0);

/// Number of CPUs that the debugger has stopped.
static STOPPED: AtomicU32 = AtomicU32::new(0);

/// Lets the debugger stop this CPU by a reschedule interrupt.
pub fn register_this_cpu() {
    machine::set_reschedule_hook(stop_here);
}

/// Stays in the interrupt handler until the debugger resumes the kernel.
#[inline(never)]
fn stop_here() {
    if debugger_cpu.load(Acquire) == 0 {
        return;
    }
    STOPPED.fetch_add(1, Relaxed);
    while debugger_cpu.load(Acquire) != 0 {
        core::hint::spin_loop();
    }
    STOPPED.fetch_sub(1, Relaxed);
}

/// Stops all other CPUs, polls the console for `nanoseconds`, and resumes them.
#[inline(never)]
pub fn prompt(nanoseconds: u64) {
    machine::interrupts_off();
    debugger_cpu.store(machine::cpu_number() as u32 + 1, Release);
    let others = || machine::online_cpus().filter(|&cpu| cpu != machine::cpu_number());
    for cpu in others() {
        machine::send_reschedule(cpu);
    }
    while (STOPPED.load(Relaxed) as usize) < others().count() {
        core::hint::spin_loop();
    }
    let start = X86::clock_ns();
    while X86::clock_ns() - start < nanoseconds {
        // Keys are commands that this debugger does not know.
        let _ = machine::read_console();
        core::hint::spin_loop();
    }
    debugger_cpu.store(0, Release);
    while STOPPED.load(Relaxed) != 0 {
        core::hint::spin_loop();
    }
    machine::interrupts_on();
}
