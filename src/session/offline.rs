//! The report from a file: from a core, by the steps of a live session except the capture; from a dump of
//! another program (`dump`); or from a report that a run has written.
//!
//! Owns the recognition of the three kinds of files, and the order of a core's steps. Needs no KVM, no VM
//! and no clock. Called by the CLI.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nmiscope_report::{self as report, Report, Source, json};
use nmiscope_symbolizer::{Image, SourceRoots};

use super::dump;
use super::guest_image::{GuestImages, ImageSearch};
use super::stack_choice::StackChoice;
use super::visit::Visitor;
use crate::capture::note::CaptureNote;
use crate::capture::{Capture, StoppedGuest, Timeouts};
use crate::diagnosis::{self, Diagnosis, Resolver};
use crate::elf_core::{Core, ElfCore};
use crate::images::{self, Access, Bytes, DebugSearch, Files, hex, source_roots};
use crate::kernel::{self, KernelAdapter, KernelSymbols, Reading, Vocabulary, WithVariables};
use crate::targets::{Dump, Target};

/// An open file: a core, a dump or a report as JSON.
pub struct Stored {
    bytes: Bytes,
    path: String,
}

impl Stored {
    /// Opens a file. Its contents are checked by [`report()`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let bytes = images::open(path, Access::Map)?;
        Ok(Self { bytes, path: path.display().to_string() })
    }

    /// Wraps a file's bytes; `name` is its name in messages.
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Self {
        Self { bytes: Bytes::Owned(bytes), path: name.into() }
    }
}

/// Makes the report of a stored file. A report as JSON is returned unchanged.
///
/// The image is the one with the file's build-id: one of `images`, the bundled guest, the file that a core names,
/// or one that `search` finds. Without an image addresses stay addresses, and a warning names the
/// missing image. Images of modules are for a kernel that describes itself in memory. Of `stacks` there are those whose
/// memory is in the file.
///
/// # Errors
/// The file is no core, dump or report, or is too damaged; or one of `images` has another build-id.
pub fn report(
    stored: &Stored,
    images: &[PathBuf],
    search: &DebugSearch,
    stacks: StackChoice,
) -> anyhow::Result<Report> {
    let mut report = report_without_notes(stored, images, search, stacks)?;
    search.notes.add_to(&mut report.warnings);
    Ok(report)
}

fn report_without_notes(
    stored: &Stored,
    images: &[PathBuf],
    debug: &DebugSearch,
    stacks: StackChoice,
) -> anyhow::Result<Report> {
    let failed = || format!("failed to read {}", stored.path);
    if stored.bytes.starts_with(b"{") {
        return json::read(&stored.bytes).with_context(failed);
    }
    let core = ElfCore::parse(&stored.bytes).with_context(failed)?;
    let search = ImageSearch { named: images, debug };
    if !core.is_own() {
        let dump = Dump::from_elf(core).with_context(failed)?;
        return dump::report(dump, &stored.path, search, stacks);
    }
    let core = Core::new(core).with_context(failed)?;
    let mut note = CaptureNote::read(&core).context("its note is damaged").with_context(failed)?;
    note.report.source = Source::Core;
    for finding in core.findings() {
        note.report.warnings.push(format!("{}: {finding}", stored.path));
    }
    let (version, build_id) = (core.version(), core.build_id());
    let mut dump = Dump::new(core, note.capture.cpus.iter().map(|cpu| cpu.state.clone()).collect());
    if let report::GuestKernel::Known { name } = &note.report.image.kernel {
        let name = name.clone();
        let images = GuestImages::open(&dump, search, true, Vec::new())?;
        if images.has_kernel_in_memory() {
            let visitor = images.visitor(stacks);
            return Ok(report_visit(&mut dump, note, version, &visitor, stacks));
        }
        let warning = format!("the core's memory lacks the tables of {name}: stacks have no names");
        note.report.warnings.push(warning);
    }
    let image = match images {
        [] => None,
        [image] => Some(image.as_path()),
        [_, other, ..] => bail!("{} cannot be used: this core has one image", other.display()),
    };
    let files = find_files(build_id, &mut note.report, image, debug)?;
    let image = files.as_ref().and_then(|files| files.parse().ok());
    let kernel = image.as_ref().map(kernel::recognise);
    if let Some(kernel) = &kernel {
        let warning = read_kernel(&mut note.capture, &mut dump, &**kernel, version, stacks);
        note.report.warnings.extend(warning);
    }
    Ok(report_core(&dump, note, kernel.as_deref(), image.as_ref(), stacks))
}

