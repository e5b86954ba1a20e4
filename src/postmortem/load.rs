//! From a core to the report.

use std::path::Path;

use anyhow::Context;
use nmiscope_symbolizer::SourceRoots;

use super::{Note, Taken};
use crate::core_file::Core;
use crate::diagnosis::{self, Looks, Resolver};
use crate::images::{self, Access, Bytes, Files, hex, source_roots};
use crate::kernel::{self, Symbols, WithVariables};
use crate::report::{self, Report, SCHEMA_VERSION, Source};
use crate::targets::{Dump, States};

/// A core, opened.
pub struct Stored {
    bytes: Bytes,
    path: String,
}

impl Stored {
    /// Opens a file; what is in it shows later.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let bytes = images::open(path, Access::Map)?;
        Ok(Self { bytes, path: path.display().to_string() })
    }

    /// A core that is in memory, under the name that messages have for it.
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Self {
        Self { bytes: Bytes::Owned(bytes), path: name.into() }
    }
}

/// A report that a run has written: there is nothing left to make of it.
fn written(bytes: &[u8]) -> anyhow::Result<Report> {
    let report: Report = serde_json::from_slice(bytes)
        .context("it is no report, or one of another version of nmiscope")?;
    anyhow::ensure!(
        report.schema_version == SCHEMA_VERSION,
        "it is a report of schema version {}, and this is version {SCHEMA_VERSION}",
        report.schema_version
    );
    Ok(report)
}

/// Makes the report of the core's backtrace, and of all that the note says. The image is found
/// by its build-id: `image`, the bundled guest, the file that ran then, or one below
/// `debug_directory`. Without it addresses stay what they are, and a warning says what is missing.
/// A report that is there already, as JSON, is what it is.
///
/// With `with_variables` the frames that the host sees get theirs, as far as the core has the memory
/// that they lie in.
///
/// # Errors
/// The file is no core of ours, or too damaged; or `image` is another one.
pub fn report(
    stored: &Stored,
    image: Option<&Path>,
    debug_directory: &Path,
    with_variables: bool,
) -> anyhow::Result<Report> {
    let failed = || format!("failed to read {}", stored.path);
    if stored.bytes.starts_with(b"{") {
        return written(&stored.bytes).with_context(failed);
    }
    let core = Core::parse(&stored.bytes).with_context(failed)?;
    let note: Note = serde_json::from_slice(core.note())
        .context("its note is damaged, or of another version of nmiscope")
        .with_context(failed)?;
    let Note { mut report, trigger, at_ms, taken, resolved_after_ms, index, first_hang } = note;
    let Taken { capture, found } = taken;
    report.source = Source::Core;
    for finding in core.findings() {
        report.warnings.push(format!("{}: {finding}", stored.path));
    }
    let recorded = report.image.path.as_deref().map(Path::new);
    let mut files = Files::find(core.build_id(), image, recorded, debug_directory)?;
    match &mut files {
        Some((files, path)) => files.find_debug_file(path.as_deref(), debug_directory),
        None => report.warnings.push(match core.build_id() {
            Some(id) => format!(
                "the image with build-id {} is not to be found: name it with --image",
                hex(id)
            ),
            None => {
                "the image is not to be found, and has no build-id: name it with --image".into()
            }
        }),
    }
    let image = files.as_ref().and_then(|(files, _)| files.parse().ok());
    let symbols = image.as_ref().map(|image| image as &dyn Symbols);
    let words = match report.image.kernel {
        report::Kernel::Unknown { .. } => kernel::any_words(),
        report::Kernel::Bundled | report::Kernel::NotExamined => kernel::bundled_words(),
    };
    let resolver = Resolver::new(symbols, SourceRoots::new(source_roots())).with_words(words);
    let states: States = capture.cpus.iter().map(|cpu| cpu.state.clone()).collect();
    let dump = Dump::new(core, states.clone());
    let with_variables = image.as_ref().filter(|_| with_variables).map(WithVariables::new);
    let looked_by = match &with_variables {
        Some(Ok(with_variables)) => Some(with_variables as &dyn Symbols),
        // The run may have said the same.
        Some(Err(warning)) if !report.warnings.contains(warning) => {
            report.warnings.push(warning.clone());
            symbols
        }
        _ => symbols,
    };
    let looks = Looks::look(&states, capture.kernel.known(), looked_by, &dump);
    let backtrace = diagnosis::backtrace(&capture, &looks, trigger, at_ms, &resolver);
    // Earlier ones that did not fit are missing.
    let index = index.min(report.backtraces.len());
    if let Some(found) = found {
        let of = Some(index as u32);
        let mut hangs = diagnosis::hangs(&found, &capture, &backtrace, of, &resolver);
        for (hang, resolved) in hangs.iter_mut().zip(resolved_after_ms) {
            hang.resolved_after_ms = resolved;
        }
        let first = first_hang.min(report.hangs.len());
        report.hangs.splice(first..first, hangs);
    }
    report.backtraces.insert(index, backtrace);
    Ok(report)
}
