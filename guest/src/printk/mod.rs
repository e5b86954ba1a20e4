//! printk: a log in memory, a console, and a way to print from NMI.
//!
//! Owns what happens to a message between the caller and the log, the console or the CPU's NMI
//! buffer. Refuses to know any hardware: that is behind [`Platform`]. The kernel keeps one
//! [`Printk`] in a static, and its `pr_info!` and the like call [`Printk::vprintk`].
//!
//! * [`log`]: the ring of records.
//! * `console.rs`: what a line looks like on the console.
//! * `seq_buf.rs`, `nmi_print_seq.rs`, `reservation.rs`, `nmi_backtrace.rs`: printing from NMI,
//!   from the buffer up to the protocol.
//!
//! Two locks, taken with interrupts disabled: the log's, under which a message is formatted, and
//! the console's, under which lines are copied out of the log, each under its lock, and written.
//! So the console's comes first; whoever holds the log's waits for nothing. The console's is fair: it
//! is held for most of the time by a CPU that prints a lot, and where two vCPUs share a CPU of the
//! host, the one that is put aside while it holds an unfair lock takes it again before the other one
//! runs.

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

/// How bad a message is; the numbers are Linux's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// The system is unusable.
    Emergency = 0,
    /// Action must be taken at once.
    Alert = 1,
    /// Critical conditions.
    Critical = 2,
    /// Error conditions.
    Error = 3,
    /// Warnings.
    Warning = 4,
    /// Normal, but worth attention.
    Notice = 5,
    /// Information.
    Info = 6,
    /// For debugging.
    Debug = 7,
}

/// Messages below this level reach the console unless [`Printk::set_console_loglevel`] says
/// otherwise: all but those for debugging.
pub const DEFAULT_CONSOLE_LOGLEVEL: u32 = 7;

/// How often a panic looks at a lock before it goes on without it: some milliseconds on real
/// hardware, a tenth of a second where an emulator runs the guest.
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
        /// printk on `platform`, with nothing printed yet.
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

    /// Prints a message to where this CPU's `printk_func` says: the log and console, or, between
    /// begin and end of an NMI backtrace, the CPU's buffer. Returns the bytes that were added.
    ///
    /// A message to the log is one record for each of its lines; a line feed at its end is
    /// welcome and not needed. A `fmt` implementation must not print: it runs under the log's lock.
    pub fn vprintk(&self, level: LogLevel, args: fmt::Arguments<'_>) -> usize {
        let cpu = P::cpu();
        if self.platform.printk_func(cpu).is_diverted() {
            self.nmi_vprintk(cpu, args)
        } else {
            self.vprintk_default(level, args)
        }
    }

    /// Prints to the log and the console, diverted or not. Not from NMI: it takes their locks, and
    /// the NMI may have interrupted the one who holds them.
    pub fn vprintk_default(&self, level: LogLevel, args: fmt::Arguments<'_>) -> usize {
        self.vprintk_for(P::cpu(), level, args)
    }

    /// Prints a panic's message. It comes out even if the locks do not come free: the wait for
    /// them is bounded, and then the log does without it and the console is written to anyway.
    /// For panics, from wherever they happen, NMI included; diversion is ignored and left alone.
    pub fn panic_print(&self, level: LogLevel, args: fmt::Arguments<'_>) {
        let flags = P::irq_save();
        let (cpu, ts_ns) = (P::cpu(), P::clock_ns());
        if let Some(mut log) = self.log.lock_bounded(PANIC_SPINS) {
            log.print(ts_ns, cpu, level as u8, args);
        }
        let console = self.console.lock_bounded(PANIC_SPINS);
        let mut writer = DirectWriter::new(&self.platform, ts_ns, cpu);
        // An error is the argument's own; what it wrote before that is on its way.
        let _ = fmt::write(&mut writer, args);
        writer.finish();
        drop(console);
        P::irq_restore(flags);
    }

    /// Takes the console's lock, as Linux's `console_lock` does: while the guard lives, nobody
    /// else writes there. The caller disables interrupts if an interrupt handler prints.
    #[track_caller]
    pub fn console_lock(&self) -> TicketGuard<'_, Console, P> {
        self.console.lock()
    }

    /// The log's lock, to read the log back. Interrupts as for [`Printk::console_lock`].
    pub const fn log(&self) -> &SpinLock<Log, P> {
        &self.log
    }

    /// The reservation of the NMI print buffers.
    pub const fn nmi_print_flag(&self) -> &Reservation {
        &self.nmi_print_flag
    }

    /// The machine.
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// Lets messages below this level through to the console; 0 is none, 8 is all.
    pub fn set_console_loglevel(&self, level: u32) {
        self.console_loglevel.store(level, Ordering::Relaxed);
    }

    /// Messages below this level get through to the console.
    pub fn console_loglevel(&self) -> u32 {
        self.console_loglevel.load(Ordering::Relaxed)
    }

    /// Prints in the name of `cpu`: this one, or one whose buffer this one reads.
    fn vprintk_for(&self, cpu: usize, level: LogLevel, args: fmt::Arguments<'_>) -> usize {
        self.emit(level, |log, ts_ns| log.print_span(ts_ns, cpu, level as u8, args))
    }

    /// As [`Printk::vprintk_for`], for one line that is formatted already.
    fn print_line_for(&self, cpu: usize, level: LogLevel, line: &[u8]) -> usize {
        self.emit(level, |log, ts_ns| log.print_bytes(ts_ns, cpu, level as u8, line))
    }

    fn emit(&self, level: LogLevel, print: impl FnOnce(&mut Log, u64) -> Span) -> usize {
        let flags = P::irq_save();
        let span = {
            let mut log = self.log.lock();
            // The clock under the lock: the log is in the order of its timestamps.
            print(&mut log, P::clock_ns())
        };
        if (level as u32) < self.console_loglevel.load(Ordering::Relaxed) {
            self.console_write_span(span);
        }
        P::irq_restore(flags);
        span.bytes
    }

    /// Writes the records that this CPU has just stored. Each is copied out under the log's lock
    /// and written without it: a console takes its time, and others want to log meanwhile.
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
