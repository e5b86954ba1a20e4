//! printk: a log in memory, a console, and a way to print from NMI.
//!
//! Owns a message's way from the caller to the log, the console or the CPU's NMI buffer. Refuses to know
//! any hardware: that is behind [`Platform`]. The kernel keeps one
//! [`Printk`] in a static, and its `pr_info!` and the like call [`Printk::vprintk`].
//!
//! * [`log`]: the ring of records.
//! * `console.rs`: the line format of the console.
//! * `seq_buf.rs`, `nmi_print_seq.rs`, `reservation.rs`, `nmi_backtrace.rs`: printing from NMI,
//!   from the buffer up to the protocol.
//!
//! Two locks, taken with interrupts disabled: the log's, under which a message is formatted, and
//! the console's, under which lines are copied out of the log, each under its lock, and written.
//! So the console's is taken first, and a holder of the log's waits for nothing. The console's is fair,
//! because a CPU that prints a lot holds it most of the time: if two vCPUs share a CPU of the host, a
//! vCPU that is preempted while it holds an unfair lock takes it again before the other one runs.

mod console;
pub mod log;
mod nmi_backtrace;
mod nmi_print_seq;
mod platform;
mod reservation;
mod seq_buf;

use core::fmt;

pub use self::{
    console::Console,
    nmi_backtrace::{DoubleBegin, EndWithoutBegin, NMI_PRINT_LEVEL},
    nmi_print_seq::{
        NMI_BUF_SIZE, NMI_PRINT_SEQ_APPENDING, NMI_PRINT_SEQ_FREE, NMI_PRINT_SEQ_READER,
        NMI_PRINT_SEQ_WRITER, NmiPrintSeq,
    },
    platform::{PRINTK_FUNC_DEFAULT, PRINTK_FUNC_NMI, Platform, PrintkFuncCell},
    reservation::{Busy, Reservation},
    seq_buf::SeqBuf,
};
use self::{
    console::DirectWriter,
    log::{Log, Span},
};
use crate::sync::{
    SpinLock, TicketGuard, TicketLock,
    atomic::{AtomicU32, Ordering, const_fn_unless_loom},
};

/// Severity of a message. The numbers are Linux's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// Emergency: the system is unusable.
    Emergency = 0,
    /// Alert: action must be taken at once.
    Alert = 1,
    /// Critical condition of the kernel or hardware.
    Critical = 2,
    /// Error that the kernel can survive.
    Error = 3,
    /// Warning of a condition that may be an error.
    Warning = 4,
    /// Notice of a normal but significant condition.
    Notice = 5,
    /// Information on what the kernel does.
    Info = 6,
    /// Message that is of use for debugging only.
    Debug = 7,
}

/// Default console loglevel: messages below it reach the console, which are all but debug messages. See
/// [`Printk::set_console_loglevel`].
pub const DEFAULT_CONSOLE_LOGLEVEL: u32 = 7;

/// Number of times that a panic checks a lock before it proceeds without it: some milliseconds on real
/// hardware, a tenth of a second in an emulator.
const PANIC_SPINS: u32 = 1 << 16;

/// All of printk's state that is not per CPU.
#[derive(Debug)]
pub struct Printk<P: Platform> {
    platform: P,
    log: SpinLock<Log, P>,
    console: TicketLock<Console, P>,
    nmi_print_flag: Reservation,
    console_loglevel: AtomicU32,
}

impl<P: Platform> Printk<P> {
    const_fn_unless_loom! {
        /// Makes a printk on `platform` that has printed nothing yet.
        pub fn new(platform: P) -> Self {
            Self {
                platform,
                log: SpinLock::new(Log::new()),
                console: TicketLock::new(Console::new()),
                nmi_print_flag: Reservation::new(),
                console_loglevel: AtomicU32::new(DEFAULT_CONSOLE_LOGLEVEL),
            }
        }
    }

    /// Prints a message to the destination in this CPU's `printk_func`: the log and console, or, between
    /// begin and end of an NMI backtrace, the CPU's buffer. Returns the number of bytes that were added.
    ///
    /// In the log, each line of a message is a record; a line feed at the end is optional. A `fmt`
    /// implementation must not print: it runs under the log's lock.
    pub fn vprintk(&self, level: LogLevel, args: fmt::Arguments<'_>) -> usize {
        let cpu = P::cpu();
        if self.platform.printk_func(cpu).is_diverted() {
            self.nmi_vprintk(cpu, args)
        } else {
            self.vprintk_default(level, args)
        }
    }

