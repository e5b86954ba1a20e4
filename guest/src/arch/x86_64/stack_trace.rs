//! Call traces as raw addresses, which the guest prints without symbols.
//!
//! The stack is read word by word, upwards. A word that points into the kernel's code is printed. It is
//! marked `?` unless it is at the place of a return address according to the chain of frame pointers: a
//! broken chain makes entries unreliable, but loses none. Interrupted code is found at the top of the
//! interrupt stacks. Only mapped memory is read: every address is on one of the CPU's stacks, or on a
//! task's.

use core::fmt::Arguments;

use super::layout::is_text;
use super::memory::{CpuStack, end_of_task_stack_containing, stack_containing};
use super::trap_frame::{Hex, TrapFrame};

/// Most entries of a trace.
const MAX_ENTRIES: usize = 512;
/// Most words read on one stack.
const MAX_WORDS: usize = 4096;
/// Most stacks of a trace: an NMI inside an exception inside an interrupt, and one to spare.
const MAX_STACKS: usize = 4;

/// Line before the address of an interrupted instruction, which is exact; all other addresses are return
/// addresses.
const INTERRUPTED: &str = " --- interrupted ---";

/// Prints the trace of the code that was interrupted with the registers in `frame`, by `print`. `cpu` is
/// the current CPU.
pub fn print_interrupted(frame: &TrapFrame, cpu: usize, print: fn(Arguments<'_>)) {
    let mut printer = Printer { print, entries: 0 };
    printer.line(format_args!("Call Trace:\n{INTERRUPTED}\n"));
    printer.entry(frame.rip, true);
    printer.walk(Start::from_trap_frame(frame), cpu);
}

/// Prints the caller's trace, by `print`. `cpu` is the current CPU.
#[inline(never)]
pub fn print_own_trace(cpu: usize, print: fn(Arguments<'_>)) {
    let rbp: u64;
    // SAFETY: copies a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack)) };
    let mut printer = Printer { print, entries: 0 };
    printer.line(format_args!("Call Trace:\n"));
    printer.walk(Start { rsp: rbp, rbp, frameless_return: None }, cpu);
}

/// Start of a walk along a stack.
struct Start {
    rsp: u64,
    rbp: u64,
    /// Address of the return address of an interrupted function that has no frame at that instruction.
    frameless_return: Option<u64>,
}

impl Start {
    /// Returns the start of a walk for interrupted code. If a function is interrupted before it has set up
    /// its frame, or after it has removed it, RBP is still its caller's, and the chain would miss the
    /// caller. That can happen at three instructions.
    fn from_trap_frame(frame: &TrapFrame) -> Self {
        let (rip, rsp) = (frame.rip, frame.rsp);
        let frameless_return = if is_text(rip) && is_text(rip + 2) {
            // SAFETY: inside the kernel's code, which is mapped readable.
            match unsafe { (rip as usize as *const [u8; 3]).read_volatile() } {
                // push %rbp, ret
                [0x55 | 0xc3, ..] => Some(rsp),
                // mov %rsp, %rbp
                [0x48, 0x89, 0xe5] => Some(rsp.wrapping_add(8)),
                _ => None,
            }
        } else {
            None
        };
        Self { rsp, rbp: frame.rbp, frameless_return }
    }
}

struct Printer {
    print: fn(Arguments<'_>),
    entries: usize,
}

impl Printer {
    fn line(&self, text: Arguments<'_>) {
        (self.print)(text);
    }

    fn entry(&mut self, address: u64, reliable: bool) {
        self.entries += 1;
        let mark = if reliable { "" } else { " ?" };
        self.line(format_args!(" [<{}>]{mark}\n", Hex(address)));
    }

    fn walk(&mut self, mut from: Start, cpu: usize) {
        for _ in 0..MAX_STACKS {
            let rsp = from.rsp;
            if let Some(end) = end_of_task_stack_containing(rsp) {
                self.walk_stack(&from, end);
                return;
            }
            let Some(stack) = stack_containing(cpu, rsp) else {
                // An empty main stack is at its end, where the CPU entered.
                if rsp != CpuStack::Main.bounds(cpu).1 {
                    self.line(format_args!(" RSP {rsp:016x} is on no stack of cpu{cpu}\n"));
                }
                return;
            };
            let (_, top) = stack.bounds(cpu);
            if stack == CpuStack::Main {
                self.walk_stack(&from, top);
                return;
            }
            // SAFETY: the code being traced was running on this interrupt stack, so a trap has
            // entered there, and is below us in the trace: it has not returned.
            let frame = unsafe { TrapFrame::at_top_of(stack, cpu) };
            let record = top - size_of::<TrapFrame>() as u64 - 16;
            self.walk_stack(&from, record);
            self.line(format_args!("{INTERRUPTED}\n"));
            self.entry(frame.rip, true);
            from = Start::from_trap_frame(frame);
        }
    }

    /// Prints the return addresses among the words from RSP up to `end`, which is on the same stack.
    fn walk_stack(&mut self, from: &Start, end: u64) {
        let start = from.rsp.next_multiple_of(8);
        let mut rbp = from.rbp;
        for address in (start..end).step_by(8).take(MAX_WORDS) {
            // SAFETY: on a stack, so mapped; aligned. Volatile: it may be any
            // function's local.
            let word = unsafe { (address as usize as *const u64).read_volatile() };
            let in_chain = address == rbp.wrapping_add(8) && rbp >= start;
            let reliable = in_chain || from.frameless_return == Some(address);
            if is_text(word) {
                if self.entries >= MAX_ENTRIES {
                    self.line(format_args!(" ... more than {MAX_ENTRIES} entries\n"));
                    return;
                }
                self.entry(word, reliable);
            }
            if in_chain {
                // The chain continues upwards on this stack, or it ends.
                // SAFETY: the word below this one, not below RSP: on the same stack.
                let next = unsafe { (rbp as usize as *const u64).read_volatile() };
                rbp = if next > address { next } else { 0 };
            }
        }
    }
}
