//! Signatures: equal hangs get equal ones, whatever the addresses, the lines, the CPUs' numbers and
//! how many there are.
//!
//! Made from the class and, of each blamed stack, the names of its functions, each once. Not from all of
//! them: those that take locks, sleep and panic are where everybody ends up, and an interrupt that
//! happens to be there when a CPU that takes interrupts is stopped says nothing. Of a CPU that runs on,
//! there are its stacks at several moments, and those functions count that stay there: nearly always
//! where it never comes back, and a good part of the time where it does (`stable`).
//!
//! Where no function has a name, as in a stripped image, the addresses stand for them that calls return
//! to: those are the same as long as the image is, and where it was loaded. Where a CPU was interrupted
//! is not: it is another instruction each time. So of a stack of a single frame there is nothing, and
//! hangs without any names and any callers have the signature of their class.

use nmiscope_report::{Class, Frame};
use sha2::{Digest, Sha256};

use super::stable::{Item, Share, stable_items};
use crate::hang::{behaviour, keep_last_of_each};
use crate::kernel::Vocabulary;

/// How many functions of a stack count, from the inner end: what is further out is how everything
/// starts.
const DEPTH: usize = 12;

/// A blamed stack, at all moments at which it was seen.
pub type Moments<'a> = Vec<&'a [Frame]>;

/// The signature of a hang: 16 hexadecimal digits.
pub fn compute(class: Class, stacks: &[Moments<'_>], vocabulary: &dyn Vocabulary) -> String {
    let mut stacks: Vec<Vec<&str>> =
        stacks.iter().map(|moments| significant(class, moments, vocabulary)).collect();
    // One that says nothing is as none.
    stacks.retain(|stack| !stack.is_empty());
    stacks.sort_unstable();
    stacks.dedup();
    let mut hash = Sha256::new();
    hash.update(class.name());
    for stack in stacks {
        hash.update([0]);
        for item in stack {
            hash.update([1]);
            hash.update(item);
        }
    }
    let digest = hash.finalize();
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What of a stack tells one hang from another, innermost first: functions, or addresses if none has
/// a name.
fn significant<'a>(
    class: Class,
    moments: &Moments<'a>,
    vocabulary: &dyn Vocabulary,
) -> Vec<&'a str> {
    let functions = || moments.iter().copied().flatten().flat_map(|frame| &frame.functions);
    if !functions().any(|function| function.name.is_some()) {
        return stable_callers(class, moments).into_iter().take(DEPTH).collect();
    }
    let names = stable_functions(class, moments, vocabulary);
    let own = names.iter().copied().filter(|name| !vocabulary.is_plumbing(name)).take(DEPTH);
    let own: Vec<&str> = own.collect();
    // All of it generic: then that is what there is.
    if own.is_empty() { names.into_iter().take(DEPTH).collect() } else { own }
}

/// The innermost function that stays on a stack and is more than a way to wait.
pub(super) fn stable_place<'a>(
    class: Class,
    moments: &Moments<'a>,
    vocabulary: &dyn Vocabulary,
) -> Option<&'a str> {
    let names = stable_functions(class, moments, vocabulary);
    names.into_iter().find(|name| !vocabulary.is_plumbing(name))
}

/// The functions that stay on a stack, innermost first.
fn stable_functions<'a>(
    class: Class,
    moments: &Moments<'a>,
    vocabulary: &dyn Vocabulary,
) -> Vec<&'a str> {
    let functions = |stack: &&'a [Frame]| {
        let items = own_part(class, stack).iter().flat_map(|frame| {
            frame.functions.iter().filter_map(|function| {
                let value = function.name.as_deref()?;
                Some(Item { value, fleeting: frame.interrupted && function.inlined })
            })
        });
        keep_last_of_each(
            items.take_while(|item| !vocabulary.is_start(item.value)).collect(),
            |item| item.value,
        )
    };
    stable_items(&moments.iter().map(functions).collect::<Vec<_>>(), share(class))
}

/// The addresses that the calls on it return to.
fn stable_callers<'a>(class: Class, moments: &Moments<'a>) -> Vec<&'a str> {
    let callers = |stack: &&'a [Frame]| {
        let callers = own_part(class, stack).iter().filter(|frame| !frame.interrupted);
        let items = callers.map(|frame| Item { value: frame.address.as_str(), fleeting: false });
        keep_last_of_each(items.collect(), |item| item.value)
    };
    stable_items(&moments.iter().map(callers).collect::<Vec<_>>(), share(class))
}