    /// Prints to the log and the console, diverted or not. Must not be called from NMI: it takes their
    /// locks, which the interrupted code may hold.
    pub fn vprintk_default(&self, level: LogLevel, args: fmt::Arguments<'_>) -> usize {
        self.vprintk_for(P::cpu(), level, args)
    }

    /// Prints a panic's message, even if the locks stay taken: the wait for them is bounded. After that the
    /// message is left out of the log, and the console is written to without its lock. May be called from
    /// anywhere, NMI included; diversion is ignored and not changed.
    pub fn panic_print(&self, level: LogLevel, args: fmt::Arguments<'_>) {
        let flags = P::irq_save();
        let (cpu, ts_ns) = (P::cpu(), P::clock_ns());
        if let Some(mut log) = self.log.lock_bounded(PANIC_SPINS) {
            log.print(ts_ns, cpu, level as u8, args);
        }
        let console = self.console.lock_bounded(PANIC_SPINS);
        let mut writer = DirectWriter::new(&self.platform, ts_ns, cpu);
        // An error comes from the argument; the text written before it is kept.
        let _ = fmt::write(&mut writer, args);
        writer.finish();
        drop(console);
        P::irq_restore(flags);
    }

    /// Takes the console's lock, as Linux's `console_lock` does: while the guard lives, no other CPU writes
    /// there. The caller disables interrupts if an interrupt handler prints.
    #[track_caller]
    pub fn console_lock(&self) -> TicketGuard<'_, Console, P> {
        self.console.lock()
    }

    /// Returns the log in its lock, for reading it back. Interrupts as for [`Printk::console_lock`].
    pub const fn log(&self) -> &SpinLock<Log, P> {
        &self.log
    }

    /// Returns the reservation of the NMI print buffers.
    pub const fn nmi_print_flag(&self) -> &Reservation {
        &self.nmi_print_flag
    }

    /// Returns the machine that it prints on.
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// Sets the console loglevel: messages below it reach the console. 0 is none, 8 is all.
    pub fn set_console_loglevel(&self, level: u32) {
        self.console_loglevel.store(level, Ordering::Relaxed);
    }

    /// Returns the console loglevel: messages below it reach the console.
    pub fn console_loglevel(&self) -> u32 {
        self.console_loglevel.load(Ordering::Relaxed)
    }

    /// Prints a message of `cpu`: this CPU, or a CPU whose buffer this one reads.
    fn vprintk_for(&self, cpu: usize, level: LogLevel, args: fmt::Arguments<'_>) -> usize {
        self.emit(level, |log, ts_ns| log.print_span(ts_ns, cpu, level as u8, args))
    }

    /// Prints a line that is formatted already; otherwise like [`Printk::vprintk_for`].
    fn print_line_for(&self, cpu: usize, level: LogLevel, line: &[u8]) -> usize {
        self.emit(level, |log, ts_ns| log.print_bytes(ts_ns, cpu, level as u8, line))
    }

    fn emit(&self, level: LogLevel, print: impl FnOnce(&mut Log, u64) -> Span) -> usize {
        let flags = P::irq_save();
        let span = {
            let mut log = self.log.lock();
            // The clock is read under the lock, so that the log is in the order of its timestamps.
            print(&mut log, P::clock_ns())
        };
        if (level as u32) < self.console_loglevel.load(Ordering::Relaxed) {
            self.console_write_span(span);
        }
        P::irq_restore(flags);
        span.bytes
    }

    /// Writes the records that this CPU has just stored to the console. Each is copied under the log's lock
    /// and written without it, so that other CPUs can log during a slow write.
    fn console_write_span(&self, mut span: Span) {
        let mut console = self.console.lock();
        loop {
            let log = self.log.lock();
            let Some(found) = log.next_in(&mut span) else {
                break;
            };
            console.line.begin(found.header.ts_ns, found.header.cpu as usize);
            let len = log.copy_text(&found, console.line.text_room());
            drop(log);
            console.line.advance(len);
            self.platform.console_write(console.line.end());
        }
        if span.overwritten > 0 {
            console.dropped += span.overwritten;
            console.line.begin(P::clock_ns(), P::cpu());
            console
                .line
                .push(b"** earlier lines were overwritten in the log before they got here **");
            self.platform.console_write(console.line.end());
        }
    }
}
