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

use super::stable::{Item, Share, staying};
use crate::hang::{conduct, each_once};
use crate::kernel::Vocabulary;

/// How many functions of a stack count, from the inner end: what is further out is how everything
/// starts.
const DEPTH: usize = 12;

/// A blamed stack, at all moments at which it was seen.
pub type Moments<'a> = Vec<&'a [Frame]>;

/// The signature of a hang: 16 hexadecimal digits.
pub fn of(class: Class, stacks: &[Moments<'_>], words: &dyn Vocabulary) -> String {
    let mut stacks: Vec<Vec<&str>> =
        stacks.iter().map(|moments| significant(class, moments, words)).collect();
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
fn significant<'a>(class: Class, moments: &Moments<'a>, words: &dyn Vocabulary) -> Vec<&'a str> {
    let functions = || moments.iter().copied().flatten().flat_map(|frame| &frame.functions);
    if !functions().any(|function| function.name.is_some()) {
        return stable_callers(class, moments).into_iter().take(DEPTH).collect();
    }
    let names = stable_functions(class, moments, words);
    let own = names.iter().copied().filter(|name| !words.is_plumbing(name)).take(DEPTH);
    let own: Vec<&str> = own.collect();
    // All of it generic: then that is what there is.
    if own.is_empty() { names.into_iter().take(DEPTH).collect() } else { own }
}

/// Returns the innermost function of a stack that counts in the signature; `None` for a stack without names.
pub(super) fn first_function<'a>(
    class: Class,
    moments: &Moments<'a>,
    words: &dyn Vocabulary,
) -> Option<&'a str> {
    let names = |stack: &'a [Frame]| {
        let functions = stack.iter().flat_map(|frame| &frame.functions);
        functions.filter_map(|function| function.name.as_deref())
    };
    if !moments.iter().any(|stack| names(stack).next().is_some()) {
        return None;
    }
    let significant = significant(class, moments, words);
    // A recursion counts once, at its outermost call.
    let innermost = match moments[..] {
        [stack] => names(own_part(class, stack)).find(|name| significant.contains(name)),
        _ => None,
    };
    innermost.or_else(|| significant.first().copied())
}

/// The innermost function that stays on a stack and is more than a way to wait.
pub(super) fn stable_place<'a>(
    class: Class,
    moments: &Moments<'a>,
    words: &dyn Vocabulary,
) -> Option<&'a str> {
    let names = stable_functions(class, moments, words);
    names.into_iter().find(|name| !words.is_plumbing(name))
}

/// The functions that stay on a stack, innermost first.
fn stable_functions<'a>(
    class: Class,
    moments: &Moments<'a>,
    words: &dyn Vocabulary,
) -> Vec<&'a str> {
    let functions = |stack: &&'a [Frame]| {
        let items = own_part(class, stack).iter().flat_map(|frame| {
            frame.functions.iter().filter_map(|function| {
                let what = function.name.as_deref()?;
                Some(Item { what, fleeting: frame.interrupted && function.inlined })
            })
        });
        each_once(items.take_while(|item| !words.is_start(item.what)).collect(), |item| item.what)
    };
    staying(&moments.iter().map(functions).collect::<Vec<_>>(), share(class))
}

/// The addresses that the calls on it return to.
fn stable_callers<'a>(class: Class, moments: &Moments<'a>) -> Vec<&'a str> {
    let callers = |stack: &&'a [Frame]| {
        let callers = own_part(class, stack).iter().filter(|frame| !frame.interrupted);
        let items = callers.map(|frame| Item { what: frame.address.as_str(), fleeting: false });
        each_once(items.collect(), |item| item.what)
    };
    staying(&moments.iter().map(callers).collect::<Vec<_>>(), share(class))
}

/// The share of the moments at which a function has to be on the stack that says what they are about:
/// a small one for those who come back to their main loop.
fn share(class: Class) -> Share {
    if conduct(class).returns { Share::Third } else { Share::NearlyAll }
}

