//! The search for files with debug information, as the options and the environment want it.
//!
//! Owns that servers are asked where DEBUGINFOD_URLS names some. Refuses to own the search (`images`).
//! Called by the commands that answer and exit.

use std::path::PathBuf;

#[cfg(feature = "kvm")]
use anyhow::Context;

use super::output;
use crate::images::{DebugSearch, Debuginfod};

/// Returns a search in these directories, and then by the user's debuginfod servers. A slow download is
/// shown unless `quiet`.
pub fn debug_search(directories: &[PathBuf], quiet: bool) -> DebugSearch {
    let show = if quiet { |_: &str| {} } else { output::note };
    let debuginfod = Debuginfod::from_environment(show);
    DebugSearch { debuginfod, ..DebugSearch::in_directories(directories) }
}

/// Returns these directories as options of `run` for the VMs of a farm, by absolute paths.
///
/// # Errors
/// A path is relative, and the working directory is unknown.
#[cfg(feature = "kvm")]
pub fn options(directories: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let option = |directory: &PathBuf| {
        let absolute = std::path::absolute(directory);
        let absolute = absolute.context("failed to find a directory of debug files")?;
        Ok(format!("--debug-dir={}", absolute.display()))
    };
    directories.iter().map(option).collect()
}
