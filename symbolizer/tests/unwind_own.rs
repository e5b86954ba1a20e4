//! The test binary unwinds itself, from inside functions that are running: expected values come
//! from libgcc's unwinder (`_Unwind_Backtrace`), which reads the same CFI with other code.

mod common;
#[path = "common/own.rs"]
mod own;

use std::ffi::{c_int, c_void};
use std::hint::black_box;

use common::{load_bias, own_image, text_addresses};
use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{End, Image, ProgramCounter, Strategy, Trace, Unwinder};
use own::{Own, registers};

unsafe extern "C" {
    fn _Unwind_Backtrace(
        each: extern "C" fn(*mut c_void, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_GetCFA(context: *mut c_void) -> usize;
}

extern "C" fn note(context: *mut c_void, frames: *mut c_void) -> c_int {
    // SAFETY: `by_libgcc` passes its own vector, which nothing else uses meanwhile.
    let frames = unsafe { &mut *frames.cast::<Vec<(u64, u64)>>() };
    // SAFETY: the context is libgcc's own, valid during this call.
    let (pc, cfa) = unsafe { (_Unwind_GetIP(context), _Unwind_GetCFA(context)) };
    frames.push((pc as u64, cfa as u64));
    0
}

/// Return addresses of the frames, and the stack pointers that libgcc has for them.
fn by_libgcc() -> Vec<(u64, u64)> {
    let mut frames = Vec::new();
    // SAFETY: `note` has the type that the Itanium C++ ABI (1.3) wants, and gets the vector.
    unsafe { _Unwind_Backtrace(note, (&raw mut frames).cast()) };
    frames
}

struct Both {
    ours: Trace,
    theirs: Vec<(u64, u64)>,
}

#[inline(never)]
fn here(image: &Image<'_>) -> Both {
    let unwinder = Unwinder::new(image).with_bias(load_bias());
    let ours = unwinder.unwind(&registers(), &Own::open());
    Both { ours, theirs: by_libgcc() }
}

#[inline(never)]
fn recursive(image: &Image<'_>, depth: usize, block: &[u64]) -> Both {
    // Frames of different sizes, and something to keep in registers across the call.
    let local = [depth as u64; 13];
    let sum: u64 = block.iter().sum();
    let found = match depth {
        0 => here(image),
        _ if depth.is_multiple_of(3) => recursive(image, depth - 1, black_box(&local)),
        _ => through_a_closure(image, depth - 1, &mut |image, depth| {
            recursive(image, depth, black_box(&local[..depth % 13]))
        }),
    };
    black_box(sum);
    found
}

#[inline(never)]
fn through_a_closure(
    image: &Image<'_>,
    depth: usize,
    call: &mut dyn FnMut(&Image<'_>, usize) -> Both,
) -> Both {
    let aligned = Aligned([depth as u8; 64]);
    black_box(aligned.0);
    call(image, depth)
}

/// Makes the compiler align the stack, and so compute the CFA from RBP.
#[repr(align(64))]
struct Aligned([u8; 64]);

#[test]
fn frames_and_their_addresses_agree_with_libgcc() {
    let bytes = own_image();
    let image = Image::parse(&bytes).expect("an image");
    let bias = load_bias();
    let Both { ours, theirs } = recursive(&image, 40, &[1, 2]);
    // The first of ours is inside `here`; theirs has frames of its own before that.
    let is_ours = |pc: u64| image.is_text(VirtualAddress(pc.wrapping_sub(bias)));
    let frames = &ours.frames[1..];
    let first = theirs.iter().position(|&(pc, _)| pc == frames[0].pc.address().0);
    let theirs = &theirs[first.expect("`here` was called by one and the same")..];
    // The last frames are libc's, which is another image.
    let theirs: Vec<_> = theirs.iter().copied().take_while(|&(pc, _)| is_ours(pc)).collect();
    assert!(theirs.len() > 60, "only {} frames", theirs.len());
    let found: Vec<_> = frames
        .iter()
        .map(|frame| {
            assert_eq!(frame.strategy, Strategy::Cfi);
            assert_eq!(frame.cfi_fault, None);
            (frame.pc.address().0, frame.registers.get(Register::Rsp).expect("a stack pointer"))
        })
        .collect();
    assert_eq!(found, theirs);
    assert!(matches!(ours.end, End::NotText { .. }), "{:?}", ours.end);
    // The symbols agree with the source.
    let name = |index: usize| {
        let pc = ProgramCounter::Return(VirtualAddress(frames[index].pc.address().0 - bias));
        image.frames(pc).frames.pop().and_then(|frame| frame.function).unwrap_or_default()
    };
    assert_eq!(name(0), "unwind_own::recursive");
    let recursions = (0..frames.len()).filter(|&at| name(at) == "unwind_own::recursive").count();
    assert_eq!(recursions, 41);
}

/// Memory of zeros, all of it readable.
struct Zeros;

impl VirtualMemory for Zeros {
    fn read(&self, _: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        buffer.fill(0);
        Ok(())
    }
}

#[test]
fn compilers_cfi_is_understood_wherever_there_is_some() {
    let bytes = own_image();
    let image = Image::parse(&bytes).expect("an image");
    for address in text_addresses(&bytes, 5000) {
        // Between functions there is padding; the C runtime's own assembly has labels of no size.
        let symbol = image.symbol_containing(VirtualAddress(address));
        if symbol.is_none_or(|found| found.symbol.size == 0) {
            continue;
        }
        let all = Register::ALL.map(|register| (register, 1 << 40));
        let mut registers: UnwindRegisters = all.into_iter().collect();
        registers.set(Register::Rip, address);
        registers.set(Register::Rbp, 0);
        let trace = Unwinder::new(&image).unwind(&registers, &Zeros);
        let [frame] = &trace.frames[..] else { panic!("{trace:?}") };
        assert_eq!(frame.cfi_fault, None, "at {address:#x}");
        // CFI says where the return address is, and it is 0 as all of memory; without CFI, RBP
        // would be what is 0. `_start` is the outermost.
        let expected = matches!(trace.end, End::ReturnAddressZero | End::Outermost);
        assert!(expected, "at {address:#x}: {:?}", trace.end);
    }
}
