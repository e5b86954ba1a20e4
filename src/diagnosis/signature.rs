//! Signatures: equal hangs have equal ones, independent of addresses, lines, CPU numbers and the number
//! of CPUs.
//!
//! A signature is made from the class, the names of each blamed stack's functions, each once, and the names
//! of the locks in a cycle. Functions that take locks, sleep and panic are left out, since all hangs end
//! there. Interrupts that came by chance are not on the stacks that get here (`own_part`). A CPU that keeps
//! executing has stacks of several moments; the functions that count are on nearly all of them if it never
//! returns, and on a good part of them if it does (`stable`).
//!
//! A lock counts by the symbol of its object: which element of an array it is, or which lock without a
//! symbol, differs from one run to the next. Locks outside of a cycle do not count: which of them somebody
//! waits for is a matter of time.
//!
//! If no function has a name, as in a stripped image, return addresses stand for them: they are the same
//! as long as the image and its load address are. The interrupted address is not: it is another
//! instruction each time. A stack of a single frame then adds nothing, and hangs without names and
//! callers have the signature of their class.
//!
//! Signatures carry no version. A change of these rules gives some hangs other signatures, and is announced
//! in CHANGELOG.md with the classes that it concerns: entries of known.toml for those have to be replaced.
//!
//! Owns the choice of functions and the hash; refuses to know any kernel's functions
//! (`kernel::vocabulary`). Called by `hangs`.

use std::collections::BTreeSet;

use nmiscope_report::{Class, Frame};
use sha2::{Digest, Sha256};

use super::stable::{Item, Share, stable_items};
use crate::hang::{behaviour, keep_last_of_each};
use crate::kernel::Vocabulary;

/// The number of functions of a stack that count, from the inner end: outer ones are how every stack
/// begins.
const DEPTH: usize = 12;

/// A blamed stack, at all moments at which it was captured.
pub type Moments<'a> = Vec<&'a [Frame]>;

/// Computes the signature of a hang: 16 hexadecimal digits. `locks` are the symbols of its locks.
pub fn compute(
    class: Class,
    stacks: &[Moments<'_>],
    locks: &BTreeSet<String>,
    vocabulary: &dyn Vocabulary,
) -> String {
    let mut stacks: Vec<Vec<&str>> =
        stacks.iter().map(|moments| significant(class, moments, vocabulary)).collect();
    // An empty stack counts as none.
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
    for lock in locks.iter().filter(|_| class.is_cycle()) {
        hash.update([2]);
        hash.update(lock);
    }
    let digest = hash.finalize();
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the part of a stack that distinguishes hangs, innermost first: functions, or addresses if no
/// function has a name.
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
    // With generic functions alone, these count.
    if own.is_empty() { names.into_iter().take(DEPTH).collect() } else { own }
}

/// Returns the innermost function of a stack that counts in the signature; `None` for a stack without names.
pub(super) fn first_function<'a>(
    class: Class,
    moments: &Moments<'a>,
    vocabulary: &dyn Vocabulary,
) -> Option<&'a str> {
    let names = |stack: &'a [Frame]| {
        let functions = stack.iter().flat_map(|frame| &frame.functions);
        functions.filter_map(|function| function.name.as_deref())
    };
    if !moments.iter().any(|stack| names(stack).next().is_some()) {
        return None;
    }
    let significant = significant(class, moments, vocabulary);
    // A recursion counts once, at its outermost call.
    let innermost = match moments[..] {
        [stack] => names(stack).find(|name| significant.contains(name)),
        _ => None,
    };
    innermost.or_else(|| significant.first().copied())
}

/// Returns the innermost function that stays on a stack and is more than a way to wait.
pub(super) fn stable_place<'a>(
    class: Class,
    moments: &Moments<'a>,
    vocabulary: &dyn Vocabulary,
) -> Option<&'a str> {
    let names = stable_functions(class, moments, vocabulary);
    names.into_iter().find(|name| !vocabulary.is_plumbing(name))
}

