//! `arch_trigger_all_cpu_backtrace`: the backtrace client inside the guest. It sends every CPU an NMI,
//! waits for their backtraces for a bounded time, and prints the buffers that they wrote.

use core::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use super::percpu::percpu;
use super::possible_cpus::apic_id;
use super::{apic, smp};
use crate::pr_warn;
use crate::printk::{Busy, PRINTK};

/// Deadline for the CPUs' answers, in seconds.
const BOUND_SECONDS: u64 = 10;

percpu! {
    /// True while a client in the guest waits for a backtrace of this CPU.
    static backtrace_requested: AtomicBool = AtomicBool::new(false);
}

/// Answers a client in the guest, if one asked; returns true if so. Called by the NMI handler once its
/// buffer is complete.
pub fn answer(cpu: usize) -> bool {
    let requested = backtrace_requested.on(cpu);
    // The load first: mostly no client has asked, and a swap is a locked instruction.
    requested.load(Acquire) && requested.swap(false, Release)
}

/// Prints the call traces of all online CPUs, this one included, and names those that did not answer.
/// Must not be called from NMI: it takes the locks of printk.
///
/// # Errors
/// Another client is taking a backtrace. This call did nothing.
pub fn trigger_all_cpu_backtrace() -> Result<(), Busy> {
    PRINTK.printk_nmi_backtrace_prepare()?;
    let asked = smp::online_cpus();
    for cpu in asked.clone() {
        backtrace_requested.on(cpu).store(true, Release);
        apic::send(apic_id(cpu), apic::Ipi::Nmi);
    }
    smp::wait_until(BOUND_SECONDS * 1_000_000_000, || {
        asked.clone().all(|cpu| !backtrace_requested.on(cpu).load(Acquire))
    });
    for cpu in asked {
        // Withdraws the request: an NMI that arrives later is not for this client.
        if backtrace_requested.on(cpu).swap(false, Acquire) {
            pr_warn!("cpu{cpu} did not answer its NMI within {BOUND_SECONDS} s");
        }
    }
    PRINTK.printk_nmi_backtrace_complete();
    Ok(())
}
