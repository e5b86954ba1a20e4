//! Regular expressions in suites and in filters: parsed alike, and refused in the same words.

use regex::Regex;

/// Reason why a text is no regular expression, on one line and without the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no regular expression: {reason}")]
pub(super) struct InvalidExpression {
    reason: String,
}

/// Parses a regular expression.
///
/// # Errors
/// Fails if the text is no regular expression, or compiles to more than the crate's size limit.
pub(super) fn read(text: &str) -> Result<Regex, InvalidExpression> {
    Regex::new(text).map_err(|error| {
        let said = error.to_string();
        let last = said.lines().last().unwrap_or_default();
        InvalidExpression { reason: last.trim_start_matches("error: ").into() }
    })
}
