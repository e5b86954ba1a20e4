//! Tests of the own part of a stack: with interrupts, faults and waits in all places.

use nmiscope_report::{Class, Frame, Function, HandlerKind, SourceLine};

use super::{Party, own_part};
use crate::kernel::any_vocabulary;

const INTERRUPT: &str = "nmiscope_kernel::arch::x86_64::trap::interrupt";
const WAIT: &str = "nmiscope_guest::sync::lock::wait";

/// Makes a stack of functions, innermost first; `|` stands before an interrupted one. Each calls the next
/// inner one in a line of its own name.
fn stack(names: &str) -> Vec<Frame> {
    let frame = |(depth, name): (usize, &str)| {
        let plain = name.trim_start_matches('|');
        let function = Function {
            name: Some(plain.into()),
            file: Some(format!("{plain}.rs")),
            line: Some(1),
            column: None,
            inlined: false,
            variables: Vec::new(),
            variables_omitted: 0,
        };
        Frame {
            address: plain.into(),
            interrupted: depth == 0 || plain != name,
            reliable: true,
            found_by: None,
            symbol: None,
            functions: vec![function],
            missing: None,
            cfi_fault: None,
        }
    };
    names.split(' ').enumerate().map(frame).collect()
}

/// Returns the own part at the first moment, and its handler.
fn own(
    class: Class,
    interrupts_enabled: Option<bool>,
    waits: &[&str],
    moments: &[&str],
) -> (String, Option<HandlerKind>) {
    let stacks: Vec<Vec<Frame>> = moments.iter().map(|names| stack(names)).collect();
    let waits = waits.iter().map(|name| SourceLine { file: format!("{name}.rs"), line: 1 });
    let waits: Vec<SourceLine> = waits.collect();
    let party = Party { class, interrupts_enabled, waits: &waits };
    let own = own_part(party, &stacks.iter().map(Vec::as_slice).collect(), any_vocabulary());
    let names = own.moments[0].iter().map(|frame| frame.address.as_str());
    (names.collect::<Vec<_>>().join(" "), own.handler)
}

#[test]
fn what_an_interrupt_came_upon_does_not_count() {
    for interrupted in ["red", "green"] {
        let stack = format!("spin handler {INTERRUPT} trap |{interrupted} main");
        let own = own(Class::HardLockup, Some(false), &[], &[&stack, &stack]);
        assert_eq!(own, (format!("spin handler {INTERRUPT} trap"), Some(HandlerKind::Interrupt)));
    }
}

#[test]
fn the_function_that_has_caused_an_exception_counts() {
    let stack = "spin handler trap |read_page main";
    let own = own(Class::HardLockup, Some(false), &[], &[stack, stack]);
    assert_eq!(own, (stack.replace('|', ""), Some(HandlerKind::Unknown)));
}

#[test]
fn a_handler_that_returns_to_a_fault_does_not_count() {
    let [outside, inside, deeper] =
        ["read_page main", "map trap |read_page main", "find map trap |read_page main"];
    for moments in [[inside, deeper, outside], [deeper, outside, inside], [outside, inside, inside]]
    {
        let own = own(Class::HardLockup, Some(false), &[], &moments);
        assert_eq!(own, ("read_page main".into(), None));
    }
    // Nor does one whose entry is seen both alone and below what it calls.
    let entry = "trap |read_page main";
    for moments in [[inside, entry, deeper], [entry, inside, inside]] {
        let own = own(Class::HardLockup, Some(false), &[], &moments);
        assert_eq!(own, ("read_page main".into(), None));
    }
    let own_of_entry = own(Class::HardLockup, Some(false), &[], &[entry, entry]);
    assert_eq!(own_of_entry, (entry.replace('|', ""), Some(HandlerKind::Unknown)));
    // A stack that was not unwound to its end does not show that the handler has returned.
    let moments = [inside, inside, "garbage"];
    let own = own(Class::HardLockup, Some(false), &[], &moments);
    assert_eq!(own.0, "map trap read_page main");
}

#[test]
fn a_tick_on_a_cpu_that_takes_interrupts_does_not_count() {
    let tick = format!("count {INTERRUPT} trap |poll main");
    for moments in [[&tick[..], "poll main"], [&tick[..], &tick[..]]] {
        let own = own(Class::SoftLockup, Some(false), &[], &moments);
        assert_eq!(own, ("poll main".into(), None));
    }
}

#[test]
fn a_handler_that_spins_with_interrupts_on_counts() {
    let handler = format!("spin handler {INTERRUPT} trap |poll main");
    let tick = format!("count {INTERRUPT} trap |{handler}");
    let wanted = (format!("spin handler {INTERRUPT} trap"), Some(HandlerKind::Interrupt));
    let own = |on, moments: &[&str]| own(Class::SoftLockup, Some(on), &[], moments);
    assert_eq!(own(true, &[&handler, &handler]), wanted);
    assert_eq!(own(false, &[&tick, &handler]), wanted);
    // A handler that returns does not.
    assert_eq!(own(true, &[&handler, "poll main"]), ("poll main".into(), None));
}

#[test]
fn the_own_part_of_a_waiter_begins_where_it_waits() {
    let own = |stack: &str| own(Class::Deadlock, None, &["transfer"], &[stack]);
    let waits = format!("{WAIT} transfer step");
    assert_eq!(own(&waits), (waits.clone(), None));
    assert_eq!(own(&format!("count {INTERRUPT} trap |{waits}")), (waits.clone(), None));
    let in_handler = format!("{waits} {INTERRUPT} trap");
    let wanted = (in_handler.clone(), Some(HandlerKind::Interrupt));
    assert_eq!(own(&format!("{in_handler} |red main")), wanted);
    assert_eq!(own(&format!("count {INTERRUPT} |{in_handler} |blue main")), wanted);
}

#[test]
fn an_empty_stack_has_an_empty_part() {
    let party = Party { class: Class::SoftLockup, interrupts_enabled: None, waits: &[] };
    assert!(own_part(party, &Vec::new(), any_vocabulary()).moments.is_empty());
    let own = own_part(party, &vec![&[]], any_vocabulary());
    assert!(own.moments[0].is_empty() && own.handler.is_none());
}
