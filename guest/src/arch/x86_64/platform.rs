//! What printk needs of an x86-64 machine: the implementation of its [`Platform`].

use nmiscope_guest::printk::{NmiPrintSeq, Platform, PrintkFuncCell};

use super::instructions::{INTERRUPT_FLAG, interrupts_off, interrupts_on, read_flags};
use super::percpu::{cpu_number, percpu};
use super::{serial, smp, time};

percpu! {
    /// What this CPU has printed from NMI. The host reads it by this name.
    pub static nmi_print_seq: NmiPrintSeq = NmiPrintSeq::new();
    /// Where this CPU's printk goes.
    pub static printk_func: PrintkFuncCell = PrintkFuncCell::new();
}

/// The machine that this kernel is built for.
pub struct X86;

impl Platform for X86 {
    fn cpu(&self) -> usize {
        cpu_number()
    }

    fn possible_cpus(&self) -> usize {
        smp::possible_cpus()
    }

    fn clock_ns(&self) -> u64 {
        time::clock_ns()
    }

    fn irq_save(&self) -> usize {
        let flags = read_flags();
        interrupts_off();
        flags as usize
    }

    fn irq_restore(&self, flags: usize) {
        if flags as u64 & INTERRUPT_FLAG != 0 {
            interrupts_on();
        }
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
