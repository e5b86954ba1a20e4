//! Variables in every kind of place, in a function laid out by hand.

#[path = "common/cfi.rs"]
mod cfi;
#[path = "common/elf.rs"]
mod elf;
#[path = "common/locals.rs"]
mod locals;

use cfi::Words;
use elf::{Compression, TEXT};
use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{
    ExpressionError, FunctionVariables, Image, ProgramCounter, Strategy, TypeError, Types,
    UnwoundFrame, ValueError, VariableKind, VariableValue, Variables,
};
use proptest::prelude::*;

const STACK: u64 = 0xffff_c900_0000_4000;
const TEXT_OF_STR: u64 = 0xffff_c900_0000_8000;
const CFA: u64 = STACK + 0x100;

fn frame(pc: ProgramCounter) -> UnwoundFrame {
    let mut registers = UnwindRegisters::new(pc.address(), VirtualAddress(STACK));
    registers.set(Register::Rbp, CFA - 0x10);
    registers.set(Register::Rbx, 0x77);
    registers.set(Register::R12, TEXT_OF_STR);
    let (strategy, cfa) = (Strategy::Registers, Some(VirtualAddress(CFA)));
    UnwoundFrame { pc, strategy, registers, cfa, is_signal_frame: false, cfi_fault: None }
}

fn at(offset: u64) -> ProgramCounter {
    ProgramCounter::Interrupted(VirtualAddress(TEXT.wrapping_add(offset)))
}

fn memory() -> Words {
    let stack: Vec<_> = (0..0x20).map(|word| 0x1000 + word).collect();
    Words::at(STACK, &stack).and(TEXT_OF_STR, &[u64::from_le_bytes(*b"cpu\n1___")])
}

fn image(version: u16, by_rbp: bool, crowd: usize) -> Vec<u8> {
    let sections = locals::sections(version, by_rbp, crowd);
    let symbols = [
        elf::Symbol {
            name: "hang",
            address: TEXT + 0x100,
            size: 0x100,
            info: elf::GLOBAL_FUNCTION,
        },
        // Any section will do for it; the builder has all symbols in `.text`.
        elf::Symbol { name: "TABLE", address: TEXT + 0x400, size: 0x20, info: 0x11 },
    ];
    elf::elf(&sections, &symbols, Compression::None)
}

fn variables(bytes: &[u8], frame: &UnwoundFrame) -> Vec<FunctionVariables> {
    let image = Image::parse(bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    let found = Variables::new(&types).in_frame(frame, &memory()).expect("a function");
    assert_eq!(found.len(), image.frames(frame.pc).frames.len());
    found
}

fn value<'a>(function: &'a FunctionVariables, name: &str) -> &'a VariableValue {
    let found = function.variables.iter().find(|variable| variable.name == name);
    &found.unwrap_or_else(|| panic!("no {name}")).value
}

