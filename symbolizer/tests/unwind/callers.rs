//! Frames that lead to their caller: by CFI, across stacks, through a null pointer, by frame pointers.

use nmiscope_machine::{Register, UnwindRegisters, VirtualAddress};
use nmiscope_symbolizer::ProgramCounter::{Interrupted, Return};
use nmiscope_symbolizer::{CfiError, End, Image, Strategy, Unwinder};

use crate::cfi::Words;
use crate::elf::TEXT;
use crate::stacks::{
    ABORTING, BARE, BROKEN, FRAMED, LEAF, OTHER_STACK, SCHEDULER, SIZED, STACK, START, TRAP,
    images, pcs, registers, strategies, text, unwind,
};

#[test]
fn every_row_of_a_function_leads_to_the_same_caller() {
    // START called SIZED at 0x508, which called FRAMED at 0x310; RBX was 0xb, RBP 0xbb.
    //   +0x38 START's RIP   +0x30 RBX   +0x10..+0x30 SIZED's locals   +0x08 SIZED's RIP   +0x00 RBP
    let words = [0xbb, TEXT + SIZED + 0x10, 1, 2, 3, 4, 0xb, TEXT + START + 8];
    let memory = Words::at(STACK, &words);
    let rows = [
        // before push rbp; after it; after mov rbp, rsp, with RSP anywhere; after pop rbp
        (0, STACK + 8, 0xbb),
        (1, STACK, 0xbb),
        (4, STACK, STACK),
        (0x2f, STACK - 0x500, STACK),
        (0x30, STACK + 8, 0xbb),
        (0x3f, STACK + 8, 0xbb),
    ];
    for (how, bytes) in images() {
        for (at, rsp, rbp) in rows {
            let start = [(Register::Rbp, rbp), (Register::Rbx, 0xccc), (Register::Rax, 7)];
            let trace = unwind(&bytes, &registers(TEXT + FRAMED + at, rsp, &start), &memory);
            let context = format!("{how} at +{at:#x}: {trace:#x?}");
            assert_eq!(trace.end, End::Outermost, "{context}");
            assert_eq!(
                pcs(&trace),
                [
                    Interrupted(text(FRAMED + at)),
                    Return(text(SIZED + 0x10)),
                    Return(text(START + 8))
                ],
                "{context}"
            );
            assert_eq!(
                strategies(&trace),
                [Strategy::Registers, Strategy::Cfi, Strategy::Cfi],
                "{context}"
            );
            let cfas: Vec<_> = trace.frames.iter().map(|frame| frame.cfa.map(|at| at.0)).collect();
            assert_eq!(cfas, [STACK + 0x10, STACK + 0x40, STACK + 0x48].map(Some), "{context}");
            // FRAMED restores RBP, leaves RBX alone; RAX is the caller's to save.
            let in_sized = registers(
                TEXT + SIZED + 0x10,
                STACK + 0x10,
                &[(Register::Rbp, 0xbb), (Register::Rbx, 0xccc)],
            );
            assert_eq!(trace.frames[1].registers, in_sized, "{context}");
            assert_eq!(trace.frames[2].registers.get(Register::Rbx), Some(0xb), "{context}");
        }
    }
}

