//! The NMI handler: the guest's half of a backtrace.
//!
//! An NMI that no client in the guest asked for is the hypervisor's. Both are answered alike: the handler
//! prints registers and call trace with printk diverted into this CPU's `nmi_print_seq`. It takes no lock
//! and waits for nothing. Refuses to own the reading of the buffer.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed};

use nmiscope_guest::abi::NMI_DONE_PORT;

use super::percpu::{cpu_number, percpu};
use super::possible_cpus::apic_id;
use super::trap_frame::TrapFrame;
use super::{apic, backtrace, instructions, stack_trace};
use crate::pr_info;
use crate::printk::{LogLevel, PRINTK};

percpu! {
    /// Count of NMIs that this CPU has taken. Counted on entry, so that the host can distinguish a
    /// delivered NMI from a pending one.
    static nmi_count: AtomicU64 = AtomicU64::new(0);
    /// Function to run at the end of the handler, with printk still diverted; null for none.
    static nmi_hook: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
}

/// True if the handler prints directly to log and console: the parameter `nmi_backtrace=direct`, which
/// exists to show why a handler must not do so.
pub static DIRECT: AtomicBool = AtomicBool::new(false);

/// Sets the function that this CPU's handler runs before it returns, for workloads that need NMI context.
pub fn set_hook(hook: fn()) {
    nmi_hook.this().store(hook as *mut (), Relaxed);
}

/// Sends this CPU an NMI, which it takes within the next few instructions.
pub fn send_to_self() {
    apic::send(apic_id(cpu_number()), apic::Ipi::Nmi);
}

/// Handles an NMI: prints a backtrace into this CPU's buffer and signals its end.
pub fn handle(frame: &TrapFrame) {
    let count = nmi_count.this();
    count.store(count.load(Relaxed).wrapping_add(1), Relaxed);

    let cpu = cpu_number();
    let direct = DIRECT.load(Relaxed);
    if !direct && PRINTK.printk_nmi_backtrace_this_cpu_begin().is_err() {
        panic!("printk_nmi_backtrace_this_cpu_begin called twice");
    }
    print_backtrace(frame, cpu);
    run_hook();
    if !direct && PRINTK.printk_nmi_backtrace_this_cpu_end().is_err() {
        panic!("printk_nmi_backtrace_this_cpu_end without begin");
    }

    if !backtrace::answer(cpu) {
        instructions::out_byte(NMI_DONE_PORT, cpu as u8);
    }
}

fn print_backtrace(frame: &TrapFrame, cpu: usize) {
    pr_info!("NMI backtrace for cpu {cpu}");
    pr_info!("{frame}");
    stack_trace::print_interrupted(frame, cpu, |text| {
        PRINTK.vprintk(LogLevel::Info, text);
    });
}

fn run_hook() {
    let hook = nmi_hook.this().load(Relaxed);
    if !hook.is_null() {
        // SAFETY: `set_hook` is the only writer, and stores functions of this type.
        let hook = unsafe { core::mem::transmute::<*mut (), fn()>(hook) };
        hook();
    }
}
