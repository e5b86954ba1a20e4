//! The library half's traits for x86-64: [`Context`], [`Calls`] and printk's [`Platform`].

use nmiscope_guest::printk::{NmiPrintSeq, Platform, PrintkFuncCell};
use nmiscope_guest::sync::{CallSlot, Calls, Context, Wait};

use super::instructions::{irq_restore, irq_save};
use super::layout::vector;
use super::percpu::{cpu_number, percpu};
use super::possible_cpus::{self, apic_id};
use super::{apic, serial, time};

percpu! {
    /// Record of what this CPU spins for. The host reads it by this name.
    pub static cpu_wait: Wait = Wait::new();
    /// Cross-CPU calls from and to this CPU.
    static call_slot: CallSlot = CallSlot::new();
    /// Buffer that this CPU prints into from NMI. The host reads it by this name.
    pub static nmi_print_seq: NmiPrintSeq = NmiPrintSeq::new();
    /// Destination of this CPU's printk: the log, or its NMI buffer.
    pub static printk_func: PrintkFuncCell = PrintkFuncCell::new();
}

/// The machine that this kernel is built for, as a type.
pub struct X86;

impl Context for X86 {
    fn cpu() -> usize {
        cpu_number()
    }

    fn clock_ns() -> u64 {
        time::clock_ns()
    }

    fn cpu_wait() -> &'static Wait {
        cpu_wait.this()
    }

    fn irq_save() -> usize {
        irq_save()
    }

    fn irq_restore(flags: usize) {
        irq_restore(flags);
    }
}

// SAFETY: numbers and copies of per-CPU variables are those of `percpu.rs`; the handler is entered
// through an interrupt gate, which turns interrupts off.
unsafe impl Calls for X86 {
    fn call_slot(cpu: usize) -> &'static CallSlot {
        call_slot.on(cpu)
    }

    fn send_call_ipi(cpu: usize) {
        apic::send(apic_id(cpu), apic::Ipi::Vector(vector::CALL_FUNCTION));
    }
}

impl Platform for X86 {
    fn possible_cpus(&self) -> usize {
        possible_cpus::possible_cpus()
    }

    fn nmi_print_seq(&self, cpu: usize) -> &NmiPrintSeq {
        nmi_print_seq.on(cpu)
    }

    fn printk_func(&self, cpu: usize) -> &PrintkFuncCell {
        printk_func.on(cpu)
    }

    fn console_write(&self, bytes: &[u8]) {
        serial::write(bytes);
    }
}