#[test]
fn an_interrupt_leads_to_another_stack_whichever_is_higher() {
    for (own, interrupted) in [(OTHER_STACK, STACK), (STACK, OTHER_STACK)] {
        // LEAF is called by the entry of an NMI, which had pushed RBX and an error code when it
        // interrupted FRAMED before its first instruction; START had called that.
        let memory = Words::at(
            own,
            &[
                TEXT + TRAP + 0x20, // LEAF's return address
                0xb,                // RBX
                0xe,                // error code
                TEXT + FRAMED,      // RIP
                0x8,
                0x202,
                interrupted, // RSP
                0x10,
            ],
        )
        .and(interrupted, &[TEXT + START + 8]);
        let all = Register::ALL.map(|register| (register, register as u64 + 0x100));
        let mut start: UnwindRegisters = all.into_iter().collect();
        start.set(Register::Rip, TEXT + LEAF);
        start.set(Register::Rsp, own);
        for (how, bytes) in images() {
            let trace = unwind(&bytes, &start, &memory);
            assert_eq!(trace.end, End::Outermost, "{how}");
            assert_eq!(
                pcs(&trace),
                [
                    Interrupted(text(LEAF)),
                    Return(text(TRAP + 0x20)),
                    Interrupted(text(FRAMED)),
                    Return(text(START + 8)),
                ],
                "{how}"
            );
            let [_, entry, inner, _] = &trace.frames[..] else { panic!("{how}: {trace:?}") };
            assert!(entry.is_signal_frame && !entry.is_interrupted());
            assert!(inner.is_interrupted() && !inner.is_signal_frame);
            assert_eq!(entry.cfa, Some(VirtualAddress(own + 64)));
            assert_eq!(inner.registers.get(Register::Rsp), Some(interrupted));
            assert_eq!(inner.registers.get(Register::Rbx), Some(0xb));
            // LEAF may have changed caller-saved registers, so the entry's RAX is not known.
            assert_eq!(inner.registers.get(Register::Rax), None);
            assert_eq!(inner.registers.get(Register::R12), Some(0x10c));
        }
        // Stopped at the entry's first instruction, all that was not pushed is still there.
        start.set(Register::Rip, TEXT + TRAP);
        start.set(Register::Rsp, own + 16);
        let trace = unwind(&images()[0].1, &start, &memory);
        assert_eq!(trace.frames[1].registers.get(Register::Rax), Some(0x100));
        assert_eq!(trace.frames[1].registers.get(Register::Rbx), Some(0x103));
    }
}

#[test]
fn a_null_call_is_unwound_by_the_return_address_at_rsp() {
    // SIZED called through a null pointer; the page fault's entry has pushed RBX.
    let memory = Words::at(OTHER_STACK, &[0xb, 0x10, 0, 0x8, 0x202, STACK, 0x10])
        .and(STACK, &[TEXT + SIZED + 0x10, 1, 2, 3, 4, 0xbb, TEXT + START + 8]);
    let start = registers(TEXT + TRAP + 2, OTHER_STACK, &[(Register::Rbp, 0)]);
    let trace = unwind(&images()[0].1, &start, &memory);
    assert_eq!(
        pcs(&trace),
        [
            Interrupted(text(TRAP + 2)),
            Interrupted(VirtualAddress(0)),
            Return(text(SIZED + 0x10)),
            Return(text(START + 8)),
        ]
    );
    assert_eq!(
        strategies(&trace),
        [Strategy::Registers, Strategy::Cfi, Strategy::BadCall, Strategy::Cfi]
    );
    assert_eq!(trace.frames[1].cfa, Some(VirtualAddress(STACK + 8)));
    // Nothing ran after the call.
    assert_eq!(trace.frames[2].registers.get(Register::Rbx), Some(0xb));
    assert_eq!(trace.end, End::Outermost);
}

#[test]
fn a_return_address_behind_the_function_is_looked_up_inside_it() {
    // ABORTING's last instruction is its call; what follows has no CFI, and another CFA had it one.
    let memory = Words::at(STACK, &[TEXT + ABORTING + 9, 1, 2, 3, TEXT + START + 8]);
    let start = registers(TEXT + LEAF, STACK, &[]);
    for (how, bytes) in images() {
        let trace = unwind(&bytes, &start, &memory);
        let expected =
            [Interrupted(text(LEAF)), Return(text(ABORTING + 9)), Return(text(START + 8))];
        assert_eq!(pcs(&trace), expected, "{how}");
        // Interrupted at that same address, it is nobody's.
        let trace = unwind(&bytes, &registers(TEXT + ABORTING + 9, STACK, &[]), &memory);
        assert!(matches!(trace.end, End::NoCallerFound { .. }), "{how}: {:?}", trace.end);
    }
}

