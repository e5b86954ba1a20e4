//! Suites: reads TOML and returns a list of VMs with all defaults filled in.
//!
//! [`mod@file`] holds a suite as its file spells it, the source of docs/suite.schema.json. `load` parses it,
//! `matrix` expands it to VMs, and both report all mistakes at once, by line and column (`diagnostic`).
//! The suite's own file is the only one opened here: images are checked by the caller that runs them.

mod diagnostic;
pub mod file;
mod listed;
mod load;
mod matrix;
#[cfg(test)]
mod tests;
mod vm;

use std::path::{Path, PathBuf};

pub use diagnostic::{Diagnostic, SuiteError};
pub use listed::{LIST_SCHEMA_VERSION, ListedVm, schema as list_schema};
pub use vm::{ConsoleRules, Expectation, MAX_VCPUS, SuiteVm};

/// A suite of VMs, expanded from its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// VMs of the suite in the order of the file, each with a name of its own.
    pub vms: Vec<SuiteVm>,
    /// Workloads of `workload = "*"` that were left out.
    pub left_out: Vec<LeftOut>,
    /// Text of the suite's file.
    pub text: String,
}

/// A workload that cannot run with the number of vCPUs that the suite asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Name that its VM would have had.
    pub name: String,
    /// Reason for leaving it out, in a few words.
    pub reason: String,
}

impl Suite {
    /// Reads a suite from its file. Relative paths in it are relative to the file's directory.
    ///
    /// # Errors
    /// Fails if the file cannot be read or holds no valid suite.
    pub fn load(path: &Path) -> Result<Self, SuiteError> {
        let failed = |source| SuiteError::Unreadable { path: path.into(), source };
        let bytes = std::fs::read(path).map_err(failed)?;
        let base: PathBuf = std::path::absolute(path).map_err(failed)?;
        let base = base.parent().unwrap_or(Path::new("/"));
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(text, path, base),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                let problem = diagnostic::Problem::new(at..at, "this is not UTF-8");
                Err(SuiteError::wrong(path, &text, vec![problem]))
            }
        }
    }

    /// Parses the text of a suite. Errors name the file as `path`; relative paths are relative to `base`.
    ///
    /// # Errors
    /// Fails if the text is no valid suite, with all mistakes in it.
    pub fn parse(text: String, path: &Path, base: &Path) -> Result<Self, SuiteError> {
        let made = load::read(&text).and_then(|written| matrix::expand(&written, base));
        match made {
            Ok((vms, left_out)) => Ok(Self { vms, left_out, text }),
            Err(problems) => Err(SuiteError::wrong(path, &text, problems)),
        }
    }
}

/// Returns the JSON schema of a suite, as docs/suite.schema.json holds it.
pub fn schema() -> String {
    nmiscope_report::json::schema_of::<file::SuiteFile>()
}
