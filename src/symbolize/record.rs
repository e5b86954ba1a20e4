//! Answers as JSON: the record of each reference.
//!
//! Owns what of an answer a record has. Called by the annotator and by `cli`.

use std::io::{self, Write};

use nmiscope_report::reference::{Candidate, ResolvedReference, SCHEMA_VERSION};
use nmiscope_report::sanitize;

use super::grammar::{Reference, Target};
use super::lookup::{Answer, Missing};

/// Writes the record of a reference as one line. `line` is the number of the log's line; an argument
/// has none.
///
/// # Errors
/// The output cannot be written to.
pub fn write_record(
    output: &mut impl Write,
    line: Option<u64>,
    text: &str,
    reference: &Reference<'_>,
    answer: &Answer,
) -> io::Result<()> {
    let record = record(line, text, reference, answer);
    let text = serde_json::to_string(&record).map_err(io::Error::other)?;
    writeln!(output, "{}", sanitize::json(&text))
}

fn record(
    line: Option<u64>,
    text: &str,
    reference: &Reference<'_>,
    answer: &Answer,
) -> ResolvedReference {
    let module = match &reference.target {
        Target::Symbol(symbol) => symbol.module.as_ref(),
        Target::Address(_) => None,
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
        missing: answer.missing.as_ref().map(Missing::to_string),
    }
}
