//! Stacks that end: the reason for the end, and the bounds on stacks that would never end.

use gimli::write::CallFrameInstruction as Cfi;
use nmiscope_machine::{Register, UnwindRegisters, VirtualAddress};
use nmiscope_symbolizer::{End, FramePointerError, MAX_FRAMES};

use crate::cfi::{RIP, RSP, Words, eh_frame, function, unreadable};
use crate::elf::{self, TEXT};
use crate::stacks::{
    BARE, FRAMED, LEAF, OTHER_STACK, STACK, START, TRAP, image, images, registers, text, unwind,
};

#[test]
fn each_trace_end_carries_its_reason() {
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
    let no_caller_found = |frame_pointer| End::NoCallerFound { pc: text(BARE), frame_pointer };
    assert_eq!(
        end(&registers(TEXT + BARE, STACK, &[]), &Words::default()),
        no_caller_found(FramePointerError::Unknown)
    );
    let [frame_pointer, stack_pointer] = [STACK - 8, STACK].map(VirtualAddress);
    assert_eq!(
        end(&bare(STACK - 8), &Words::default()),
        no_caller_found(FramePointerError::BelowStack { frame_pointer, stack_pointer })
    );
    assert_eq!(
        end(&bare(STACK), &Words::at(STACK, &[0, 0x1234])),
        no_caller_found(FramePointerError::NotText { address: VirtualAddress(0x1234) })
    );
    assert_eq!(
        end(&bare(STACK), &Words::default()),
        no_caller_found(FramePointerError::Unreadable(unreadable(VirtualAddress(STACK + 8), 8)))
    );
    // At an address outside the code, with an unreadable stack, the read error is the reason.
    for rbp in [&[][..], &[(Register::Rbp, 0)]] {
        assert_eq!(end(&registers(0, STACK, rbp), &Words::default()), unmapped);
    }
    // Nor is its RBP of 0 the mark of an outermost function.
    assert_eq!(
        end(&registers(0, STACK, &[(Register::Rbp, 0)]), &Words::at(STACK, &[0x1234])),
        End::NoCallerFound { pc: VirtualAddress(0), frame_pointer: FramePointerError::Zero }
    );
    let nothing = unwind(bytes, &UnwindRegisters::default(), &Words::default());
    assert_eq!((nothing.frames.len(), nothing.end), (0, End::NoProgramCounter));
    for end in [End::Outermost, End::ReturnAddressZero, End::FramePointerZero] {
        assert!(end.is_complete());
    }
    assert!(!not_text.is_complete() && !unmapped.is_complete());
}

#[test]
fn a_return_address_may_end_the_code_but_not_start_it() {
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

/// An image with CFI and one symbol.
fn image_with(symbol: elf::Symbol) -> Vec<u8> {
    let bare = function(LEAF, 0x10, vec![]);
    elf::elf(&[eh_frame(&[bare])], &[symbol], elf::Compression::None)
}

/// The words above the top of a hand-made stack belong to whatever lies there.
#[test]
fn a_stack_ends_at_its_top_where_the_image_names_it() {
    let (local_object, local_label) = (0x01, 0x00);
    let size = 0x1000;
    let symbols = [
        elf::Symbol { name: "stack", address: STACK - size, size, info: local_object },
        elf::Symbol { name: "stack_end", address: STACK, size: 0, info: local_label },
    ];
    let foreign = Words::at(STACK, &[0x1234, 0x1234, 0x1234]);
    let top = End::StackTop { address: VirtualAddress(STACK) };
    assert!(top.is_complete());
    for symbol in symbols {
        let bytes = image_with(symbol);
        let end =
            |registers: &UnwindRegisters, memory: &Words| unwind(&bytes, registers, memory).end;
        let bare = |rsp, rbp| registers(TEXT + BARE, rsp, &[(Register::Rbp, rbp)]);
        // By CFI, readable or not; with RBP used for something else; with RBP as the frame pointer, pushed or not.
        assert_eq!(end(&registers(TEXT + LEAF, STACK, &[]), &foreign), top);
        assert_eq!(end(&registers(TEXT + LEAF, STACK, &[]), &Words::default()), top);
        assert_eq!(end(&bare(STACK, 0x77), &foreign), top);
        assert_eq!(end(&bare(STACK - 0x20, STACK), &foreign), top);
        let pushed = Words::at(STACK - 8, &[0, 0x1234]);
        assert_eq!(end(&bare(STACK - 0x20, STACK - 8), &pushed), top);
        // A stack that is overwritten further down is cut.
        let cut = Words::at(STACK - 0x20, &[0x1234, 0x1234]);
        let end = end(&registers(TEXT + LEAF, STACK - 0x20, &[]), &cut);
        assert_eq!(end, End::NotText { address: VirtualAddress(0x1234) });
    }
}

#[test]
fn a_vcpu_that_halts_in_a_loop_without_a_caller_is_parked() {
    let bytes = images()[0].1.clone();
    let code = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
    let hlt_loop = code([0xfa, 0xf4, 0xeb, 0xfd, 0, 0, 0, 0]); // cli; 1: hlt; jmp 1b
    let long_jump = code([0xf4, 0xe9, 0xfa, 0xff, 0xff, 0xff, 0, 0]); // 1: hlt; jmp 1b
    let pause_loop = code([0xf3, 0x90, 0xeb, 0xfc, 0, 0, 0, 0]); // 1: pause; jmp 1b
    let falls_through = code([0xf4, 0x90, 0xc3, 0, 0, 0, 0, 0]); // hlt; nop; ret
    let copy = 0x8000; // of start-up code, outside of the image
    let end = |pc: u64, instructions: u64, at: u64, rbp: u64, word: u64| {
        let memory = Words::at(at, &[instructions]).and(STACK, &[word, 0x1234, 0x1234, 0x1234]);
        unwind(&bytes, &registers(pc, STACK, &[(Register::Rbp, rbp)]), &memory).end
    };
    let bare = TEXT + BARE;
    for (pc, instructions) in
        [(bare, hlt_loop), (bare + 1, hlt_loop), (bare + 2, hlt_loop), (bare, long_jump)]
    {
        assert_eq!(end(pc, instructions, bare, 0x77, 0x1234), End::Parked);
    }
    for instructions in [hlt_loop, pause_loop] {
        assert_eq!(end(copy, instructions, copy, 0, 0x1234), End::Parked);
    }
    assert!(End::Parked.is_complete());
    // Without HLT, with a frame pointer into the stack, with an exit: a stack that is cut.
    let is_cut = |end: End| matches!(end, End::NoCallerFound { .. });
    assert!(is_cut(end(bare, pause_loop, bare, 0x77, 0x1234)));
    assert!(is_cut(end(bare, hlt_loop, bare, STACK + 8, 0x1234)));
    assert!(is_cut(end(bare, falls_through, bare, 0x77, 0x1234)));
    // A return address at RSP: something called it.
    assert!(is_cut(end(bare, hlt_loop, bare, 0x77, TEXT + FRAMED + 4)));
}
