//! Reports as JSON, and their schema.

use anyhow::Context;

use super::report::Report;
use super::sanitize;

/// A report as JSON, as it is stored.
///
/// # Errors
/// It has a number that JSON has not.
pub fn text(report: &Report) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(report).context("failed to encode the report")?;
    Ok(sanitize::json(&text) + "\n")
}

/// The JSON schema of [`Report`], as docs/report.schema.json holds it.
pub fn schema() -> String {
    schema_of::<Report>()
}

/// The JSON schema of a type, laid out as the files in docs/ are.
pub fn schema_of<T: schemars::JsonSchema>() -> String {
    let schema = schemars::schema_for!(T);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain JSON");
    text.push('\n');
    text
}
