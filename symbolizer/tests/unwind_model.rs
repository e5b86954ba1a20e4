//! Random call chains on a model of the machine, and stacks that no machine ever made.
//!
//! The model executes calls, prologues and interrupts outermost first and notes what each frame's
//! registers were; the unwinder has to find the same from the innermost registers and memory.

#[path = "common/cfi.rs"]
mod cfi;
#[path = "common/elf.rs"]
mod elf;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use cfi::{
    Function, RBP, RBX, RIP, RSP, Words, debug_frame, eh_frame, eh_frame_hdr, function, unreadable,
};
use elf::{Compression, TEXT};
use gimli::write::{CallFrameInstruction as Cfi, Expression};
use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{
    End, Image, MAX_FRAMES, ProgramCounter, Strategy as Found, Trace, Unwinder,
};
use proptest::prelude::*;

const TOP: u64 = 0xffff_c900_0000_8000;
const START: u64 = 0x80;
const TRAP: u64 = 0xc0;
/// Each function has this much code, one after the other from here.
const LENGTH: u64 = 0x40;
const FIRST: u64 = 0x100;

/// The prologue of a function.
#[derive(Clone, Copy, Debug)]
enum Prologue {
    /// push rbx; sub rsp, 8 * words
    SavesRbx { words: u64 },
    /// sub rsp, 8 * words
    Plain { words: u64 },
    /// push rbp; mov rbp, rsp; sub rsp, 8 * words
    Frame { words: u64, has_cfi: bool },
    /// The entry of an interrupt: the CPU has pushed five words; push rbx
    Trap,
}

/// A step from a frame to the next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Calls function `callee` with the return address `at` bytes into the caller's body.
    Call { callee: usize, at: u64 },
    /// Interrupts the function `at` bytes into its body; the handler runs on this stack or on another.
    Interrupt { at: u64, switches: bool },
}

/// The offset of the body in every function, past the longest prologue.
const BODY: u64 = 8;

fn functions(prologues: &[Prologue]) -> Vec<Function> {
    let mut trap = function(
        TRAP,
        LENGTH as u32,
        vec![
            (0, Cfi::Cfa(RSP, 40)),
            (0, Cfi::Offset(RIP, -40)),
            (0, Cfi::Offset(RSP, -16)),
            (1, Cfi::CfaOffset(48)),
            (1, Cfi::Offset(RBX, -48)),
        ],
    );
    trap.is_signal_frame = true;
    let mut functions = vec![function(START, LENGTH as u32, vec![(0, Cfi::Undefined(RIP))]), trap];
    for (&prologue, at) in prologues.iter().zip((FIRST..).step_by(LENGTH as usize)) {
        let bytes = |words: u64| 8 * words as i32;
        let instructions = match prologue {
            Prologue::SavesRbx { words } => vec![
                (1, Cfi::CfaOffset(16)),
                (1, Cfi::Offset(RBX, -16)),
                (5, Cfi::CfaOffset(16 + bytes(words))),
            ],
            Prologue::Plain { words } => vec![(4, Cfi::CfaOffset(8 + bytes(words)))],
            Prologue::Frame { has_cfi: true, .. } => vec![
                (1, Cfi::CfaOffset(16)),
                (1, Cfi::Offset(RBP, -16)),
                (4, Cfi::CfaRegister(RBP)),
            ],
            Prologue::Frame { has_cfi: false, .. } | Prologue::Trap => continue,
        };
        functions.push(function(at, LENGTH as u32, instructions));
    }
    functions
}

fn image(functions: &[Function], how: usize) -> Vec<u8> {
    let eh_frame = eh_frame(functions);
    let sections = match how {
        0 => vec![eh_frame_hdr(&eh_frame.1), eh_frame],
        1 => vec![eh_frame],
        _ => vec![debug_frame(functions)],
    };
    elf::elf(&sections, &[], Compression::None)
}

/// A frame as the machine had it when it called or was interrupted.
#[derive(Clone, Copy, Debug)]
struct Expected {
    pc: ProgramCounter,
    rsp: u64,
    rbp: u64,
    rbx: u64,
    cfa: u64,
    /// The prologue of the function; `None` for START.
    prologue: Option<Prologue>,
}

struct Machine {
    memory: Words,
    rsp: u64,
    rbp: u64,
    rbx: u64,
    frames: Vec<Expected>,
    /// The next of the unique numbers that functions leave in registers.
    next: u64,
}

impl Machine {
    fn push(&mut self, word: u64) {
        self.rsp -= 8;
        self.memory.0.insert(self.rsp, word);
    }

    fn note(&mut self, pc: ProgramCounter, cfa: u64, prologue: Option<Prologue>) {
        let (rsp, rbp, rbx) = (self.rsp, self.rbp, self.rbx);
        self.frames.push(Expected { pc, rsp, rbp, rbx, cfa, prologue });
    }

