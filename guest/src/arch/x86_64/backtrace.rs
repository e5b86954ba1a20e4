//! `arch_trigger_all_cpu_backtrace`: the client inside the guest. It asks every CPU for a backtrace
//! by NMI, waits a bounded time, and prints what they left in their buffers.

use core::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use super::percpu::percpu;
use super::possible_cpus::apic_id;
use super::{apic, smp};
use crate::pr_warn;
use crate::printk::{Busy, PRINTK};

/// How long the CPUs have to answer.
const BOUND_SECONDS: u64 = 10;

percpu! {
    /// A client in the guest wants a backtrace of this CPU.
    static backtrace_requested: AtomicBool = AtomicBool::new(false);
}

/// From the NMI handler, with its buffer complete: whether a client in the guest had asked.
pub fn answer(cpu: usize) -> bool {
    let requested = backtrace_requested.on(cpu);
    // The common case is that nobody did, and a swap is a locked instruction.
    requested.load(Acquire) && requested.swap(false, Release)
}

/// Prints the call traces of all running CPUs, this one included, and names those that did not
/// answer. Not from NMI: it takes the locks of printk.
///
/// # Errors
/// Someone else is taking a backtrace; theirs goes on, and this one did nothing.
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
        // Withdrawn: an NMI that still arrives is no longer ours.
        if backtrace_requested.on(cpu).swap(false, Acquire) {
            pr_warn!("cpu{cpu} did not answer its NMI within {BOUND_SECONDS} s");
        }
    }
    PRINTK.printk_nmi_backtrace_complete();
    Ok(())
}
