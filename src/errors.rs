//! What all errors of this crate have in common: how they are shown, and whose fault they are.

/// Something that the user named cannot be used: a missing file, an impossible number. Nothing has
/// run. Everything else that fails is the tool's or its host's failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadRequest(String);

impl BadRequest {
    /// The same error, with all its causes, marked as the request's.
    pub fn from_error(error: anyhow::Error) -> anyhow::Error {
        Self(format!("{error:#}")).into()
    }
}

/// An error and all that caused it, as one line.
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