#[test]
fn values_are_shown_as_the_source_would() {
    for version in 4..=5 {
        let found = variables(&image(version, false, 0), &frame(at(0x148)));
        let [hang] = &found[..] else { panic!("one function: {found:?}") };
        for (name, expected) in [
            // CFA-0x20 is the word 0x1c of the stack.
            ("on_stack", "4124"),
            ("in_register", "119"),
            ("text", r#""cpu\n1""#),
            ("at_entry", "<optimized out>"),
            ("nowhere", "<optimized out>"),
            ("half_gone", "<optimized out>"),
            ("no_length", "<optimized out>"),
            ("negative", "-2"),
            ("yes", "true"),
            ("odd_bool", "bool(0x2)"),
            ("letter", "'\u{df}'"),
            ("no_letter", "char(0xd800)"),
            ("c_letter", r"'\x1b'"),
            ("half", "0.5"),
            ("state", "Stuck"),
            ("odd_state", "State(9)"),
            ("to_text", "hang"),
            ("to_table", "TABLE+0x10"),
            ("to_nothing", "0x1234"),
            ("newtype", "Cpu(3)"),
            ("pair", "{Pair}"),
            ("nothing", "()"),
            ("marker", "{Marker}"),
            ("block", &(u128::MAX / 255 * 9).to_string()),
            ("late", "4124"),
        ] {
            assert_eq!(value(hang, name).to_string(), expected, "{name}, version {version}");
        }
        let kinds = |wanted| hang.variables.iter().filter(|found| found.kind == wanted).count();
        assert_eq!(kinds(VariableKind::Parameter), 4);
        let first = &hang.variables[0];
        assert_eq!((&first.name[..], first.type_name.as_deref()), ("on_stack", Some("u64")));
    }
}

#[test]
fn unreadable_values_carry_their_reason() {
    let found = variables(&image(5, false, 0), &frame(at(0x148)));
    let unavailable = |name| match value(&found[0], name) {
        VariableValue::Unavailable(error) => error.clone(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(
        unavailable("lost"),
        ValueError::Location(ExpressionError::UnknownRegister { register: 5 })
    );
    assert!(matches!(unavailable("unmapped"), ValueError::Value(TypeError::Read(_))));
    assert!(matches!(unavailable("typeless"), ValueError::Value(TypeError::NotFound { .. })));
    assert_eq!(
        unavailable("endless"),
        ValueError::Location(ExpressionError::Malformed(gimli::Error::TooManyIterations))
    );
    assert!(matches!(unavailable("too_wide"), ValueError::Location(_)));
    assert_eq!(
        value(&found[0], "lost").to_string(),
        "<unavailable: evaluate a DWARF expression: the value of rdi is not known>"
    );
    let unmapped = value(&found[0], "unmapped").to_string();
    assert!(unmapped.starts_with("<unavailable: read a value: read 8 bytes at "), "{unmapped}");
}

#[test]
fn locations_depend_on_the_address() {
    for version in 4..=5 {
        let bytes = image(version, false, 0);
        let listed = |pc| {
            let found = variables(&bytes, &frame(pc));
            value(found.last().expect("hang"), "listed").to_string()
        };
        // RSI is not known; then memory at RBX+8, which is unmapped; then nothing.
        assert!(listed(at(0x13f)).contains("rsi"), "{}", listed(at(0x13f)));
        assert!(listed(at(0x140)).contains("000000000000007f"), "{}", listed(at(0x140)));
        assert_eq!(listed(at(0x180)), "<optimized out>");
        // A return address belongs to the call before it.
        let back = |offset| ProgramCounter::Return(VirtualAddress(TEXT + offset));
        assert!(listed(back(0x140)).contains("rsi"), "{}", listed(back(0x140)));
    }
}

#[test]
fn only_blocks_that_hold_the_address_are_in_scope() {
    let bytes = image(5, false, 0);
    for (offset, there, not_there) in [(0x13f, "early", "late"), (0x140, "late", "early")] {
        let found = variables(&bytes, &frame(at(offset)));
        value(&found[0], there);
        assert!(found[0].variables.iter().all(|variable| variable.name != not_there));
    }
}

#[test]
fn inlined_calls_and_callers_each_have_their_own_variables() {
    for version in 4..=5 {
        let found = variables(&image(version, false, 0), &frame(at(0x150)));
        let [wait, hang] = &found[..] else { panic!("two functions: {found:?}") };
        let shown: Vec<_> = wait
            .variables
            .iter()
            .map(|variable| (variable.kind, &variable.name[..], variable.value.to_string()))
            .collect();
        assert_eq!(
            shown,
            [
                (VariableKind::Parameter, "cpu", "Cpu(119)".to_owned()),
                (VariableKind::Local, "limit", "-1".to_owned()),
            ]
        );
        // Declared behind the call, in the same block.
        assert_eq!(value(hang, "after_call").to_string(), "4125");
        assert_eq!(value(hang, "late").to_string(), "4124");
    }
}

#[test]
fn the_frame_base_may_be_a_register() {
    // RBP is CFA-0x10.
    let bytes = image(5, true, 0);
    assert_eq!(value(&variables(&bytes, &frame(at(0x148)))[0], "on_stack").to_string(), "4122");
    let mut frame = frame(at(0x148));
    frame.registers = UnwindRegisters::new(frame.pc.address(), VirtualAddress(STACK));
    let found = variables(&bytes, &frame);
    let unknown = value(&found[0], "on_stack");
    assert!(matches!(unknown, VariableValue::Unavailable(_)), "{unknown:?}");
}

#[test]
fn omitted_variables_are_counted() {
    let found = variables(&image(5, false, 100), &frame(at(0x148)));
    let all = variables(&image(5, false, 0), &frame(at(0x148)))[0].variables.len();
    assert_eq!((found[0].variables.len(), found[0].omitted), (64, all + 100 - 64));
}

#[test]
fn an_address_without_a_function_has_no_variables() {
    assert_eq!(variables(&image(5, false, 0), &frame(at(0x800))), []);
}

#[test]
fn pointers_are_shown_by_symbol_where_the_guest_has_the_image() {
    let bias = 0x1000_0000;
    let bytes = image(5, false, 0);
    let image = Image::parse(&bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    let variables = Variables::new(&types).with_bias(bias);
    let found = variables.in_frame(&frame(at(0x148 + bias)), &memory()).expect("a function");
    // The program computes these numbers, and where the image was linked is nothing now.
    assert_eq!(value(&found[0], "to_text").to_string(), format!("{:#x}", TEXT + 0x100));
    // The words of the stack are where they were.
    assert_eq!(value(&found[0], "on_stack").to_string(), "4124");
}

/// Memory of random words, some of which cannot be read.
struct Noise(u64);

impl VirtualMemory for Noise {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let random = (address.0 ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        if random.is_multiple_of(5) {
            return Err(cfi::unreadable(address, buffer.len()));
        }
        for (byte, value) in buffer.iter_mut().zip(random.to_le_bytes().into_iter().cycle()) {
            *byte = value;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn changed_debug_information_ends_in_bounded_values(
        version in 4..=5_u16,
        by_rbp in any::<bool>(),
        seed in any::<u64>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
    ) {
        let mut sections = locals::sections(version, by_rbp, 0);
        for (index, byte) in edits {
            let which = index.index(sections.len());
            let section = &mut sections[which].1;
            let at = index.index(section.len());
            section[at] = byte;
        }
        let bytes = elf::elf(&sections, &elf::SYMBOLS, Compression::None);
        let image = Image::parse(&bytes).expect("the container is whole");
        let Ok(types) = Types::new(&image) else { return Ok(()) };
        for offset in [0x100_u64, 0x13f, 0x150, 0x1ff] {
            for bias in [0, seed] {
                let variables = Variables::new(&types).with_bias(bias);
                let frame = frame(at(offset.wrapping_add(bias)));
                let Ok(found) = variables.in_frame(&frame, &Noise(seed)) else { continue };
                for variable in found.iter().flat_map(|function| &function.variables) {
                    if let VariableValue::Text(text) = &variable.value {
                        // A string of 64 bytes, each of which escapes to some.
                        prop_assert!(text.len() < 1000, "{text}");
                    }
                    let _ = variable.value.to_string();
                }
            }
        }
    }
}
