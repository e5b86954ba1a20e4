//! Reports as JSON: writing, reading, and the schema.
//!
//! Owns the layout of the JSON and the check of its version; refuses to own where it is written
//! ([`destination`](crate::destination)). Called by the command line and by farms.

use anyhow::Context;
use serde::Deserialize;

use super::former;
use super::report::{Report, SCHEMA_VERSION};
use super::sanitize;

/// The reason why a text is not a report that can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The text is not JSON, or has no `schema_version`.
    #[error("it is no report of nmiscope")]
    NoReport(#[source] serde_json::Error),
    /// The report has a version of the format that this crate does not read.
    #[error(
        "it is a report of schema version {found}, and this nmiscope reads versions \
         {} and {SCHEMA_VERSION}: use the nmiscope that wrote it, or a newer one",
        former::OLDEST_READ_VERSION
    )]
    Version {
        /// Version that the report has.
        found: u64,
    },
    /// The report lacks a field, or has one of another type.
    #[error("it is a damaged report")]
    Damaged(#[source] serde_json::Error),
}

/// Encodes a report as JSON, as it is stored.
///
/// # Errors
/// A number of the report is infinite or not a number, which JSON cannot express.
pub fn text(report: &Report) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(report).context("failed to encode the report")?;
    Ok(sanitize::json(&text) + "\n")
}

/// Decodes a report from JSON. A report of the former version is returned as one of this version.
///
/// # Errors
/// [`ReportError`] for a text that is not a report, or one of a version that is not read.
pub fn read(text: &[u8]) -> Result<Report, ReportError> {
    #[derive(Deserialize)]
    struct Version {
        schema_version: u64,
    }
    let Version { schema_version } = serde_json::from_slice(text).map_err(ReportError::NoReport)?;
    if !former::is_read(schema_version) {
        return Err(ReportError::Version { found: schema_version });
    }
    let mut report: Report = serde_json::from_slice(text).map_err(ReportError::Damaged)?;
    former::upgrade(&mut report);
    Ok(report)
}

/// Returns the JSON schema of [`Report`], as docs/report.schema.json holds it.
pub fn schema() -> String {
    schema_of::<Report>()
}

/// Returns the JSON schema of a type, laid out as the files in docs/ are.
pub fn schema_of<T: schemars::JsonSchema>() -> String {
    let schema = schemars::schema_for!(T);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain JSON");
    text.push('\n');
    text
}
