//! A machine made of threads: each declares which CPU it is, and an NMI is a call. Each has a clock of
//! its own, which the test advances.
#![allow(dead_code, reason = "each test uses its part")]

use std::{
    cell::Cell,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nmiscope_guest::printk::{NmiPrintSeq, Platform, Printk, PrintkFuncCell};
use nmiscope_guest::sync::{Context, Wait};

pub const CPUS: usize = 4;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
    static IRQS_OFF: Cell<usize> = const { Cell::new(0) };
    static CLOCK_NS: Cell<u64> = const { Cell::new(0) };
    static CPU_WAIT: &'static Wait = Box::leak(Box::default());
}

#[derive(Default)]
pub struct ThreadMachine {
    per_cpu: [(NmiPrintSeq, PrintkFuncCell); CPUS],
    console: Mutex<Vec<u8>>,
    /// Number of console writes before the one at which `at_console_write` is called, once.
    countdown: AtomicUsize,
    at_console_write: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Context for ThreadMachine {
    fn cpu() -> usize {
        CPU.get()
    }

    fn clock_ns() -> u64 {
        CLOCK_NS.get()
    }

    fn cpu_wait() -> &'static Wait {
        CPU_WAIT.with(|wait| *wait)
    }

    fn irq_save() -> usize {
        IRQS_OFF.replace(IRQS_OFF.get() + 1)
    }

    fn irq_restore(flags: usize) {
        assert_eq!(IRQS_OFF.get(), flags + 1, "interrupt flags are restored in order");
        IRQS_OFF.set(flags);
    }
}

impl Platform for ThreadMachine {
    fn possible_cpus(&self) -> usize {
        CPUS
    }

    fn nmi_print_seq(&self, cpu: usize) -> &NmiPrintSeq {
        &self.per_cpu[cpu].0
    }

    fn printk_func(&self, cpu: usize) -> &PrintkFuncCell {
        &self.per_cpu[cpu].1
    }

    fn console_write(&self, bytes: &[u8]) {
        assert!(IRQS_OFF.get() > 0, "the console is written to with interrupts off");
        self.console.lock().unwrap().extend_from_slice(bytes);
        let hook = self.at_console_write.lock().unwrap().take_if(|_| {
            self.countdown.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                == Err(0)
        });
        if let Some(hook) = hook {
            hook();
        }
    }
}

impl ThreadMachine {
    pub fn console(&self) -> String {
        String::from_utf8(self.console.lock().unwrap().clone()).unwrap()
    }

    /// Calls `hook` in the middle of the console write that comes after `writes` others.
    pub fn at_console_write(&self, writes: usize, hook: impl FnOnce() + Send + 'static) {
        self.countdown.store(writes, Ordering::Relaxed);
        *self.at_console_write.lock().unwrap() = Some(Box::new(hook));
    }
}

/// Advances this thread's clock by `duration`.
pub fn pass(duration: Duration) {
    CLOCK_NS.set(CLOCK_NS.get() + duration.as_nanos() as u64);
}

/// Returns true if this thread's interrupts are off.
pub fn interrupts_are_off() -> bool {
    IRQS_OFF.get() > 0
}

pub fn machine() -> &'static Printk<ThreadMachine> {
    Box::leak(Box::new(Printk::new(ThreadMachine::default())))
}

/// Calls `f` as the CPU with this number.
pub fn on_cpu<R>(cpu: usize, f: impl FnOnce() -> R) -> R {
    let before = CPU.replace(cpu);
    let result = f();
    CPU.set(before);
    result
}

/// Returns the log's lines, each with the CPU that printed it.
pub fn log_of(printk: &Printk<ThreadMachine>) -> Vec<String> {
    let log = printk.log().lock();
    log.records()
        .map(|record| {
            format!("cpu{}: {}", record.header.cpu, String::from_utf8_lossy(record.text()))
        })
        .collect()
}