/// The share of the moments at which a function has to be on the stack that says what they are about:
/// a small one for those who come back to their main loop.
fn share(class: Class) -> Share {
    if behaviour(class).returns_to_main_loop { Share::Third } else { Share::NearlyAll }
}

/// What there was before any interrupt, of a CPU that takes them.
fn own_part(class: Class, stack: &[Frame]) -> &[Frame] {
    let interrupted = || stack.iter().rposition(|frame| frame.interrupted);
    let start = if behaviour(class).takes_interrupts { interrupted() } else { None };
    &stack[start.unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::any_vocabulary;
    use nmiscope_report::Function;

    fn frame(names: &[&str], interrupted: bool) -> Frame {
        let function = |name: &&str| Function {
            name: Some((*name).into()),
            file: None,
            line: None,
            column: None,
            inlined: false,
            variables: Vec::new(),
            variables_omitted: 0,
        };
        Frame {
            address: String::new(),
            interrupted,
            reliable: true,
            found_by: None,
            symbol: None,
            functions: names.iter().map(function).collect(),
            missing: None,
            cfi_fault: None,
        }
    }

    /// The signature of stacks that were seen once.
    fn sign_once(class: Class, stacks: &[&[Frame]]) -> String {
        let moments: Vec<Moments<'_>> = stacks.iter().map(|stack| vec![*stack]).collect();
        super::compute(class, &moments, any_vocabulary())
    }

    /// That of a soft lockup whose CPU was seen several times.
    fn sign_often(stacks: &[Vec<Frame>]) -> String {
        let moments = stacks.iter().map(Vec::as_slice).collect();
        super::compute(Class::SoftLockup, &[moments], any_vocabulary())
    }

    fn stack(names: &[&str]) -> Vec<Frame> {
        (0..).zip(names).map(|(depth, name)| frame(&[*name], depth == 0)).collect()
    }

    fn unnamed(addresses: &[&str]) -> Vec<Frame> {
        let frame = |(depth, address): (usize, &&str)| Frame {
            address: (*address).into(),
            ..frame(&[], depth == 0)
        };
        addresses.iter().enumerate().map(frame).collect()
    }

    #[test]
    fn how_a_lock_waits_does_not_matter_and_who_asks_for_it_does() {
        let stack = |inner: &[&str], outer: &str| vec![frame(inner, true), frame(&[outer], false)];
        let slow = stack(&["core::hint::spin_loop", "nmiscope_guest::sync::lock"], "take_both");
        let fast = stack(&["nmiscope_guest::sync::lock"], "take_both");
        let other = stack(&["nmiscope_guest::sync::lock"], "take_one");
        let sign = |stack: &[Frame]| sign_once(Class::Deadlock, &[stack]);
        assert_eq!(sign(&slow), sign(&fast));
        assert_ne!(sign(&slow), sign(&other));
        assert_ne!(sign(&slow), sign_once(Class::LockWait, &[&slow]));
    }

    #[test]
    fn the_order_and_the_number_of_equal_stacks_do_not_matter() {
        let (a, b) = (vec![frame(&["a"], true)], vec![frame(&["b"], true)]);
        let once = sign_once(Class::Deadlock, &[&a, &b]);
        assert_eq!(once, sign_once(Class::Deadlock, &[&b, &a]));
        assert_eq!(once, sign_once(Class::Deadlock, &[&b, &a, &b]));
        assert_ne!(once, sign_once(Class::Deadlock, &[&a]));
    }

    #[test]
    fn an_interrupt_that_happens_to_be_there_does_not_matter() {
        let spinning = vec![frame(&["spin"], true), frame(&["main"], false)];
        let mut in_tick = vec![frame(&["tick"], true), frame(&["trap_entry"], false)];
        in_tick.extend(spinning.clone());
        let sign = |class, stack: &[Frame]| sign_once(class, &[stack]);
        assert_eq!(sign(Class::SoftLockup, &spinning), sign(Class::SoftLockup, &in_tick));
        assert_ne!(sign(Class::HardLockup, &spinning), sign(Class::HardLockup, &in_tick));
    }

    #[test]
    fn it_does_not_matter_on_which_cpu_it_is() {
        let (boot, other) = (
            vec![
                frame(&["spin"], true),
                frame(&["nmiscope_kernel::arch::x86_64::smp::boot_cpu_main"], false),
            ],
            vec![frame(&["spin"], true), frame(&["ap_main"], false)],
        );
        assert_eq!(sign_once(Class::HardLockup, &[&boot]), sign_once(Class::HardLockup, &[&other]));
    }

    #[test]
    fn a_stack_without_anything_of_its_own_still_has_a_signature() {
        let idle = vec![frame(&["core::hint::spin_loop"], true)];
        assert_ne!(sign_once(Class::SoftLockup, &[&idle]), sign_once(Class::SoftLockup, &[]));
    }

    #[test]
    fn what_the_loop_had_called_at_the_moment_does_not_matter() {
        let [helps, stores, loops] = [
            stack(&["help", "poll", "main"]),
            stack(&["store", "touch", "poll", "main"]),
            stack(&["poll", "main"]),
        ];
        let one = sign_often(&[helps.clone(), loops.clone(), stores.clone()]);
        let other = sign_often(&[stores, helps, loops.clone(), loops]);
        assert_eq!(one, other);
        assert_eq!(one, sign_once(Class::SoftLockup, &[&stack(&["poll", "main"])]));
        assert_ne!(one, sign_once(Class::SoftLockup, &[&stack(&["main"])]));
    }

    #[test]
    fn one_that_comes_back_to_its_main_loop_is_known_by_what_it_is_often_in() {
        let tries = stack(&["retry", "step", "main"]);
        let between = stack(&["main"]);
        let stacks = [&between[..], &tries[..], &tries[..]];
        let sign = |class| super::compute(class, &[stacks.to_vec()], any_vocabulary());
        assert_eq!(sign(Class::Livelock), sign_once(Class::Livelock, &[&tries]));
        assert_eq!(sign(Class::SoftLockup), sign_once(Class::SoftLockup, &[&between]));
    }

    #[test]
    fn an_interrupt_at_each_of_the_moments_does_not_matter() {
        let mut in_tick = vec![frame(&["tick"], true), frame(&["trap_entry"], false)];
        in_tick.extend(stack(&["poll", "main"]));
        let one = sign_often(&[in_tick.clone(), in_tick.clone(), in_tick]);
        assert_eq!(one, sign_once(Class::SoftLockup, &[&stack(&["poll", "main"])]));
    }

    #[test]
    fn how_deep_a_recursion_was_does_not_matter() {
        let shallow = stack(&["descend", "main"]);
        let deep = stack(&["descend", "descend", "descend", "main"]);
        let sign = |stack: &[Frame]| sign_once(Class::HardLockup, &[stack]);
        assert_eq!(sign(&shallow), sign(&deep));
        let (odd, even) = (stack(&["odd", "even", "odd", "main"]), stack(&["even", "odd", "main"]));
        assert_eq!(sign(&odd), sign(&even));
        assert_eq!(sign_often(&[odd.clone(), even.clone(), odd]), sign_often(&[even]));
    }

    #[test]
    fn stacks_without_names_are_told_from_each_other_by_their_callers() {
        let sign = |stack: &[Frame]| sign_once(Class::HardLockup, &[stack]);
        let one = sign(&unnamed(&["ffffffff80001000", "ffffffff80002000", "ffffffff80003000"]));
        let later = sign(&unnamed(&["ffffffff80001008", "ffffffff80002000", "ffffffff80003000"]));
        let other = sign(&unnamed(&["ffffffff80001000", "ffffffff80004000", "ffffffff80003000"]));
        assert_eq!(one, later);
        assert_ne!(one, other);
        // Without a caller there is nothing to go by.
        assert_eq!(sign(&unnamed(&["ffffffff80001000"])), sign(&unnamed(&["ffffffff80001008"])));
        assert_eq!(sign(&unnamed(&["ffffffff80001000"])), sign(&[]));
    }

    #[test]
    fn without_names_too_it_does_not_matter_what_the_loop_had_called() {
        let polls = unnamed(&["ffffffff80001000", "ffffffff80009000"]);
        let helps = unnamed(&["ffffffff80002000", "ffffffff80001020", "ffffffff80009000"]);
        let stores = unnamed(&["ffffffff80003000", "ffffffff80001040", "ffffffff80009000"]);
        let one = sign_often(&[polls.clone(), helps.clone(), stores.clone()]);
        assert_eq!(one, sign_often(&[stores, polls.clone(), helps]));
        assert_eq!(one, sign_once(Class::SoftLockup, &[&polls]));
    }
}
