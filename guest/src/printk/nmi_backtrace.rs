//! Printing from NMI, safely: the protocol of the 2015 RFC "printk: Simple implementation for NMI
//! backtracing".
//!
//! Owns the order of the protocol's steps. Refuses to know how NMIs are sent, how stacks are walked and
//! how long to wait: that is the architecture's part. The kernel's NMI handler calls
//! [`Printk::printk_nmi_backtrace_this_cpu_begin`] and [`Printk::printk_nmi_backtrace_this_cpu_end`];
//! the client that sent the NMIs calls [`Printk::printk_nmi_backtrace_prepare`] before and
//! [`Printk::printk_nmi_backtrace_complete`] after.
//!
//! An NMI can interrupt printk itself, with printk's locks held by the interrupted CPU; a handler that
//! printed would wait for them forever. So `vprintk` is diverted on that CPU, for the length of the
//! handler, into the CPU's own buffer. The buffers are printed later, from a context that can take locks:
//! by the client in the guest, or by the hypervisor outside.
//!
//! The functions that an NMI can reach here, begin, `nmi_vprintk` and end, take no lock, have a fixed
//! bound, and count the messages that they lose.

use core::{error, fmt};

use super::{
    Busy, LogLevel, Platform, Printk,
    log::{LINE_MAX, char_boundary},
};
use crate::sync::atomic::Ordering;

/// Level at which the buffers' text is logged: Linux's default for text without a level, since buffers do
/// not store levels.
pub const NMI_PRINT_LEVEL: LogLevel = LogLevel::Warning;

/// Line that precedes the text that prepare finds in a buffer.
const LEFT_OVER: &str = "from an NMI handler that ran after its client had finished:";

impl<P: Platform> Printk<P> {
    /// Reserves all CPUs' buffers for the caller, which may then send the NMIs. Must not be called from NMI.
    ///
    /// Text that late handlers have left since the last backtrace is printed first, so that the buffers are
    /// empty and no old trace is taken for a new one.
    ///
    /// # Errors
    /// Another client, in the guest or outside, has the reservation.
    pub fn printk_nmi_backtrace_prepare(&self) -> Result<(), Busy> {
        let cpu = P::cpu();
        self.nmi_print_flag.try_take(owner_of(cpu), P::clock_ns())?;
        for cpu in 0..self.platform.possible_cpus() {
            // A buffer in use means that its handler still runs, which complete reports.
            let _ = self.platform.nmi_print_seq(cpu).try_drain(|text, lost| {
                if !text.is_empty() || lost > 0 {
                    self.vprintk_for(cpu, NMI_PRINT_LEVEL, format_args!("{LEFT_OVER}"));
                    self.print_seq(cpu, text, lost);
                }
            });
        }
        Ok(())
    }

    /// Diverts this CPU's printk into its buffer. The first step of an NMI handler.
    ///
    /// # Errors
    /// Printk is diverted already. It has been restored and has reported a BUG; the caller should panic.
    pub fn printk_nmi_backtrace_this_cpu_begin(&self) -> Result<(), DoubleBegin> {
        let cpu = P::cpu();
        let (func, seq) = (self.platform.printk_func(cpu), self.platform.nmi_print_seq(cpu));
        if func.is_diverted() {
            func.restore();
            seq.end_write();
            self.panic_print(LogLevel::Emergency, format_args!("BUG: {DoubleBegin}"));
            return Err(DoubleBegin);
        }
        seq.begin_write();
        func.divert();
        Ok(())
    }

    /// Restores this CPU's printk and lets its buffer be read. The last step of an NMI handler.
    ///
    /// # Errors
    /// Printk is not diverted, which has been reported as a BUG; the caller should panic.
    pub fn printk_nmi_backtrace_this_cpu_end(&self) -> Result<(), EndWithoutBegin> {
        let cpu = P::cpu();
        let func = self.platform.printk_func(cpu);
        if !func.is_diverted() {
            self.panic_print(LogLevel::Emergency, format_args!("BUG: {EndWithoutBegin}"));
            return Err(EndWithoutBegin);
        }
        func.restore();
        self.platform.nmi_print_seq(cpu).end_write();
        Ok(())
    }

    /// Prints and wipes every possible CPU's buffer, then frees the reservation. Must not be called from
    /// NMI: it takes printk's locks. A call from another CPU than the one that prepared does nothing but
    /// report a BUG.
    pub fn printk_nmi_backtrace_complete(&self) {
        self.complete(Ordering::Release);
    }

    /// Does what [`Printk::printk_nmi_backtrace_complete`] does, with a given ordering of the final store,
    /// so that a model can show which one is needed.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn printk_nmi_backtrace_complete_with(&self, release: Ordering) {
        self.complete(release);
    }

    #[inline]
    fn complete(&self, release: Ordering) {
        let this_cpu = P::cpu();
        if self.nmi_print_flag.owner() != owner_of(this_cpu) {
            let message = "BUG: printk_nmi_backtrace_complete without prepare";
            self.vprintk_for(this_cpu, LogLevel::Emergency, format_args!("{message}"));
            return;
        }
        for cpu in 0..self.platform.possible_cpus() {
            let seq = self.platform.nmi_print_seq(cpu);
            if seq.try_drain(|text, lost| self.print_seq(cpu, text, lost)).is_err() {
                let args =
                    format_args!("cpu{cpu}: still in its NMI handler; its buffer is left as it is");
                self.vprintk_for(this_cpu, NMI_PRINT_LEVEL, args);
            }
        }
        // The last step: a release, and no barrier after it. See the head of `reservation.rs`.
        self.nmi_print_flag.free(release);
    }

    /// Prints into this CPU's buffer, which `vprintk` does while diverted. Returns the number of bytes that
    /// were added.
    pub(super) fn nmi_vprintk(&self, cpu: usize, args: fmt::Arguments<'_>) -> usize {
        self.platform.nmi_print_seq(cpu).append(args)
    }

    /// Prints the text of the buffer of `cpu` line by line, also a last line without a line feed.
    fn print_seq(&self, cpu: usize, text: &[u8], lost: u64) {
        if !text.is_empty() {
            // The last line feed ends a line and does not begin another.
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            text.split(|&byte| byte == b'\n').for_each(|line| self.print_seq_line(cpu, line));
        }
        if lost > 0 {
            self.vprintk_for(cpu, NMI_PRINT_LEVEL, format_args!("... {lost} messages lost"));
        }
    }

    /// Prints a line as one record, or as several if it is longer than a record's text may be.
    fn print_seq_line(&self, cpu: usize, mut line: &[u8]) {
        loop {
            let (now, later) = line.split_at(char_boundary(line, LINE_MAX));
            self.print_line_for(cpu, NMI_PRINT_LEVEL, now);
            line = later;
            if line.is_empty() {
                break;
            }
        }
    }
}

/// Returns the value of `nmi_print_flag` while `cpu` is the client.
fn owner_of(cpu: usize) -> u32 {
    (cpu as u32).wrapping_add(1)
}

/// Error of a handler that begins twice without an end in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubleBegin;

impl fmt::Display for DoubleBegin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("printk_nmi_backtrace_this_cpu_begin inside of itself")
    }
}

impl error::Error for DoubleBegin {}

/// Error of a handler that ends without having begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndWithoutBegin;

impl fmt::Display for EndWithoutBegin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("printk_nmi_backtrace_this_cpu_end without begin")
    }
}

impl error::Error for EndWithoutBegin {}
