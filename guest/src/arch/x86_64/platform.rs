//! What the library half needs of an x86-64 machine: the implementations of its [`Context`] and of
//! printk's [`Platform`].

use nmiscope_guest::printk::{NmiPrintSeq, Platform, PrintkFuncCell};
use nmiscope_guest::sync::{Context, Wait};

use super::instructions::{INTERRUPT_FLAG, interrupts_off, interrupts_on, read_flags};
use super::percpu::{cpu_number, percpu};
use super::{serial, smp, time};

percpu! {
    /// What this CPU waits for, spinning. The host reads it by this name.
    pub static cpu_wait: Wait = Wait::new();
    /// What this CPU has printed from NMI. The host reads it by this name.
    pub static nmi_print_seq: NmiPrintSeq = NmiPrintSeq::new();
    /// Where this CPU's printk goes.
    pub static printk_func: PrintkFuncCell = PrintkFuncCell::new();
}

/// The machine that this kernel is built for.
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
        let flags = read_flags();
        interrupts_off();
        flags as usize
    }

    fn irq_restore(flags: usize) {
        if flags as u64 & INTERRUPT_FLAG != 0 {
            interrupts_on();
        }
    }
}

impl Platform for X86 {
    fn possible_cpus(&self) -> usize {
        smp::possible_cpus()
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
