//! `--filter`: expressions that select VMs by name and tags.
//!
//! | expression | selects a VM |
//! |---|---|
//! | `boot` | with `boot` anywhere in its name |
//! | `name(=boot/cpus=8)` | with exactly this name |
//! | `name(cpus=(8\|16)$)` | with a match of this regular expression in its name |
//! | `tag(smoke)` | with this tag |
//! | `all()` | always |
//! | `not A`, `!A` | unless A selects it |
//! | `A and B`, `A & B` | if both select it |
//! | `A or B`, `A \| B` | if one of them selects it |
//! | `(A)` | if A selects it |
//!
//! `not` binds tighter than `and`, and `and` tighter than `or`. Inside `name(...)` parentheses come in
//! pairs; a single one is escaped by a backslash. A word contains no spaces, no parentheses and none of `!
//! & |`.

mod parse;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use regex::Regex;

use super::suite::SuiteVm;

/// Filter expression, which selects VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Expression that selects every VM.
    All,
    /// Word that the VM's name contains.
    Word(String),
    /// Exact name of the VM.
    Exact(String),
    /// Pattern that the VM's name matches.
    Matches(Pattern),
    /// Tag that the VM has.
    Tag(String),
    /// Filter that does not select the VM.
    Not(Box<Filter>),
    /// Two or more filters that all select the VM.
    And(Vec<Filter>),
    /// Two or more filters, one of which selects the VM.
    Or(Vec<Filter>),
}

/// Regular expression that compares by its text.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// Reason why a text is no filter expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}\n  {text}\n  {}^", " ".repeat(.column - 1))]
pub struct FilterError {
    /// Column of the mistake, in characters from 1.
    pub column: usize,
    /// Description of the mistake, for people.
    pub message: String,
    /// Text of the expression, to be shown with the mistake marked.
    text: String,
}

impl Filter {
    /// Combines filters by `or`; without any, selects every VM.
    pub fn any_of(mut filters: Vec<Filter>) -> Self {
        match filters.len() {
            0 => Self::All,
            1 => filters.remove(0),
            _ => Self::Or(filters),
        }
    }

    /// True if the filter selects the VM.
    pub fn matches(&self, vm: &SuiteVm) -> bool {
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

/// Writes the expression in a form that parses to the same filter.
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

/// Writes a part of a larger expression, in parentheses if it has parts itself.
fn write_part(f: &mut fmt::Formatter<'_>, filter: &Filter) -> fmt::Result {
    match filter {
        Filter::And(_) | Filter::Or(_) => write!(f, "({filter})"),
        _ => write!(f, "{filter}"),
    }
}

#[cfg(test)]
mod tests;
