//! Resolutions as JSON: one record for each reference.
//!
//! Owns the conversion of a resolution to a record. Called by the annotator and by `cli`.

use std::io::{self, Write};

use nmiscope_report::reference::{Candidate, ResolvedReference, SCHEMA_VERSION};
use nmiscope_report::sanitize;

use super::grammar::{CodeLocation, Reference};
use super::lookup::{Resolution, Unresolved};

/// Writes the record of a reference as one line. `line` is the number of the log's line, `None` for an
/// argument of the command line.
///
/// # Errors
/// The output cannot be written to.
pub fn write_record(
    output: &mut impl Write,
    line: Option<u64>,
    text: &str,
    reference: &Reference<'_>,
    answer: &Resolution,
) -> io::Result<()> {
    let record = record(line, text, reference, answer);
    let text = serde_json::to_string(&record).map_err(io::Error::other)?;
    writeln!(output, "{}", sanitize::json(&text))
}

fn record(
    line: Option<u64>,
    text: &str,
    reference: &Reference<'_>,
    answer: &Resolution,
) -> ResolvedReference {
    let module = match &reference.target {
        CodeLocation::Symbol(symbol) => symbol.module.as_ref(),
        CodeLocation::Address(_) => None,
    };
    ResolvedReference {
        schema_version: SCHEMA_VERSION,
        line,
        text: text.to_owned(),
        module: module.map(|module| module.name.to_owned()),
        module_build_id: module.and_then(|module| module.build_id).map(str::to_owned),
        exact: reference.exact || answer.exact,
        candidates: answer
            .matches
            .iter()
            .map(|found| Candidate {
                address: found.address.to_string(),
                frames: found.frame.functions.clone(),
            })
            .collect(),
        candidates_omitted: answer.omitted as u64,
        doubt: answer.doubt.map(|doubt| doubt.to_string()),
        incomplete: answer.incomplete().map(str::to_owned),
        missing: answer.missing.as_ref().map(Unresolved::to_string),
    }
}