    fn clobber(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The prologue of a function that was just called.
    fn enter(&mut self, prologue: Prologue) {
        match prologue {
            Prologue::SavesRbx { words } => {
                self.push(self.rbx);
                self.rbx = self.clobber();
                self.rsp -= 8 * words;
            }
            Prologue::Plain { words } => self.rsp -= 8 * words,
            Prologue::Frame { words, .. } => {
                self.push(self.rbp);
                self.rbp = self.rsp;
                self.rsp -= 8 * words;
            }
            Prologue::Trap => {
                self.push(self.rbx);
                self.rbx = self.clobber();
            }
        }
    }

    /// Executes the chain; the last frame is interrupted in its body, or at its first instruction.
    fn run(prologues: &[Prologue], events: &[Event], at_entry: bool) -> Self {
        let (memory, frames) = (Words::default(), Vec::new());
        let mut machine = Self { memory, rsp: TOP, rbp: 0, rbx: 1, frames, next: 0x1000 };
        // The running function: where it is, its CFA, and what it did.
        let mut running = (START, TOP + 8, None);
        for event in events {
            let (begin, cfa, prologue) = running;
            match *event {
                Event::Call { callee, at } => {
                    let callee = callee % prologues.len();
                    // As a call's return address, the end of the function is inside it.
                    let pc = VirtualAddress(TEXT + begin + BODY + 1 + at % (LENGTH - BODY));
                    machine.note(ProgramCounter::Return(pc), cfa, prologue);
                    let cfa = machine.rsp;
                    machine.push(pc.0);
                    machine.enter(prologues[callee]);
                    let begin = FIRST + LENGTH * callee as u64;
                    running = (begin, cfa, Some(prologues[callee]));
                }
                Event::Interrupt { at, switches } => {
                    let pc = VirtualAddress(TEXT + begin + BODY + at % (LENGTH - BODY));
                    machine.note(ProgramCounter::Interrupted(pc), cfa, prologue);
                    let interrupted = machine.rsp;
                    if switches {
                        // Now above, now below the one before.
                        let distance = 0x10_0000 * machine.frames.len() as u64;
                        machine.rsp = if at % 2 == 0 { TOP + distance } else { TOP - distance };
                    }
                    let cfa = machine.rsp;
                    for word in [0x10, interrupted, 0x202, 8, pc.0] {
                        machine.push(word);
                    }
                    machine.enter(Prologue::Trap);
                    running = (TRAP, cfa, Some(Prologue::Trap));
                }
            }
        }
        let (begin, cfa, prologue) = running;
        let pc = |offset| ProgramCounter::Interrupted(VirtualAddress(TEXT + begin + offset));
        machine.note(pc(BODY), cfa, prologue);
        let with_cfi = !matches!(prologue, Some(Prologue::Frame { has_cfi: false, .. }));
        if at_entry
            && with_cfi
            && let (Some(Event::Call { .. }), [.., caller, _]) =
                (events.last(), &machine.frames[..])
        {
            let Expected { rsp, rbp, rbx, .. } = *caller;
            let rsp = rsp - 8;
            *machine.frames.last_mut().expect("a frame") =
                Expected { pc: pc(0), rsp, rbp, rbx, cfa, prologue };
        }
        machine.frames.reverse();
        machine
    }
}

fn check(trace: &Trace, expected: &[Expected]) {
    assert_eq!(trace.end, End::Outermost);
    assert_eq!(trace.frames.len(), expected.len());
    // A step along frame pointers loses RBX until a function is found that saved it.
    let mut rbx_known = true;
    let mut strategy = Found::Registers;
    for (frame, expected) in trace.frames.iter().zip(expected) {
        assert_eq!(frame.pc, expected.pc);
        assert_eq!(frame.strategy, strategy);
        assert_eq!(frame.registers.get(Register::Rsp), Some(expected.rsp));
        assert_eq!(frame.registers.get(Register::Rbp), Some(expected.rbp));
        assert_eq!(frame.registers.get(Register::Rbx), rbx_known.then_some(expected.rbx));
        assert_eq!(frame.registers.get(Register::Rip), Some(expected.pc.address().0));
        assert_eq!(frame.cfa, Some(VirtualAddress(expected.cfa)));
        assert_eq!(frame.cfi_fault, None);
        let in_trap = matches!(expected.prologue, Some(Prologue::Trap));
        assert_eq!(frame.is_signal_frame, in_trap);
        strategy = Found::Cfi;
        match expected.prologue {
            Some(Prologue::Frame { has_cfi: false, .. }) => {
                strategy = Found::FramePointer;
                rbx_known = false;
            }
            // At the first instruction it is not saved yet, but still there.
            Some(Prologue::SavesRbx { .. } | Prologue::Trap) => rbx_known = true,
            _ => {}
        }
    }
}

fn prologue() -> impl Strategy<Value = Prologue> {
    prop_oneof![
        (0..6_u64).prop_map(|words| Prologue::SavesRbx { words }),
        (0..6_u64).prop_map(|words| Prologue::Plain { words }),
        (0..6_u64, any::<bool>()).prop_map(|(words, has_cfi)| Prologue::Frame { words, has_cfi }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (any::<usize>(), any::<u64>()).prop_map(|(callee, at)| Event::Call { callee, at }),
        1 => (any::<u64>(), any::<bool>())
            .prop_map(|(at, switches)| Event::Interrupt { at, switches }),
    ]
}

/// A function that computes its CFA, so that edits reach expressions too.
fn computed() -> Function {
    let mut saved = Expression::new();
    saved.op_breg(RSP, 8);
    saved.op_deref();
    let mut by_rbx = Expression::new();
    by_rbx.op_breg(RBX, 0);
    function(
        0x800,
        LENGTH as u32,
        vec![(0, Cfi::CfaExpression(saved)), (2, Cfi::Expression(RIP, by_rbx))],
    )
}

/// Words that look like those of a stack: addresses of code and of the stack, numbers, and holes.
struct Noise {
    seed: u64,
    /// Number of words in 16 that cannot be read.
    holes: u64,
}

impl VirtualMemory for Noise {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let mut hasher = DefaultHasher::new();
        (self.seed, address).hash(&mut hasher);
        let random = hasher.finish();
        if random % 16 < self.holes {
            return Err(unreadable(address, buffer.len()));
        }
        let word = match random >> 8 & 7 {
            0..=3 => TEXT + (random >> 16) % 0x900,
            4 | 5 => address.0.wrapping_add((random >> 16) % 0x100),
            6 => TOP + (random >> 16) % 0x1000,
            _ => random,
        };
        let length = buffer.len().min(8);
        buffer[..length].copy_from_slice(&word.to_le_bytes()[..length]);
        Ok(())
    }
}

fn exercise(bytes: &[u8], memory: &Noise) {
    let Ok(image) = Image::parse(bytes) else { return };
    let unwinder = Unwinder::new(&image);
    for pc in (START..0x900).step_by(0x33) {
        for known in [true, false] {
            let mut registers =
                UnwindRegisters::new(VirtualAddress(TEXT + pc), VirtualAddress(TOP));
            if known {
                registers.set(Register::Rbp, TOP + 0x40);
                registers.set(Register::Rbx, memory.seed);
            }
            let trace = unwinder.unwind(&registers, memory);
            assert!((1..=MAX_FRAMES).contains(&trace.frames.len()));
            let _ = (trace.end.to_string(), format!("{trace:?}"));
        }
    }
}

fn fixture() -> Vec<Function> {
    let mut functions = functions(&[
        Prologue::SavesRbx { words: 2 },
        Prologue::Plain { words: 3 },
        Prologue::Frame { words: 1, has_cfi: true },
        Prologue::Frame { words: 1, has_cfi: false },
    ]);
    functions.push(computed());
    functions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_random_chain_of_calls_and_interrupts_is_recovered(
        prologues in prop::collection::vec(prologue(), 1..8),
        events in prop::collection::vec(event(), 0..40),
        at_entry in any::<bool>(),
        how in 0..3_usize,
    ) {
        let machine = Machine::run(&prologues, &events, at_entry);
        let bytes = image(&functions(&prologues), how);
        let image = Image::parse(&bytes).expect("an image");
        let inner = machine.frames[0];
        let registers = [
            (Register::Rip, inner.pc.address().0),
            (Register::Rsp, inner.rsp),
            (Register::Rbp, inner.rbp),
            (Register::Rbx, inner.rbx),
        ];
        let registers = registers.into_iter().collect();
        check(&Unwinder::new(&image).unwind(&registers, &machine.memory), &machine.frames);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn unwinding_any_stack_terminates(seed in any::<u64>(), holes in 0..4_u64, how in 0..3_usize) {
        exercise(&image(&fixture(), how), &Noise { seed, holes });
    }

    #[test]
    fn unwinding_with_changed_cfi_terminates(
        seed in any::<u64>(),
        holes in 0..3_u64,
        how in 0..3_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let functions = fixture();
        let eh_frame = eh_frame(&functions);
        let mut sections = match how {
            0 => vec![eh_frame_hdr(&eh_frame.1), eh_frame],
            1 => vec![eh_frame],
            _ => vec![debug_frame(&functions)],
        };
        for (index, byte) in edits {
            let which = index.index(sections.len());
            let section = &mut sections[which].1;
            let at = index.index(section.len());
            section[at] = byte;
        }
        exercise(&elf::elf(&sections, &[], Compression::None), &Noise { seed, holes });
    }

    #[test]
    fn unwinding_with_arbitrary_sections_terminates(
        seed in any::<u64>(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        which in 0..3_usize,
    ) {
        let mut sections = vec![eh_frame(&fixture())];
        let name = [".eh_frame", ".debug_frame", ".eh_frame_hdr"][which];
        sections.retain(|&(other, _)| other != name);
        sections.push((name, bytes));
        exercise(&elf::elf(&sections, &[], Compression::None), &Noise { seed, holes: 1 });
    }
}