/// Unwinds the stacks of a core whose kernel describes itself in memory, and makes the report. Images add lines.
fn report_visit(
    dump: &mut Dump<'_>,
    mut note: CaptureNote,
    version: u32,
    visitor: &Visitor<'_>,
    stacks: StackChoice,
) -> Report {
    let kernel = visitor.kernel();
    let warning = read_kernel(&mut note.capture, dump, kernel, version, stacks);
    for warning in visitor.warnings.iter().chain(kernel.findings()).cloned().chain(warning) {
        // The run may have left the same warning.
        if !note.report.warnings.contains(&warning) {
            note.report.warnings.push(warning);
        }
    }
    let capture = &mut note.capture;
    visitor.with_symbols(stacks.variables, |symbols| capture.unwind(symbols, dump));
    let index = note.index() as u32;
    let Diagnosis { mut backtrace, hangs } = visitor.with_symbols(false, |symbols| {
        let resolver = Resolver::new(symbols, SourceRoots::new(source_roots()));
        let resolver = resolver.with_vocabulary(kernel.vocabulary());
        diagnosis::diagnose(&note.capture, Some(index), &resolver)
    });
    stacks.tasks.apply(&mut backtrace);
    note.complete(backtrace, hangs)
}

/// Opens the image of a core with its debug file; `None`, with a warning in `report`, if it is not found.
fn find_files(
    build_id: Option<&[u8]>,
    report: &mut Report,
    image: Option<&Path>,
    search: &DebugSearch,
) -> anyhow::Result<Option<Files>> {
    let recorded = report.image.path.as_deref().map(Path::new);
    let found = Files::find(build_id, image, recorded, search)?;
    let Some((mut files, path)) = found else {
        report.warnings.push(match build_id {
            Some(id) => {
                format!("no image with build-id {} was found: name it with --image", hex(id))
            }
            None => "the image was not found, and has no build-id: name it with --image".into(),
        });
        return Ok(None);
    };
    files.find_debug_files(path.as_deref(), search);
    Ok(Some(files))
}

/// Unwinds the core's stacks by its image, and makes the report.
fn report_core(
    dump: &Dump<'_>,
    mut note: CaptureNote,
    kernel: Option<&dyn KernelAdapter>,
    image: Option<&Image<'_>>,
    stacks: StackChoice,
) -> Report {
    let image_symbols = image.map(|image| image as &dyn KernelSymbols);
    let symbols = match kernel {
        Some(kernel) => kernel.symbols(image_symbols),
        None => image_symbols,
    };
    let with_variables = image.filter(|_| stacks.variables).map(WithVariables::new);
    let unwound_by = match &with_variables {
        Some(Ok(with_variables)) => Some(with_variables as &dyn KernelSymbols),
        Some(Err(reason)) => {
            let warning = reason.to_string();
            // The run may have left the same warning.
            if !note.report.warnings.contains(&warning) {
                note.report.warnings.push(warning);
            }
            symbols
        }
        None => symbols,
    };
    note.capture.unwind(unwound_by, dump);
    let words = vocabulary(kernel, &note.report.image.kernel);
    let resolver = Resolver::new(symbols, SourceRoots::new(source_roots())).with_vocabulary(words);
    let index = note.index() as u32;
    let Diagnosis { mut backtrace, hangs } =
        diagnosis::diagnose(&note.capture, Some(index), &resolver);
    stacks.tasks.apply(&mut backtrace);
    note.complete(backtrace, hangs)
}

/// Reads the kernel's state and log from the core, as from a VM. Returns a warning if the core's memory
/// lacks the state, and the one that the run read is kept.
fn read_kernel(
    capture: &mut Capture,
    dump: &mut Dump<'_>,
    kernel: &dyn KernelAdapter,
    version: u32,
    stacks: StackChoice,
) -> Option<String> {
    let bounds = Timeouts::for_vcpus(dump.vcpus());
    let depth = stacks.tasks.depth();
    let mut stopped = StoppedGuest::stop_and_read(dump, kernel, None, bounds, depth);
    capture.log = stopped.read_log(dump);
    // The kernel is located by registers. A run without them had located it earlier.
    let is_there = version > 3 && stopped.states.iter().any(Result::is_ok);
    match (stopped.kernel, &capture.kernel) {
        (Reading::Unreadable { unreadable }, Reading::Known(_)) if is_there => Some(format!(
            "the core's memory lacks the kernel's state: the one that the run read is reported \
             ({unreadable})"
        )),
        (state, _) if is_there => {
            capture.kernel = state;
            None
        }
        _ => None,
    }
}

/// Returns the vocabulary of the kernel recognised in the image; without an image, that of the kernel in
/// the run's report.
fn vocabulary<'a>(
    recognised: Option<&'a dyn KernelAdapter>,
    reported: &report::GuestKernel,
) -> &'a dyn Vocabulary {
    match (recognised, reported) {
        (Some(kernel), _) => kernel.vocabulary(),
        (None, report::GuestKernel::Unknown { .. } | report::GuestKernel::Known { .. }) => {
            kernel::any_vocabulary()
        }
        (None, report::GuestKernel::Bundled | report::GuestKernel::NotExamined) => {
            kernel::bundled_vocabulary()
        }
    }
}
