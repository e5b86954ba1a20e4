//! Failures that triage groups. A hang comes with its signature; other failures get one here, made of what
//! is equal at each occurrence:
//!
//! - a panic or a crash: its message without numbers and addresses, and the innermost function of its CPU
//!   that is neither one to panic nor one to wait in;
//! - an exceeded time limit: such functions of all CPUs that were running. A CPU's function at an
//!   arbitrary moment says less than one in which it hangs, so one cause may make several groups. A guest
//!   that hung until its time limit is only in the groups of its hangs.
//!
//! Owns these kinds and signatures; refuses to own the signatures of hangs (reports have them). Called by
//! `report_summary`.

use nmiscope_report::Class;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A failure of a guest, with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Kind of the failure, such as a hang or a panic.
    pub kind: FailureKind,
    /// Signature, as 16 hexadecimal digits: equal for equal failures.
    pub signature: String,
    /// Class of the hang; `None` for other kinds, and for a hang without a readable report.
    pub class: Option<Class>,
    /// Bucket of the hang; `None` for other kinds, and where no report has it.
    pub bucket: Option<String>,
    /// Message of the panic or crash; `None` for a hang.
    pub message: Option<String>,
    /// Names of the parties to blame.
    pub blamed: Vec<String>,
    /// Names of the locks that are part of the hang.
    pub locks: Vec<String>,
    /// Innermost function that is not merely one to wait in; `None` if there is none.
    pub function: Option<String>,
}

/// Kinds of failures that triage groups.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The guest hung, whatever its outcome.
    Hang,
    /// The guest's kernel panicked, with or without a message.
    Panic,
    /// The guest crashed without a panic.
    Crash,
    /// The guest exceeded its time limit without a hang.
    Timeout,
}

impl FailureKind {
    /// Returns the kind as JSON spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hang => "hang",
            Self::Panic => "panic",
            Self::Crash => "crash",
            Self::Timeout => "timeout",
        }
    }
}

/// Computes the signature of a failure other than a hang, from its message and functions.
pub fn compute_signature(kind: FailureKind, message: &str, functions: &[&str]) -> String {
    let mut hash = Sha256::new();
    hash.update(kind.name());
    hash.update([0]);
    hash.update(without_numbers(message));
    for function in functions {
        hash.update([1]);
        hash.update(function);
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Replaces each number and each address in a message by `#`.
fn without_numbers(message: &str) -> String {
    let mut text = String::new();
    let is_word = |character: char| character.is_ascii_alphanumeric();
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|character| is_word(character) != is_word(first)).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(end);
        rest = behind;
        let is_hexadecimal = part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if part.starts_with("0x") || (is_hexadecimal && part.len() >= 8) {
            text.push('#');
            continue;
        }
        for character in part.chars() {
            match character {
                '0'..='9' if text.ends_with('#') => {}
                '0'..='9' => text.push('#'),
                other => text.push(other),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_addresses_in_messages_are_replaced() {
        for (message, wanted) in [
            ("page fault at ffffffff80208964 (a.rs:225)", "page fault at # (a.rs:#)"),
            ("cpu12: 0xdeadBEEF is bad", "cpu#: # is bad"),
            ("index 7 of 3", "index # of #"),
            ("x86_64 naïve", "x#_# naïve"),
            ("a dead cafe", "a dead cafe"),
            ("", ""),
        ] {
            assert_eq!(without_numbers(message), wanted);
        }
    }
}
