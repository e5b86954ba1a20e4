//! Stacks worked out by hand: what lies on them and what calls what is written beside each, from
//! what the instructions of the functions would have done.

#[path = "common/cfi.rs"]
mod cfi;
#[path = "common/elf.rs"]
mod elf;

use cfi::{
    Function, RBP, RBX, RIP, RSP, Words, debug_frame, eh_frame, eh_frame_hdr, function, unreadable,
};
use elf::{Compression, Section, TEXT};
use gimli::write::{CallFrameInstruction as Cfi, Expression};
use nmiscope_machine::{Register, UnwindRegisters, VirtualAddress};
use nmiscope_symbolizer::{
    CfiError, End, FramePointerError, Image, MAX_FRAMES, ProgramCounter, Strategy, Trace, Unwinder,
};

use ProgramCounter::{Interrupted, Return};

/// The functions, by their offsets from TEXT.
const LEAF: u64 = 0x100;
const FRAMED: u64 = 0x200;
const SIZED: u64 = 0x300;
const TRAP: u64 = 0x400;
const START: u64 = 0x500;
const SCHEDULER: u64 = 0x600;
const ABORTING: u64 = 0x700;
const BROKEN: u64 = 0x800;
/// Code without CFI.
const BARE: u64 = 0x900;

const STACK: u64 = 0xffff_c900_0000_4000;
const OTHER_STACK: u64 = 0xffff_c900_0010_0000;

fn functions() -> Vec<Function> {
    let mut trap = function(
        TRAP,
        0x40,
        vec![
            // As the guest's entry.S: SS, RSP, RFLAGS, CS, RIP were pushed, then an error code, then
            // RBX.
            (0, Cfi::Cfa(RSP, 48)),
            (0, Cfi::Offset(RIP, -40)),
            (0, Cfi::Offset(RSP, -16)),
            (1, Cfi::CfaOffset(56)),
            (1, Cfi::Offset(RBX, -56)),
        ],
    );
    trap.is_signal_frame = true;
    let mut saved = Expression::new();
    // The RSP that was saved in a structure that RBX points at.
    saved.op_breg(RBX, 0x18);
    saved.op_deref();
    vec![
        // ret
        function(LEAF, 0x10, vec![]),
        // push rbp; mov rbp, rsp; ... pop rbp; ret
        function(
            FRAMED,
            0x40,
            vec![
                (1, Cfi::CfaOffset(16)),
                (1, Cfi::Offset(RBP, -16)),
                (4, Cfi::CfaRegister(RBP)),
                (0x30, Cfi::Cfa(RSP, 8)),
                (0x30, Cfi::Restore(RBP)),
            ],
        ),
        // push rbx; sub rsp, 0x20; ...
        function(
            SIZED,
            0x40,
            vec![(1, Cfi::CfaOffset(16)), (1, Cfi::Offset(RBX, -16)), (5, Cfi::CfaOffset(48))],
        ),
        trap,
        // What nothing called.
        function(START, 0x10, vec![(0, Cfi::Undefined(RIP))]),
        function(SCHEDULER, 0x10, vec![(0, Cfi::CfaExpression(saved))]),
        // sub rsp, 0x18; call abort; and not one byte more
        function(ABORTING, 0x9, vec![(4, Cfi::CfaOffset(32))]),
        // The CFA from a register that nobody has.
        function(BROKEN, 0x10, vec![(0, Cfi::Cfa(gimli::X86_64::XMM0, 8))]),
    ]
}

