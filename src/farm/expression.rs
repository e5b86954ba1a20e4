//! Regular expressions, in suites and in filters: read the same, and refused in the same words.

use regex::Regex;

/// Reads a regular expression.
///
/// # Errors
/// It is none, or compiles to more than the crate's limit: in a line, without the expression.
pub(super) fn read(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let said = error.to_string();
        let last = said.lines().last().unwrap_or_default();
        format!("no regular expression: {}", last.trim_start_matches("error: "))
    })
}
