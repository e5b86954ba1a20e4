//! CFI that is damaged, split or too long.

use gimli::write::CallFrameInstruction as Cfi;
use nmiscope_symbolizer::{CfiError, End, Image, Unwinder};

use crate::cfi::{Words, debug_frame, eh_frame, eh_frame_hdr, function};
use crate::elf::TEXT;
use crate::stacks::{BROKEN, LEAF, STACK, START, functions, image, registers, text, unwind};

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
fn a_wrong_or_incomplete_eh_frame_hdr_changes_no_answer() {
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
fn entries_missing_from_eh_frame_are_found_in_debug_frame() {
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