/// Returns the functions that stay on a stack, innermost first.
fn stable_functions<'a>(
    class: Class,
    moments: &Moments<'a>,
    vocabulary: &dyn Vocabulary,
) -> Vec<&'a str> {
    let functions = |stack: &&'a [Frame]| {
        let items = stack.iter().flat_map(|frame| {
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

/// Returns the return addresses that stay on a stack.
fn stable_callers<'a>(class: Class, moments: &Moments<'a>) -> Vec<&'a str> {
    let callers = |stack: &&'a [Frame]| {
        let callers = stack.iter().filter(|frame| !frame.interrupted);
        let items = callers.map(|frame| Item { value: frame.address.as_str(), fleeting: false });
        keep_last_of_each(items.collect(), |item| item.value)
    };
    stable_items(&moments.iter().map(callers).collect::<Vec<_>>(), share(class))
}

/// Returns the share of moments at which a function must be on the stack to count: a small one for CPUs
/// that return to their main loop.
fn share(class: Class) -> Share {
    if behaviour(class).returns_to_main_loop { Share::Third } else { Share::NearlyAll }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::own_part::{Party, own_part};
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

    /// Computes the signature of parties whose stacks at all moments are these, of CPUs that take interrupts
    /// where their class says so, and of a hang without named locks.
    fn sign(class: Class, parties: &[Moments<'_>]) -> String {
        let party = Party { class, interrupts_enabled: None, waits: &[] };
        let own = |moments| own_part(party, moments, any_vocabulary()).moments;
        let moments: Vec<Moments<'_>> = parties.iter().map(own).collect();
        super::compute(class, &moments, &BTreeSet::new(), any_vocabulary())
    }

    /// Computes the signature of stacks that were captured once.
    fn sign_once(class: Class, stacks: &[&[Frame]]) -> String {
        sign(class, &stacks.iter().map(|stack| vec![*stack]).collect::<Vec<_>>())
    }

    /// Computes the signature of a soft lockup whose CPU was sampled several times.
    fn sign_often(stacks: &[Vec<Frame>]) -> String {
        sign(Class::SoftLockup, &[stacks.iter().map(Vec::as_slice).collect()])
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
    fn the_caller_of_a_lock_counts_but_not_its_wait() {
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
    fn the_named_locks_of_a_cycle_count_and_others_do_not() {
        let stack = stack(&["nmiscope_guest::sync::lock", "transfer", "main"]);
        let sign = |class, locks: &[&str]| {
            let locks = locks.iter().map(|&lock| lock.to_owned()).collect();
            super::compute(class, &[vec![&stack]], &locks, any_vocabulary())
        };
        let one = sign(Class::Deadlock, &["ALPHA", "BETA"]);
        assert_eq!(one, sign(Class::Deadlock, &["BETA", "ALPHA"]));
        assert_ne!(one, sign(Class::Deadlock, &["GAMMA", "DELTA"]));
        assert_ne!(one, sign(Class::Deadlock, &[]));
        assert_eq!(sign(Class::LockWait, &["ALPHA"]), sign(Class::LockWait, &["BETA"]));
    }

    #[test]
    fn order_and_number_of_equal_stacks_do_not_count() {
        let (a, b) = (vec![frame(&["a"], true)], vec![frame(&["b"], true)]);
        let once = sign_once(Class::Deadlock, &[&a, &b]);
        assert_eq!(once, sign_once(Class::Deadlock, &[&b, &a]));
        assert_eq!(once, sign_once(Class::Deadlock, &[&b, &a, &b]));
        assert_ne!(once, sign_once(Class::Deadlock, &[&a]));
    }

    #[test]
    fn an_interrupt_on_the_stack_does_not_count() {
        let spinning = vec![frame(&["spin"], true), frame(&["main"], false)];
        let mut in_tick = vec![frame(&["tick"], true), frame(&["trap_entry"], false)];
        in_tick.extend(spinning.clone());
        let sign = |class, stack: &[Frame]| sign_once(class, &[stack]);
        assert_eq!(sign(Class::SoftLockup, &spinning), sign(Class::SoftLockup, &in_tick));
        assert_ne!(sign(Class::HardLockup, &spinning), sign(Class::HardLockup, &in_tick));
    }

    #[test]
    fn the_cpu_of_a_hang_does_not_count() {
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
    fn a_stack_of_generic_functions_still_counts() {
        let idle = vec![frame(&["core::hint::spin_loop"], true)];
        assert_ne!(sign_once(Class::SoftLockup, &[&idle]), sign_once(Class::SoftLockup, &[]));
    }

    #[test]
    fn the_innermost_function_that_counts_is_the_blamed_one() {
        let first = |class, stacks: &[&[Frame]]| {
            let moments = stacks.to_vec();
            first_function(class, &moments, any_vocabulary()).map(str::to_owned)
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
    fn the_function_that_a_loop_has_just_called_does_not_count() {
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
    fn a_cpu_that_returns_is_known_by_its_frequent_functions() {
        let tries = stack(&["retry", "step", "main"]);
        let between = stack(&["main"]);
        let stacks = [&between[..], &tries[..], &tries[..]];
        let sign = |class| sign(class, &[stacks.to_vec()]);
        assert_eq!(sign(Class::Livelock), sign_once(Class::Livelock, &[&tries]));
        assert_eq!(sign(Class::SoftLockup), sign_once(Class::SoftLockup, &[&between]));
    }

    #[test]
    fn an_interrupt_at_every_moment_does_not_count() {
        let mut in_tick = vec![frame(&["tick"], true), frame(&["trap_entry"], false)];
        in_tick.extend(stack(&["poll", "main"]));
        let one = sign_often(&[in_tick.clone(), in_tick.clone(), in_tick]);
        assert_eq!(one, sign_once(Class::SoftLockup, &[&stack(&["poll", "main"])]));
    }

    #[test]
    fn the_depth_of_a_recursion_does_not_count() {
        let shallow = stack(&["descend", "main"]);
        let deep = stack(&["descend", "descend", "descend", "main"]);
        let sign = |stack: &[Frame]| sign_once(Class::HardLockup, &[stack]);
        assert_eq!(sign(&shallow), sign(&deep));
        let (odd, even) = (stack(&["odd", "even", "odd", "main"]), stack(&["even", "odd", "main"]));
        assert_eq!(sign(&odd), sign(&even));
        assert_eq!(sign_often(&[odd.clone(), even.clone(), odd]), sign_often(&[even]));
    }

    #[test]
    fn stacks_without_names_are_distinguished_by_their_callers() {
        let sign = |stack: &[Frame]| sign_once(Class::HardLockup, &[stack]);
        let one = sign(&unnamed(&["ffffffff80001000", "ffffffff80002000", "ffffffff80003000"]));
        let later = sign(&unnamed(&["ffffffff80001008", "ffffffff80002000", "ffffffff80003000"]));
        let other = sign(&unnamed(&["ffffffff80001000", "ffffffff80004000", "ffffffff80003000"]));
        assert_eq!(one, later);
        assert_ne!(one, other);
        // Without callers the class alone counts.
        assert_eq!(sign(&unnamed(&["ffffffff80001000"])), sign(&unnamed(&["ffffffff80001008"])));
        assert_eq!(sign(&unnamed(&["ffffffff80001000"])), sign(&[]));
    }

    #[test]
    fn a_loops_last_call_does_not_count_without_names_either() {
        let polls = unnamed(&["ffffffff80001000", "ffffffff80009000"]);
        let helps = unnamed(&["ffffffff80002000", "ffffffff80001020", "ffffffff80009000"]);
        let stores = unnamed(&["ffffffff80003000", "ffffffff80001040", "ffffffff80009000"]);
        let one = sign_often(&[polls.clone(), helps.clone(), stores.clone()]);
        assert_eq!(one, sign_often(&[stores, polls.clone(), helps]));
        assert_eq!(one, sign_once(Class::SoftLockup, &[&polls]));
    }
}
