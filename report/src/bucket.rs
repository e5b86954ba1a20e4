//! Names of hangs that a person can say, beside the signature's hash:
//! `deadlock:take_second:INODE_LOCK<->JOURNAL_LOCK`.
//!
//! Owns their form; refuses to own which functions of a stack count, which is the signature's business.
//! Called by the tool's diagnosis.

use std::collections::BTreeSet;

use nmiscope_names::short_name;

use crate::class::Class;

/// The most functions, and the most locks, that a bucket names.
const MAX_NAMES: usize = 4;

/// A lock without a symbol, among the locks of a bucket.
const UNNAMED: &str = "?";

/// Returns the bucket of a hang: its class, then the functions and the locks if there are any.
///
/// `functions` are the innermost functions of the blamed stacks that count in the signature. Neither their
/// order nor that of `locks` matters, so that equal hangs have equal buckets whichever CPU came first. A
/// lock without a symbol, whose address differs from run to run, is `?`.
pub fn bucket<'a>(
    class: Class,
    functions: impl IntoIterator<Item = &'a str>,
    locks: &[String],
) -> String {
    let functions: BTreeSet<String> =
        functions.into_iter().map(|name| short_name(name).to_owned()).collect();
    let locks: BTreeSet<String> = locks.iter().map(|lock| lock_name(lock).to_owned()).collect();
    let functions = joined(functions, "+");
    let locks = joined(locks, if class.is_cycle() { "<->" } else { "," });
    let class = Some(class.name().to_owned());
    [class, functions, locks].into_iter().flatten().collect::<Vec<_>>().join(":")
}

/// Returns a lock's name without the address that distinguishes it from others of that name.
fn lock_name(lock: &str) -> &str {
    let is_address = |text: &str| {
        text.len() == 16 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    match lock.split_once('@') {
        Some((name, address)) if is_address(address) => name,
        _ if is_address(lock) => UNNAMED,
        _ => lock,
    }
}

/// Returns the first names, and the number of the others; `None` if there are none.
fn joined(names: BTreeSet<String>, separator: &str) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let more = names.len().saturating_sub(MAX_NAMES);
    let mut shown: Vec<String> = names.into_iter().take(MAX_NAMES).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    Some(shown.join(separator))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locks(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.into()).collect()
    }

    #[test]
    fn a_deadlock_is_named_by_its_function_and_both_locks() {
        let functions = ["kernel::abba::take_second", "kernel::abba::take_second"];
        let found = bucket(Class::Deadlock, functions, &locks(&["JOURNAL_LOCK", "INODE_LOCK"]));
        assert_eq!(found, "deadlock:take_second:INODE_LOCK<->JOURNAL_LOCK");
    }

    #[test]
    fn the_order_of_blamed_stacks_does_not_change_the_bucket() {
        let none = locks(&[]);
        let found = bucket(Class::HardLockup, ["b::write", "a::read"], &none);
        assert_eq!(found, "hard-lockup:read+write");
        assert_eq!(found, bucket(Class::HardLockup, ["a::read", "b::write"], &none));
    }

    #[test]
    fn addresses_of_locks_are_left_out() {
        let found = bucket(
            Class::LockWait,
            ["wait"],
            &locks(&["ffff888080005b80", "STATE@ffff888080005b80", "STATE+0x10"]),
        );
        assert_eq!(found, "lock-wait:wait:?,STATE,STATE+0x10");
    }

    #[test]
    fn a_bucket_has_no_part_for_what_has_no_names() {
        assert_eq!(bucket(Class::Silent, [], &locks(&[])), "silent");
        assert_eq!(bucket(Class::LockWait, [], &locks(&["STATE"])), "lock-wait:STATE");
    }

    #[test]
    fn many_locks_are_counted_after_the_fourth() {
        let found = bucket(Class::Deadlock, ["f"], &locks(&["A", "B", "C", "D", "E", "F"]));
        assert_eq!(found, "deadlock:f:A<->B<->C<->D<->2 more");
    }
}
