//! Errors of all modules: their text with all causes, and the mark of those that the user can correct.

/// Error in the request: a file or number that the user gave cannot be used, and nothing has run. Every
/// other error is a failure of the tool or its host.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadRequest(String);

impl BadRequest {
    /// Marks an error as one in the request. The text keeps all its causes.
    pub fn from_error(error: anyhow::Error) -> anyhow::Error {
        Self(format!("{error:#}")).into()
    }
}

/// Returns an error and all its causes as one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
