//! Signatures: equal hangs get equal ones, whatever the addresses, the lines, the CPUs' numbers and
//! how many there are.
//!
//! Made from the class and, of each blamed stack, the names of its functions. Not from all of them:
//! those that take locks, sleep and panic are where everybody ends up, and an interrupt that happens
//! to be there when a CPU that takes interrupts is stopped says nothing.

use sha2::{Digest, Sha256};

use crate::hang::Class;
use crate::report::Frame;

/// Functions that are left out, by the start of their path: this kernel's, those of Rust's core (which
/// has methods of numbers too), and Linux's.
const GENERIC: [&str; 26] = [
    "nmiscope_guest::sync::",
    "nmiscope_kernel::panic::",
    "nmiscope_kernel::sched::",
    "nmiscope_kernel::arch::x86_64::",
    "nmiscope_guest::sched::",
    "core::",
    "<core::",
    "<u",
    "<i32",
    "<i64",
    "<isize",
    "<nmiscope_guest::sync::",
    "rust_begin_unwind",
    "rust_panic",
    "_raw_",
    "__raw_",
    "native_queued_spin_lock_slowpath",
    "queued_spin_lock_slowpath",
    "do_raw_spin_lock",
    "mutex_lock",
    "__mutex_lock",
    "rwsem_down_",
    "schedule",
    "__schedule",
    "panic",
    "smp_call_function_",
];

/// Functions that are left out at the outer end, by their whole path: how a CPU or a task came to where
/// it does its work, which is another way for the first CPU than for the others.
const START: [&str; 10] = [
    "nmiscope_kernel::arch::x86_64::smp::enter",
    "nmiscope_kernel::arch::x86_64::smp::boot_cpu_main",
    "ap_main",
    "task_start",
    "start_secondary",
    "secondary_startup_64_no_verify",
    "rest_init",
    "start_kernel",
    "kthread",
    "ret_from_fork",
];

/// How many functions of a stack count, from the inner end: what is further out is how everything
/// starts.
const DEPTH: usize = 12;

/// The signature of a hang: 16 hexadecimal digits.
pub fn of(class: Class, stacks: &[&[Frame]]) -> String {
    let mut stacks: Vec<Vec<&str>> = stacks.iter().map(|stack| significant(class, stack)).collect();
    stacks.sort_unstable();
    stacks.dedup();
    let mut hash = Sha256::new();
    hash.update(class.name());
    for stack in stacks {
        hash.update([0]);
        for function in stack {
            hash.update([1]);
            hash.update(function);
        }
    }
    let digest = hash.finalize();
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The functions of a stack that tell one hang from another, innermost first.
fn significant(class: Class, stack: &[Frame]) -> Vec<&str> {
    let start = if takes_interrupts(class) { after_interrupts(stack) } else { 0 };
    let functions = stack[start..].iter().flat_map(|frame| &frame.functions);
    let names = functions.filter_map(|function| function.name.as_deref());
    let names: Vec<&str> = names.take_while(|name| !START.contains(name)).collect();
    let own: Vec<&str> =
        names.iter().copied().filter(|name| !is_generic(name)).take(DEPTH).collect();
    // All of it generic: then that is what there is.
    if own.is_empty() { names.into_iter().take(DEPTH).collect() } else { own }
}

/// Whether a function is one in which everybody ends up.
pub(super) fn is_generic(name: &str) -> bool {
    GENERIC.iter().any(|start| name.starts_with(start))
}

/// Whether CPUs that hang in this way go on taking interrupts.
fn takes_interrupts(class: Class) -> bool {
    match class {
        Class::SoftLockup | Class::Livelock | Class::LostWakeup | Class::LockWait => true,
        Class::Deadlock
        | Class::DeadHalt
        | Class::HardLockup
        | Class::BootStall
        | Class::Silent => false,
    }
}

/// Where the stack starts that was there before any interrupt.
fn after_interrupts(stack: &[Frame]) -> usize {
    stack.iter().rposition(|frame| frame.interrupted).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Function;

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
}
