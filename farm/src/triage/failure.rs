//! What triage groups. A hang comes with its signature; the others get one here, made of what is the
//! same each time:
//!
//! - a panic or a crash: its message without numbers and addresses, and the innermost function of its
//!   CPU that is neither a way to panic nor one to wait;
//! - a time limit that was exceeded: those functions of all CPUs that ran then. What a CPU happens to
//!   do at some moment says less than where one hangs, so one cause may well be several groups. A guest
//!   that hung until its time was over is in the groups of its hangs alone.

use nmiscope_report::Class;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Something that is to be grouped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What.
    pub kind: FailureKind,
    /// Equal for equal ones: 16 hexadecimal digits.
    pub signature: String,
    /// In which way it hangs; `None` for all else, and for a hang of which no more is known.
    pub class: Option<Class>,
    /// What was said of it; `None` for a hang.
    pub message: Option<String>,
    /// Who is to blame.
    pub blamed: Vec<String>,
    /// The locks that have to do with it.
    pub locks: Vec<String>,
    /// Where: the innermost function that tells more than that it waits.
    pub function: Option<String>,
}

/// What can be grouped.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// A hang.
    Hang,
    /// A panic of the guest's kernel.
    Panic,
    /// Another end of the guest than by leaving.
    Crash,
    /// A time limit that was exceeded.
    Timeout,
}

impl FailureKind {
    /// Its name, as JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hang => "hang",
            Self::Panic => "panic",
            Self::Crash => "crash",
            Self::Timeout => "timeout",
        }
    }
}

/// The signature of what has none of its own, from what was said of it and from where it was.
pub fn signature(kind: FailureKind, message: &str, functions: &[&str]) -> String {
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

/// A message with a `#` for each number and for each address.
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
    fn messages_lose_their_numbers_and_addresses() {
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
