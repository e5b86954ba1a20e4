//! The test binary reads the variables of its own running functions: expected values are the
//! values that they have. Optimized code keeps fewer of them, so this is for the dev profile.

#![cfg(debug_assertions)]

mod common;
#[path = "common/own.rs"]
mod own;

use std::hint::black_box;

use common::{load_bias, own_image};
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{
    FunctionVariables, Image, ProgramCounter, Types, Unwinder, VariableKind, Variables,
};
use own::{Own, registers};

#[derive(Clone, Copy)]
#[allow(dead_code, reason = "their names are what is looked up")]
enum State {
    Idle = 3,
    Stuck = 7,
}

struct Address(u64);

struct Ticket {
    owner: u16,
    next: u16,
}

static TABLE: [u64; 4] = [1, 2, 3, 4];

/// Reads the variables of a running function of this binary: the innermost frame of that name.
#[inline(never)]
fn variables_of(function: &str) -> FunctionVariables {
    let bytes = own_image();
    let image = Image::parse(&bytes).expect("an image");
    let (bias, memory) = (load_bias(), Own::open());
    let trace = Unwinder::new(&image).with_bias(bias).unwind(&registers(), &memory);
    let types = Types::new(&image).expect("debug information");
    let variables = Variables::new(&types).with_bias(bias);
    for frame in &trace.frames {
        let linked = VirtualAddress(frame.pc.address().0.wrapping_sub(bias));
        let pc = match frame.pc {
            ProgramCounter::Interrupted(_) => ProgramCounter::Interrupted(linked),
            ProgramCounter::Return(_) => ProgramCounter::Return(linked),
        };
        let names = image.frames(pc).frames;
        let found = variables.in_frame(frame, &memory).expect("debug information");
        assert_eq!(found.len(), names.len(), "{names:?}");
        for (name, found) in names.iter().zip(found) {
            if name.function.as_deref() == Some(function) {
                return found;
            }
        }
    }
    panic!("{function} is not running");
}

fn shown(found: &FunctionVariables) -> Vec<(VariableKind, &str, String)> {
    assert_eq!(found.omitted, 0);
    let each = found.variables.iter();
    each.map(|variable| (variable.kind, &variable.name[..], variable.value.to_string())).collect()
}

#[inline(never)]
#[expect(clippy::too_many_arguments, reason = "one of each kind")]
fn scalars(
    signed: i32,
    wide: u128,
    flag: bool,
    letter: char,
    state: State,
    text: &str,
    pointer: &u64,
    address: Address,
    ticket: Ticket,
) -> FunctionVariables {
    let sum = black_box(signed).wrapping_add(1);
    let nothing = ();
    let byte = 200_u8;
    black_box((&wide, &flag, &letter, &state, &text, &pointer, &address.0, &nothing, &byte));
    let found = {
        let inner = black_box("inner \"scope\"\n");
        // Its address is known, so that it is in memory.
        black_box(&inner);
        let found = variables_of("variables_own::scalars");
        black_box(&inner);
        found
    };
    {
        let later = black_box(5);
        black_box(later);
    }
    black_box((sum, ticket.owner, ticket.next));
    found
}

#[test]
fn arguments_and_locals_have_the_values_that_the_function_sees() {
    use VariableKind::{Local, Parameter};
    let long = "x".repeat(100);
    for (text, expected) in [
        ("per-CPU \u{e9}", "\"per-CPU \u{e9}\"".to_owned()),
        ("", "\"\"".to_owned()),
        (&long, format!("\"{}\"…", "x".repeat(64))),
    ] {
        let found = scalars(
            -5,
            1 << 100,
            true,
            '\u{df}',
            State::Stuck,
            text,
            &TABLE[2],
            Address(0x1234),
            Ticket { owner: 1, next: 2 },
        );
        let mut expected: Vec<(_, _, String)> = vec![
            (Parameter, "signed", "-5".into()),
            (Parameter, "wide", (1_u128 << 100).to_string()),
            (Parameter, "flag", "true".into()),
            (Parameter, "letter", "'\u{df}'".into()),
            (Parameter, "state", "Stuck".into()),
            (Parameter, "text", expected),
            (Parameter, "pointer", "variables_own::TABLE+0x10".into()),
            (Parameter, "address", "Address(4660)".into()),
            (Parameter, "ticket", "{Ticket}".into()),
            (Local, "sum", "-4".into()),
            (Local, "nothing", "()".into()),
            (Local, "byte", "200".into()),
            (Local, "inner", r#""inner \"scope\"\n""#.into()),
        ];
        // Compilers may put locals before or after each other; `later` is in another block.
        let mut found_sorted = shown(&found);
        found_sorted.sort_by_key(|&(_, name, _)| name.to_owned());
        expected.sort_by_key(|&(_, name, _)| name.to_owned());
        assert_eq!(found_sorted, expected);
        let names = found.variables.iter().map(|variable| variable.type_name.as_deref());
        let names: Vec<_> = names.map(|name| name.expect("a type")).collect();
        assert_eq!(
            names[..6],
            ["i32", "u128", "bool", "char", "variables_own::State", "&str"]
                .map(|name| name.rsplit("::").next().expect("a name"))
        );
    }
}

#[inline(always)]
fn inlined(argument: u64) -> FunctionVariables {
    let local = black_box(argument) + 1;
    let found = variables_of("variables_own::inlined");
    black_box(local);
    found
}

#[inline(never)]
fn outer(argument: u64) -> FunctionVariables {
    let own = black_box(argument) * 2;
    let found = inlined(own);
    black_box(own);
    found
}

#[test]
fn an_inlined_call_has_its_own_variables() {
    let found = outer(21);
    let found = shown(&found);
    assert!(found.contains(&(VariableKind::Parameter, "argument", "42".to_owned())), "{found:?}");
    assert!(found.contains(&(VariableKind::Local, "local", "43".to_owned())), "{found:?}");
    assert!(!found.iter().any(|&(_, name, _)| name == "own"), "{found:?}");
}