/// The same functions with the three ways to find their CFI.
fn images() -> [(&'static str, Vec<u8>); 3] {
    let eh_frame = eh_frame(&functions());
    let header = eh_frame_hdr(&eh_frame.1);
    [
        ("header", image(&[eh_frame.clone(), header])),
        ("index", image(&[eh_frame])),
        ("debug_frame", image(&[debug_frame(&functions())])),
    ]
}

fn image(sections: &[Section]) -> Vec<u8> {
    elf::elf(sections, &[], Compression::None)
}

fn registers(pc: u64, sp: u64, others: &[(Register, u64)]) -> UnwindRegisters {
    let mut registers = UnwindRegisters::new(VirtualAddress(pc), VirtualAddress(sp));
    for &(register, value) in others {
        registers.set(register, value);
    }
    registers
}

fn unwind(image: &[u8], registers: &UnwindRegisters, memory: &Words) -> Trace {
    let image = Image::parse(image).expect("an image");
    Unwinder::new(&image).unwind(registers, memory)
}

fn pcs(trace: &Trace) -> Vec<ProgramCounter> {
    trace.frames.iter().map(|frame| frame.pc).collect()
}

fn strategies(trace: &Trace) -> Vec<Strategy> {
    trace.frames.iter().map(|frame| frame.strategy).collect()
}

const fn text(offset: u64) -> VirtualAddress {
    VirtualAddress(TEXT + offset)
}

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
            // LEAF may have changed what is not callee-saved, so the entry's RAX is not known.
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
fn a_call_to_nowhere_is_found_by_what_it_left_on_the_stack() {
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
        assert!(matches!(trace.end, End::NoWayOn { .. }), "{how}: {:?}", trace.end);
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
    // What the callees saved elsewhere is not known.
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
fn each_end_says_why() {
    let bytes = &images()[0].1;
    let end = |registers: &UnwindRegisters, memory: &Words| {
        let trace = unwind(bytes, registers, memory);
        assert_eq!(trace.frames.len(), 1, "{trace:?}");
        trace.end
    };
    let leaf = registers(TEXT + LEAF, STACK, &[]);
    assert_eq!(end(&leaf, &Words::at(STACK, &[0])), End::ReturnAddressZero);
    let not_text = End::NotText { address: VirtualAddress(0x1234) };
    assert_eq!(end(&leaf, &Words::at(STACK, &[0x1234])), not_text);
    let unmapped = End::UnreadableStack(unreadable(VirtualAddress(STACK), 8));
    assert_eq!(end(&leaf, &Words::default()), unmapped);
    let outermost = registers(TEXT + START, STACK, &[]);
    assert_eq!(end(&outermost, &Words::default()), End::Outermost);

    let bare = |rbp| registers(TEXT + BARE, STACK, &[(Register::Rbp, rbp)]);
    assert_eq!(end(&bare(0), &Words::default()), End::FramePointerZero);
    assert_eq!(end(&bare(STACK), &Words::at(STACK, &[0, 0])), End::ReturnAddressZero);
    let no_way_on = |frame_pointer| End::NoWayOn { pc: text(BARE), frame_pointer };
    assert_eq!(
        end(&registers(TEXT + BARE, STACK, &[]), &Words::default()),
        no_way_on(FramePointerError::Unknown)
    );
    let [frame_pointer, stack_pointer] = [STACK - 8, STACK].map(VirtualAddress);
    assert_eq!(
        end(&bare(STACK - 8), &Words::default()),
        no_way_on(FramePointerError::BelowStack { frame_pointer, stack_pointer })
    );
    assert_eq!(
        end(&bare(STACK), &Words::at(STACK, &[0, 0x1234])),
        no_way_on(FramePointerError::NotText { address: VirtualAddress(0x1234) })
    );
    assert_eq!(
        end(&bare(STACK), &Words::default()),
        no_way_on(FramePointerError::Unreadable(unreadable(VirtualAddress(STACK + 8), 8)))
    );
    // At an address that is no code, with a stack that cannot be read, that is what matters.
    for rbp in [&[][..], &[(Register::Rbp, 0)]] {
        assert_eq!(end(&registers(0, STACK, rbp), &Words::default()), unmapped);
    }
    // Nor is its RBP of 0 the mark of an outermost function.
    assert_eq!(
        end(&registers(0, STACK, &[(Register::Rbp, 0)]), &Words::at(STACK, &[0x1234])),
        End::NoWayOn { pc: VirtualAddress(0), frame_pointer: FramePointerError::Zero }
    );
    let nothing = unwind(bytes, &UnwindRegisters::default(), &Words::default());
    assert_eq!((nothing.frames.len(), nothing.end), (0, End::NoProgramCounter));
    for end in [End::Outermost, End::ReturnAddressZero, End::FramePointerZero] {
        assert!(end.is_complete());
    }
    assert!(!not_text.is_complete() && !unmapped.is_complete());
}

#[test]
fn the_first_byte_behind_the_code_can_be_a_return_address_and_the_first_of_it_cannot() {
    let last = function(elf::TEXT_SIZE - 0x10, 0x10, vec![(0, Cfi::Undefined(RIP))]);
    let bytes = image(&[eh_frame(&[function(LEAF, 0x10, vec![]), last])]);
    let start = registers(TEXT + LEAF, STACK, &[]);
    let trace = unwind(&bytes, &start, &Words::at(STACK, &[TEXT + elf::TEXT_SIZE]));
    assert_eq!((trace.frames.len(), trace.end), (2, End::Outermost));
    let trace = unwind(&bytes, &start, &Words::at(STACK, &[TEXT]));
    assert_eq!(trace.end, End::NotText { address: text(0) });
}

#[test]
fn a_chain_of_rbp_that_turns_back_is_a_loop() {
    for back in [STACK, STACK + 0x20] {
        // The second frame's saved RBP is the first frame, or itself.
        let memory =
            Words::at(STACK, &[STACK + 0x20, TEXT + BARE + 0x10, 0, 0, back, TEXT + BARE + 0x20]);
        let start = registers(TEXT + BARE, STACK, &[(Register::Rbp, STACK)]);
        let trace = unwind(&images()[0].1, &start, &memory);
        assert_eq!(trace.frames.len(), 3, "{trace:?}");
        let stack_pointer = VirtualAddress(back);
        assert_eq!(trace.end, End::Loop { pc: text(BARE + 0x20), stack_pointer });
    }
    // Two records far apart that name each other.
    let memory = Words::at(STACK, &[OTHER_STACK, TEXT + BARE + 0x10])
        .and(OTHER_STACK, &[STACK, TEXT + BARE + 0x20]);
    let start = registers(TEXT + BARE, STACK, &[(Register::Rbp, STACK)]);
    let trace = unwind(&images()[0].1, &start, &memory);
    assert_eq!(trace.frames.len(), 3, "{trace:?}");
    assert!(matches!(trace.end, End::Loop { .. }), "{:?}", trace.end);
}

#[test]
fn cfi_that_leads_down_or_around_is_a_loop() {
    let down = function(LEAF, 0x10, vec![(0, Cfi::Cfa(RSP, -8))]);
    let still = function(FRAMED, 0x10, vec![(0, Cfi::Cfa(RSP, 0))]);
    let bytes = image(&[eh_frame(&[down, still])]);
    let memory = Words::at(STACK - 16, &[TEXT + LEAF + 4, TEXT + FRAMED + 4]);
    for (at, to) in [(LEAF, LEAF + 4), (FRAMED, FRAMED + 4)] {
        let trace = unwind(&bytes, &registers(TEXT + at, STACK, &[]), &memory);
        assert_eq!(trace.frames.len(), 1, "{trace:?}");
        assert!(matches!(trace.end, End::Loop { pc, .. } if pc == text(to)), "{:?}", trace.end);
    }
    // An interrupt frame that returns to itself: legal for one step, and no more.
    let memory = Words::at(STACK, &[0xe, TEXT + TRAP, 8, 0x202, STACK, 0x10]);
    let trace = unwind(&images()[0].1, &registers(TEXT + TRAP, STACK, &[]), &memory);
    assert_eq!(trace.frames.len(), 1, "{trace:?}");
    assert!(matches!(trace.end, End::Loop { .. }), "{:?}", trace.end);
}

#[test]
fn endless_recursion_is_cut() {
    let words: Vec<_> = (0..2 * MAX_FRAMES).map(|_| TEXT + LEAF + 8).collect();
    let start = registers(TEXT + LEAF, STACK, &[]);
    let trace = unwind(&images()[0].1, &start, &Words::at(STACK, &words));
    assert_eq!((trace.frames.len(), trace.end), (MAX_FRAMES, End::TooManyFrames));
}

#[test]
fn long_entries_are_read_within_bounds() {
    let padded = |states: usize| {
        // Pairs that save and restore all rules, as costly as an instruction can be.
        let states = (0..states).flat_map(|_| [(0, Cfi::RememberState), (0, Cfi::RestoreState)]);
        image(&[eh_frame(&[function(LEAF, 0x10, states.collect())])])
    };
    let words = [TEXT + LEAF + 8; 100];
    let start = registers(TEXT + LEAF, STACK, &[]);
    let unwind = |states| unwind(&padded(states), &start, &Words::at(STACK, &words));
    // 60 KiB for each frame, and one MiB for all of them.
    let trace = unwind(30 << 10);
    assert_eq!(trace.frames.len(), 18);
    let source = CfiError::TooLarge;
    assert_eq!(trace.end, End::BadCfi { pc: text(LEAF + 8), source });
    // More than 64 KiB for one.
    let trace = unwind(33 << 10);
    assert_eq!(trace.frames.len(), 1);
    assert!(matches!(trace.end, End::BadCfi { source: CfiError::Table(_), .. }), "{:?}", trace.end);
}

#[test]
fn a_header_that_lies_or_lacks_entries_changes_nothing() {
    let memory = Words::at(STACK, &[TEXT + START + 8]);
    let start = registers(TEXT + LEAF, STACK, &[]);
    let eh_frame = eh_frame(&functions());
    let header = eh_frame_hdr(&eh_frame.1).1;
    let expected = unwind(&image(std::slice::from_ref(&eh_frame)), &start, &memory);
    assert_eq!(expected.frames.len(), 2);
    // Every byte wrong in turn: version, encodings, pointer, count, rows; and every length.
    for at in 0..header.len() {
        let mut changed = header.clone();
        changed[at] ^= 0x55;
        let bytes = image(&[eh_frame.clone(), (".eh_frame_hdr", changed)]);
        assert_eq!(unwind(&bytes, &start, &memory), expected, "byte {at}");
        let bytes = image(&[eh_frame.clone(), (".eh_frame_hdr", header[..at].to_vec())]);
        assert_eq!(unwind(&bytes, &start, &memory), expected, "cut at {at}");
    }
}

#[test]
fn what_eh_frame_lacks_is_in_debug_frame() {
    let (mut first, mut second) = (functions(), Vec::new());
    second.push(first.remove(0));
    let separate = image(&[debug_frame(&second)]);
    let memory = Words::at(STACK, &[TEXT + START + 8]);
    let start = registers(TEXT + LEAF, STACK, &[]);
    let both = image(&[eh_frame(&first), debug_frame(&second)]);
    assert_eq!(unwind(&both, &start, &memory).frames.len(), 2);
    let only = image(&[eh_frame(&first)]);
    assert_eq!(unwind(&only, &start, &memory).frames.len(), 1);
    let image = Image::parse_with_debug(&only, Some(&separate)).expect("two files");
    assert_eq!(Unwinder::new(&image).unwind(&start, &memory).frames.len(), 2);
}

#[test]
fn a_cut_section_is_reported_where_it_matters() {
    let (name, mut bytes) = eh_frame(&functions());
    let memory = Words::at(STACK, &[TEXT + START + 8]);
    bytes.truncate(bytes.len() - 20);
    let cut = image(&[(name, bytes)]);
    // LEAF's entry is whole, that of BROKEN is not.
    let trace = unwind(&cut, &registers(TEXT + LEAF, STACK, &[]), &memory);
    assert_eq!((trace.frames.len(), trace.end), (2, End::Outermost));
    let trace = unwind(&cut, &registers(TEXT + BROKEN, STACK, &[]), &memory);
    assert!(matches!(trace.end, End::BadCfi { source: CfiError::Table(_), .. }), "{:?}", trace.end);
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
