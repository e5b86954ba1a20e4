//! Regular expressions, in suites and in filters: read the same, and refused in the same words.

use regex::Regex;

/// The reason why a text is no regular expression, in a line and without the expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no regular expression: {reason}")]
pub(super) struct InvalidExpression {
    reason: String,
}

/// Reads a regular expression.
///
/// # Errors
/// It is none, or compiles to more than the crate's limit.
pub(super) fn read(text: &str) -> Result<Regex, InvalidExpression> {
    Regex::new(text).map_err(|error| {
        let said = error.to_string();
        let last = said.lines().last().unwrap_or_default();
        InvalidExpression { reason: last.trim_start_matches("error: ").into() }
    })
}