#[test]
fn a_computed_frame_address_may_be_on_another_stack() {
    // SCHEDULER runs on a stack above; the RSP to return with is in a structure.
    let task = 0xffff_8880_0000_1000;
    let memory = Words::at(task, &[0, 0, 0, STACK + 8]).and(STACK, &[TEXT + START + 8]);
    let start = registers(TEXT + SCHEDULER + 4, OTHER_STACK, &[(Register::Rbx, task)]);
    for (how, bytes) in images() {
        let trace = unwind(&bytes, &start, &memory);
        let expected = [Interrupted(text(SCHEDULER + 4)), Return(text(START + 8))];
        assert_eq!((pcs(&trace), &trace.end), (expected.to_vec(), &End::Outermost), "{how}");
        assert_eq!(trace.frames[0].cfa, Some(VirtualAddress(STACK + 8)));
    }
}

#[test]
fn the_chain_of_rbp_is_followed_where_there_is_no_cfi() {
    // BARE, called by BARE, called by FRAMED, whose CFI leads on.
    let memory = Words::at(
        STACK,
        &[
            STACK + 0x20, // RBP of the second BARE
            TEXT + BARE + 0x10,
            1,
            2,
            STACK + 0x40, // RBP of FRAMED
            TEXT + FRAMED + 0x10,
            3,
            4,
            0xbb,
            TEXT + START + 8,
        ],
    );
    let start = registers(TEXT + BARE, STACK - 0x20, &[(Register::Rbp, STACK)]);
    let trace = unwind(&images()[0].1, &start, &memory);
    let expected = [BARE + 0x10, FRAMED + 0x10, START + 8].map(|at| Return(text(at)));
    assert_eq!(pcs(&trace)[1..], expected, "{trace:#x?}");
    assert_eq!(
        strategies(&trace)[1..],
        [Strategy::FramePointer, Strategy::FramePointer, Strategy::Cfi]
    );
    assert_eq!(trace.end, End::Outermost);
    assert_eq!(trace.frames[0].cfa, Some(VirtualAddress(STACK + 0x10)));
    // Registers that the callees saved elsewhere are not known.
    assert_eq!(trace.frames[2].registers.get(Register::Rbx), None);
}

#[test]
fn cfi_that_cannot_be_used_is_reported_and_frame_pointers_go_on() {
    let memory = Words::at(STACK, &[0, TEXT + START + 8]);
    let start = registers(TEXT + BROKEN, STACK, &[(Register::Rbp, STACK)]);
    let trace = unwind(&images()[0].1, &start, &memory);
    let fault = CfiError::UnknownRegister { register: 17 };
    assert_eq!(trace.frames[0].cfi_fault, Some(fault.clone()));
    assert_eq!(strategies(&trace), [Strategy::Registers, Strategy::FramePointer]);
    assert_eq!(trace.end, End::Outermost);
    // Without a frame pointer that is why it ends.
    let trace = unwind(&images()[0].1, &registers(TEXT + BROKEN, STACK, &[]), &memory);
    assert_eq!(trace.end, End::BadCfi { pc: text(BROKEN), source: fault });
    assert_eq!(trace.end.to_string(), "unwind from ffffffff80001800: its CFI cannot be used");
}

#[test]
fn a_moved_image_is_unwound_where_it_runs() {
    let bias = 0x2340_0000;
    let moved = |at: u64| TEXT + at + bias;
    let memory = Words::at(STACK, &[moved(SIZED + 0x10), 1, 2, 3, 4, 0xb, moved(START + 8)]);
    for (how, bytes) in images() {
        let image = Image::parse(&bytes).expect("an image");
        let start = registers(moved(LEAF), STACK, &[]);
        let trace = Unwinder::new(&image).with_bias(bias).unwind(&start, &memory);
        let expected = [SIZED + 0x10, START + 8].map(|at| Return(VirtualAddress(moved(at))));
        assert_eq!(pcs(&trace)[1..], expected, "{how}");
        assert_eq!(trace.end, End::Outermost, "{how}");
        let trace = Unwinder::new(&image).unwind(&start, &memory);
        assert_eq!(trace.frames.len(), 1, "{how}: not its code without the bias");
    }
}
