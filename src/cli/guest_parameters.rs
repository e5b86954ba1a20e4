//! The guest's kernel parameters as `run` takes them: the name of a workload, and the checks before a guest
//! boots.
//!
//! Owns the refusals; refuses to own the list of workloads (`farm::corpus`). Called by `run`.

use std::ffi::OsStr;

use anyhow::anyhow;
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use nmiscope_farm::{corpus, kernel_parameters};

use crate::errors::BadRequest;

/// Parser of `--workload`: takes any text, since a guest that is not the bundled one has workloads of its
/// own, and offers the bundled guest's names to a shell's completion.
#[derive(Debug, Clone)]
pub struct WorkloadParser;

impl TypedValueParser for WorkloadParser {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let value = |row: &corpus::Row| PossibleValue::new(row.name).help(row.summary());
        Some(Box::new(corpus::ROWS.iter().map(value)))
    }
}

/// Checks that a guest's parameters say one thing each, and that the bundled guest has the workload.
/// `command_line` is all of them, `append` those of `--append`.
///
/// # Errors
/// An unknown workload of the bundled guest, with the nearest name, or a parameter that is given twice.
pub fn check(
    is_bundled: bool,
    workload: Option<&str>,
    append: &str,
    command_line: &str,
) -> anyhow::Result<()> {
    let refused = |message: anyhow::Error| Err(BadRequest::from_error(message));
    if is_bundled {
        if let Some(workload) = kernel_parameters::workload(append, true) {
            return refused(anyhow!(
                "--append has `workload={workload}`: name the bundled guest's workload with \
                 --workload {workload}, and only there"
            ));
        }
        if let Some(Err(unknown)) = workload.map(corpus::find_written) {
            return refused(unknown.into());
        }
    }
    match kernel_parameters::check(command_line, is_bundled) {
        Ok(()) => Ok(()),
        Err(repeated) => refused(repeated.into()),
    }
}
