//! A report from a file: from a core, by the same steps as a live one but for the taking; from a dump
//! of another program (`dump`); or one that a run has written.
//!
//! Owns which of them a file is, and the order of a core's steps. Needs no KVM, no VM and no clock.
//! Called by the CLI.

use std::path::Path;

use anyhow::Context;
use nmiscope_report::{self as report, Report, Source, json};
use nmiscope_symbolizer::{Image, SourceRoots};

use super::dump;
use crate::capture::note::Note;
use crate::capture::{Bounds, Capture, Stopped};
use crate::diagnosis::{self, Diagnosis, Resolver};
use crate::elf_core::{Core, ElfCore};
use crate::images::{self, Access, Bytes, Files, hex, source_roots};
use crate::kernel::{self, Kernel, Reading, Symbols, Vocabulary, WithVariables};
use crate::targets::{Dump, States, Target};

/// A core, a dump or a report, opened.
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

/// Makes the report of the core's backtrace, and of all that the note says; or that of a dump of another
/// program. The image is found by its build-id: `image`, the bundled guest, the file that ran then, or
/// one below `debug_directory`. Without it addresses stay what they are, and a warning says what is missing.
/// A report that is there already, as JSON, is what it is.
///
/// With `with_variables` the host stacks get theirs, as far as the core has the memory that they lie
/// in.
///
/// # Errors
/// The file is no core or dump, or too damaged; or `image` is another one.
pub fn report(
    stored: &Stored,
    image: Option<&Path>,
    debug_directory: &Path,
    with_variables: bool,
) -> anyhow::Result<Report> {
    let failed = || format!("failed to read {}", stored.path);
    if stored.bytes.starts_with(b"{") {
        return json::read(&stored.bytes).with_context(failed);
    }
    let core = ElfCore::parse(&stored.bytes).with_context(failed)?;
    if !core.is_own() {
        let dump = Dump::from_elf(core).with_context(failed)?;
        return dump::report(dump, &stored.path, image, debug_directory, with_variables);
    }
    let core = Core::new(core).with_context(failed)?;
    let mut note = Note::read(&core).context("its note is damaged").with_context(failed)?;
    note.report.source = Source::Core;
    for finding in core.findings() {
        note.report.warnings.push(format!("{}: {finding}", stored.path));
    }
    let files = find_files(&core, &mut note.report, image, debug_directory)?;
    let image = files.as_ref().and_then(|files| files.parse().ok());
    Ok(of_core(core, note, image.as_ref(), with_variables))
}

/// The image of a core with its debug file, if it is to be found.
fn find_files(
    core: &Core<'_>,
    report: &mut Report,
    image: Option<&Path>,
    debug_directory: &Path,
) -> anyhow::Result<Option<Files>> {
    let recorded = report.image.path.as_deref().map(Path::new);
    let found = Files::find(core.build_id(), image, recorded, debug_directory)?;
    let Some((mut files, path)) = found else {
        report.warnings.push(match core.build_id() {
            Some(id) => format!(
                "the image with build-id {} is not to be found: name it with --image",
                hex(id)
            ),
            None => {
                "the image is not to be found, and has no build-id: name it with --image".into()
            }
        });
        return Ok(None);
    };
    files.find_debug_file(path.as_deref(), debug_directory);
    Ok(Some(files))
}

fn of_core(core: Core<'_>, mut note: Note, image: Option<&Image<'_>>, variables: bool) -> Report {
    let kernel = image.map(kernel::recognise);
    let version = core.version();
    let states: States = note.capture.cpus.iter().map(|cpu| cpu.state.clone()).collect();
    let mut dump = Dump::new(core, states);
    if let Some(kernel) = &kernel {
        let warning = read_kernel(&mut note.capture, &mut dump, &**kernel, version);
        note.report.warnings.extend(warning);
    }
    let symbols = image.map(|image| image as &dyn Symbols);
    let with_variables = image.filter(|_| variables).map(WithVariables::new);
    let unwound_by = match &with_variables {
        Some(Ok(with_variables)) => Some(with_variables as &dyn Symbols),
        Some(Err(reason)) => {
            let warning = reason.to_string();
            // The run may have said the same.
            if !note.report.warnings.contains(&warning) {
                note.report.warnings.push(warning);
            }
            symbols
        }
        None => symbols,
    };
    note.capture.unwind(unwound_by, &dump);
    let words = vocabulary(kernel.as_deref(), &note.report.image.kernel);
    let resolver = Resolver::new(symbols, SourceRoots::new(source_roots())).with_words(words);
    let index = note.index() as u32;
    let Diagnosis { backtrace, hangs } = diagnosis::diagnose(&note.capture, Some(index), &resolver);
    note.complete(backtrace, hangs)
}

/// Reads the kernel's state and log from the core, as from a VM. Returns a warning where the state that
/// the run read has to stand for it.
fn read_kernel(
    capture: &mut Capture,
    dump: &mut Dump<'_>,
    kernel: &dyn Kernel,
    version: u32,
) -> Option<String> {
    let bounds = Bounds::for_vcpus(dump.vcpus());
    let mut stopped = Stopped::stop(dump, kernel, None, bounds);
    capture.log = stopped.read_log(dump);
    // Without registers nothing leads to the kernel: the run knew its place from before.
    let is_there = version > 3 && stopped.states.iter().any(Result::is_ok);
    match (stopped.kernel, &capture.kernel) {
        (Reading::Unreadable { unreadable }, Reading::Known(_)) if is_there => Some(format!(
            "the kernel's state is the one that the run read: the core's memory does not have it \
             ({unreadable})"
        )),
        (state, _) if is_there => {
            capture.kernel = state;
            None
        }
        _ => None,
    }
}

/// The vocabulary of the kernel that was recognised in the image, or else of the one that the run knew.
fn vocabulary<'a>(
    recognised: Option<&'a dyn Kernel>,
    reported: &report::GuestKernel,
) -> &'a dyn Vocabulary {
    match (recognised, reported) {
        (Some(kernel), _) => kernel.vocabulary(),
        (None, report::GuestKernel::Unknown { .. } | report::GuestKernel::Known { .. }) => {
            kernel::any_words()
        }
        (None, report::GuestKernel::Bundled | report::GuestKernel::NotExamined) => {
            kernel::bundled_words()
        }
    }
}
