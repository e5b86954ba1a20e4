//! `--filter`: expressions over the name and the tags of a VM.
//!
//! | expression | a VM |
//! |---|---|
//! | `boot` | with `boot` somewhere in its name |
//! | `name(=boot/cpus=8)` | of exactly this name |
//! | `name(cpus=(8\|16)$)` | with a match of this regular expression in its name |
//! | `tag(smoke)` | with this tag |
//! | `all()` | whichever |
//! | `not A`, `!A` | that A is not of |
//! | `A and B`, `A & B` | that both are of |
//! | `A or B`, `A \| B` | that one of them is of |
//! | `(A)` | as A |
//!
//! `not` binds closer than `and`, and `and` closer than `or`. Inside `name(...)` parentheses come in
//! pairs; one that does not has a backslash before it. A word has no spaces, no parentheses and none of
//! `! & |`.

mod parse;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use regex::Regex;

use super::suite::Vm;

/// Which VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// All.
    All,
    /// Those with this in their names. A word that could not be mistaken for anything else.
    Word(String),
    /// The one of this name.
    Exact(String),
    /// Those whose names match.
    Matches(Pattern),
    /// Those with this tag.
    Tag(String),
    /// Those that it is not of.
    Not(Box<Filter>),
    /// Those that all of these are of; two at least.
    And(Vec<Filter>),
    /// Those that one of these is of; two at least.
    Or(Vec<Filter>),
}

/// A regular expression, equal to one that is written in the same way.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// Why there is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}\n  {text}\n  {}^", " ".repeat(.column - 1))]
pub struct FilterError {
    /// Where, in characters, from 1 on.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
    /// The expression.
    text: String,
}

impl Filter {
    /// Those that one of several filters is of; all for none.
    pub fn any_of(mut filters: Vec<Filter>) -> Self {
        match filters.len() {
            0 => Self::All,
            1 => filters.remove(0),
            _ => Self::Or(filters),
        }
    }

    /// Whether it is of a VM.
    pub fn matches(&self, vm: &Vm) -> bool {
        self.matches_vm(&vm.name, &vm.tags)
    }

    fn matches_vm(&self, name: &str, tags: &BTreeSet<String>) -> bool {
        match self {
            Self::All => true,
            Self::Word(word) => name.contains(word.as_str()),
            Self::Exact(exact) => name == exact,
            Self::Matches(Pattern(regex)) => regex.is_match(name),
            Self::Tag(tag) => tags.contains(tag),
            Self::Not(filter) => !filter.matches_vm(name, tags),
            Self::And(filters) => filters.iter().all(|filter| filter.matches_vm(name, tags)),
            Self::Or(filters) => filters.iter().any(|filter| filter.matches_vm(name, tags)),
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        parse::parse(text)
    }
}

/// As it can be read again.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Word(word) => f.write_str(word),
            Self::Exact(name) => {
                f.write_str("name(=")?;
                for character in name.chars() {
                    if matches!(character, '\\' | '(' | ')') {
                        f.write_str("\\")?;
                    }
                    write!(f, "{character}")?;
                }
                f.write_str(")")
            }
            Self::Matches(Pattern(regex)) => write!(f, "name({regex})"),
            Self::Tag(tag) => write!(f, "tag({tag})"),
            Self::Not(filter) => {
                f.write_str("not ")?;
                write_part(f, filter)
            }
            Self::And(filters) => write_joined(f, filters, " and "),
            Self::Or(filters) => write_joined(f, filters, " or "),
        }
    }
}

fn write_joined(f: &mut fmt::Formatter<'_>, filters: &[Filter], between: &str) -> fmt::Result {
    for (index, filter) in filters.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write_part(f, filter)?;
    }
    Ok(())
}

/// A part of a larger expression: in parentheses where it has parts too.
fn write_part(f: &mut fmt::Formatter<'_>, filter: &Filter) -> fmt::Result {
    match filter {
        Filter::And(_) | Filter::Or(_) => write!(f, "({filter})"),
        _ => write!(f, "{filter}"),
    }
}

#[cfg(test)]
mod tests;