/// What there was before any interrupt, of a CPU that takes them.
fn own_part(class: Class, stack: &[Frame]) -> &[Frame] {
    let interrupted = || stack.iter().rposition(|frame| frame.interrupted);
    let start = if conduct(class).takes_interrupts { interrupted() } else { None };
    &stack[start.unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::any_words;
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
    fn of(class: Class, stacks: &[&[Frame]]) -> String {
        let moments: Vec<Moments<'_>> = stacks.iter().map(|stack| vec![*stack]).collect();
        super::of(class, &moments, any_words())
    }

    /// That of a soft lockup whose CPU was seen several times.
    fn seen_often(stacks: &[Vec<Frame>]) -> String {
        let moments = stacks.iter().map(Vec::as_slice).collect();
        super::of(Class::SoftLockup, &[moments], any_words())
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
        let sign = |stack: &[Frame]| of(Class::Deadlock, &[stack]);
        assert_eq!(sign(&slow), sign(&fast));
        assert_ne!(sign(&slow), sign(&other));
        assert_ne!(sign(&slow), of(Class::LockWait, &[&slow]));
    }

    #[test]
    fn the_order_and_the_number_of_equal_stacks_do_not_matter() {
        let (a, b) = (vec![frame(&["a"], true)], vec![frame(&["b"], true)]);
        let once = of(Class::Deadlock, &[&a, &b]);
        assert_eq!(once, of(Class::Deadlock, &[&b, &a]));
        assert_eq!(once, of(Class::Deadlock, &[&b, &a, &b]));
        assert_ne!(once, of(Class::Deadlock, &[&a]));
    }

    #[test]
    fn an_interrupt_that_happens_to_be_there_does_not_matter() {
        let spinning = vec![frame(&["spin"], true), frame(&["main"], false)];
        let mut in_tick = vec![frame(&["tick"], true), frame(&["trap_entry"], false)];
        in_tick.extend(spinning.clone());
        let sign = |class, stack: &[Frame]| of(class, &[stack]);
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
        assert_eq!(of(Class::HardLockup, &[&boot]), of(Class::HardLockup, &[&other]));
    }

    #[test]
    fn a_stack_without_anything_of_its_own_still_has_a_signature() {
        let idle = vec![frame(&["core::hint::spin_loop"], true)];
        assert_ne!(of(Class::SoftLockup, &[&idle]), of(Class::SoftLockup, &[]));
    }

    #[test]
    fn the_innermost_function_that_counts_is_the_blamed_one() {
        let first = |class, stacks: &[&[Frame]]| {
            let moments = stacks.to_vec();
            first_function(class, &moments, any_words()).map(str::to_owned)
        };
        let waits = stack(&["core::hint::spin_loop", "nmiscope_guest::sync::lock", "take", "main"]);
        assert_eq!(first(Class::Deadlock, &[&waits]).as_deref(), Some("take"));
        let recursion = stack(&["spin", "handler", "spin", "main"]);
        assert_eq!(first(Class::HardLockup, &[&recursion]).as_deref(), Some("spin"));
        let (tries, between) = (stack(&["retry", "step", "main"]), stack(&["main"]));
        let moments = [&between[..], &tries[..], &tries[..]];
        assert_eq!(first(Class::Livelock, &moments).as_deref(), Some("retry"));
        assert_eq!(first(Class::HardLockup, &[&unnamed(&["ffffffff80001000"])]), None);
    }

    #[test]
    fn what_the_loop_had_called_at_the_moment_does_not_matter() {
        let [helps, stores, loops] = [
            stack(&["help", "poll", "main"]),
            stack(&["store", "touch", "poll", "main"]),
            stack(&["poll", "main"]),
        ];
        let one = seen_often(&[helps.clone(), loops.clone(), stores.clone()]);
        let other = seen_often(&[stores, helps, loops.clone(), loops]);
        assert_eq!(one, other);
        assert_eq!(one, of(Class::SoftLockup, &[&stack(&["poll", "main"])]));
        assert_ne!(one, of(Class::SoftLockup, &[&stack(&["main"])]));
    }

    #[test]
    fn one_that_comes_back_to_its_main_loop_is_known_by_what_it_is_often_in() {
        let tries = stack(&["retry", "step", "main"]);
        let between = stack(&["main"]);
        let stacks = [&between[..], &tries[..], &tries[..]];
        let sign = |class| super::of(class, &[stacks.to_vec()], any_words());
        assert_eq!(sign(Class::Livelock), of(Class::Livelock, &[&tries]));
        assert_eq!(sign(Class::SoftLockup), of(Class::SoftLockup, &[&between]));
    }

    #[test]
    fn an_interrupt_at_each_of_the_moments_does_not_matter() {
        let mut in_tick = vec![frame(&["tick"], true), frame(&["trap_entry"], false)];
        in_tick.extend(stack(&["poll", "main"]));
        let one = seen_often(&[in_tick.clone(), in_tick.clone(), in_tick]);
        assert_eq!(one, of(Class::SoftLockup, &[&stack(&["poll", "main"])]));
    }

    #[test]
    fn how_deep_a_recursion_was_does_not_matter() {
        let shallow = stack(&["descend", "main"]);
        let deep = stack(&["descend", "descend", "descend", "main"]);
        let sign = |stack: &[Frame]| of(Class::HardLockup, &[stack]);
        assert_eq!(sign(&shallow), sign(&deep));
        let (odd, even) = (stack(&["odd", "even", "odd", "main"]), stack(&["even", "odd", "main"]));
        assert_eq!(sign(&odd), sign(&even));
        assert_eq!(seen_often(&[odd.clone(), even.clone(), odd]), seen_often(&[even]));
    }

    #[test]
    fn stacks_without_names_are_told_from_each_other_by_their_callers() {
        let sign = |stack: &[Frame]| of(Class::HardLockup, &[stack]);
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
        let one = seen_often(&[polls.clone(), helps.clone(), stores.clone()]);
        assert_eq!(one, seen_often(&[stores, polls.clone(), helps]));
        assert_eq!(one, of(Class::SoftLockup, &[&polls]));
    }
}
