//! What a farm is to run: TOML in, a list of VMs out, with nothing left to default.
//!
//! [`written`] is a suite as its file has it, and what docs/suite.schema.json is made from. `load` reads
//! it, `matrix` makes the VMs of it, and both tell all that is wrong at once, by line and column
//! (`problem`). Touches no file but the suite's own: whether images are there is for who runs them.

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
pub use vm::{ConsoleRules, Expectation, MAX_VCPUS, Vm};

/// A suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// Its VMs, in the order of the file, no two of one name.
    pub vms: Vec<Vm>,
    /// What a `workload = "*"` has left out.
    pub left_out: Vec<LeftOut>,
    /// The file's text.
    pub text: String,
}

/// A workload that cannot run as a suite would have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The name that its VM would have had.
    pub name: String,
    /// Why, in a few words.
    pub reason: String,
}

impl Suite {
    /// Reads a suite from its file. The images that it names by relative paths are beside it.
    ///
    /// # Errors
    /// The file cannot be read, or is no suite.
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

    /// Reads a suite from its text. `path` is what errors call it, and relative paths in it are
    /// relative to `beside`.
    ///
    /// # Errors
    /// It is no suite: everything that is wrong with it.
    pub fn parse(text: String, path: &Path, base: &Path) -> Result<Self, SuiteError> {
        let made = load::read(&text).and_then(|written| matrix::expand(&written, base));
        match made {
            Ok((vms, left_out)) => Ok(Self { vms, left_out, text }),
            Err(problems) => Err(SuiteError::wrong(path, &text, problems)),
        }
    }
}

/// The JSON schema of a suite, as docs/suite.schema.json holds it.
pub fn schema() -> String {
    nmiscope_report::json::schema_of::<file::SuiteFile>()
}
