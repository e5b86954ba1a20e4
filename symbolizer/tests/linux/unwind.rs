//! Stacks through calls, interrupts and entries from user mode, worked out by hand.

use std::collections::BTreeMap;

use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{KernelCode, OrcFrame, OrcRow, OrcTable, unwind};
use nmiscope_symbolizer::{End, Strategy, Trace};

use super::orc::{Kernel, TEXT, table};

/// Words of a stack by their addresses.
struct Stack(BTreeMap<u64, u64>);

impl VirtualMemory for Stack {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let word = self.0.get(&address.0).filter(|_| buffer.len() == 8);
        let word = word.ok_or(ReadError::Target {
            address: nmiscope_machine::PhysicalAddress(address.0),
            length: buffer.len(),
            reason: "no word there".into(),
        })?;
        buffer.copy_from_slice(&word.to_le_bytes());
        Ok(())
    }
}

struct Code(OrcTable);

impl KernelCode for Code {
    fn row(&self, address: VirtualAddress) -> Option<OrcRow> {
        self.is_text(address).then(|| self.0.row(address)).flatten()
    }

    fn is_text(&self, address: VirtualAddress) -> bool {
        (TEXT..TEXT + 0x1000).contains(&address.0)
    }

    fn function_start(&self, address: VirtualAddress) -> Option<VirtualAddress> {
        Some(VirtualAddress(address.0 & !0xff))
    }
}

const STACK: u64 = 0xffff_c900_0000_0000;

/// A leaf at 0, a function that saves RBP at 0x100, an interrupt's entry at 0x200, a thread's start at 0x300, a
/// system call's entry at 0x400, and unknown code at 0x500.
fn code(kernel: Kernel) -> Code {
    let sp = kernel.sp();
    let call = sp | kernel.frame(OrcFrame::Call);
    let saves_bp = call | kernel.previous_sp() << 4;
    let registers = sp | kernel.frame(OrcFrame::Registers);
    let rows = [
        (0, 8, 0, call),
        (0x100, 24, -16, saves_bp),
        (0x200, 0, 0, registers),
        (0x300, 8, 0, sp | kernel.frame(OrcFrame::End)),
        (0x400, 8, 0, registers),
        (0x500, 0, 0, 0),
        (0x600, 8, 0, call),
    ];
    Code(table(kernel, &rows).expect("rows"))
}

fn from(rip: u64, rsp: u64, words: &[(u64, u64)], kernel: Kernel) -> Trace {
    let registers: UnwindRegisters =
        [(Register::Rip, rip), (Register::Rsp, rsp), (Register::Rbp, 0xb0b)].into_iter().collect();
    unwind(&code(kernel), &registers, &Stack(words.iter().copied().collect()))
}

fn addresses(trace: &Trace) -> Vec<u64> {
    trace.frames.iter().map(|frame| frame.pc.address().0 - TEXT).collect()
}

/// `struct pt_regs` at an address: RIP, CS and RSP of what was interrupted, with RBP.
fn pt_regs(at: u64, rip: u64, cs: u64, rsp: u64, rbp: u64) -> Vec<(u64, u64)> {
    let mut words: Vec<(u64, u64)> =
        (0..21).map(|index| (at + 8 * index, 0x1000 + index)).collect();
    for (index, value) in [(4, rbp), (16, rip), (17, cs), (19, rsp)] {
        words[index].1 = value;
    }
    words
}

#[test]
fn calls_are_followed_with_the_saved_frame_pointer() {
    for kernel in [Kernel::V61, Kernel::V612, Kernel::V72] {
        // The leaf was called by the function that saves RBP; its frame has the old RBP and two words.
        let words = [
            (STACK, TEXT + 0x120),
            (STACK + 8 + 24 - 16, 0x1234),
            (STACK + 8 + 24 - 8, TEXT + 0x310),
        ];
        let trace = from(TEXT + 4, STACK, &words, kernel);
        assert_eq!(addresses(&trace), [4, 0x120, 0x310], "{kernel:?}");
        assert_eq!(trace.end, End::Outermost);
        let [_, caller, outermost] = &trace.frames[..] else { panic!("{trace:?}") };
        assert_eq!(caller.strategy, Strategy::Orc);
        assert_eq!(caller.registers.get(Register::Rbp), Some(0xb0b));
        assert_eq!(outermost.registers.get(Register::Rbp), Some(0x1234));
        assert_eq!(outermost.registers.get(Register::Rsp), Some(STACK + 32));
    }
}

#[test]
fn interrupts_lead_to_another_stack_at_the_exact_instruction() {
    let other = STACK + 0x10000;
    // The leaf was called by the entry, which saved the registers of a leaf on another stack.
    let mut words = vec![(STACK, TEXT + 0x204), (other, TEXT + 0x310)];
    words.extend(pt_regs(STACK + 8, TEXT, 0x10, other, 0x77));
    let trace = from(TEXT + 4, STACK, &words, Kernel::V612);
    assert_eq!(addresses(&trace), [4, 0x204, 0, 0x310]);
    assert_eq!(trace.end, End::Outermost);
    assert!(trace.frames[1].is_signal_frame && trace.frames[2].is_interrupted());
    assert_eq!(trace.frames[2].registers.get(Register::Rbp), Some(0x77));
    assert_eq!(trace.frames[2].registers.get(Register::R15), Some(0x1000));
}

#[test]
fn system_call_ends_in_user_mode() {
    let mut words = vec![(STACK, TEXT + 0x404)];
    words.extend(pt_regs(STACK + 16, 0x40_1000, 0x33, 0x7ffc_0000, 0));
    let trace = from(TEXT + 4, STACK, &words, Kernel::V72);
    assert_eq!(addresses(&trace), [4, 0x404]);
    assert_eq!(trace.end, End::UserMode { pc: VirtualAddress(0x40_1000) });
    assert!(trace.end.is_complete());
}

#[test]
fn stacks_that_lead_nowhere_end_with_the_reason() {
    let end = |rip, words: &[(u64, u64)]| from(TEXT + rip, STACK, words, Kernel::V61).end;
    assert!(matches!(end(4, &[]), End::UnreadableStack(_)));
    assert_eq!(end(4, &[(STACK, 0)]), End::ReturnAddressZero);
    let address = VirtualAddress(0xffff_ffff_c000_0000);
    assert_eq!(end(4, &[(STACK, address.0)]), End::NotText { address });
    assert_eq!(end(0x500, &[]), End::NoOrcCaller { pc: VirtualAddress(TEXT + 0x500) });
    let user = from(0x40_0000, STACK, &[], Kernel::V61);
    assert_eq!((user.frames.len(), user.end), (1, End::UserMode { pc: VirtualAddress(0x40_0000) }));
}
