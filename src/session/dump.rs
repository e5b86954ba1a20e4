//! A report from a dump that another program took: captured and diagnosed by the code that does it for
//! a VM, with a file for the target.
//!
//! Owns which image is taken for the one that ran, and the order of the steps. Refuses to own formats
//! (`targets`). Called by `offline`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use nmiscope_machine::{GuestVirtual, VirtualMemory};
use nmiscope_symbolizer::{Image, SourceRoots};

use super::guest::kernel_in_report;
use crate::capture::{Bounds, Request, Stopped};
use crate::diagnosis::{self, Diagnosis, Resolver};
use crate::images::{Access, Files, hex, source_roots};
use crate::kernel::{self, Symbols, WithVariables};
use crate::report::{self, Machine, Outcome, Report, SCHEMA_VERSION, Source, Tool, Trigger};
use crate::targets::{Dump, Target};

/// Makes the report of a dump. `name` is what messages call the file.
///
/// # Errors
/// `image` cannot be read, or is not the one in the dump's memory.
pub(super) fn report(
    mut dump: Dump<'_>,
    name: &str,
    image: Option<&Path>,
    debug_directory: &Path,
    with_variables: bool,
) -> anyhow::Result<Report> {
    let mut warnings: Vec<String> =
        dump.findings().iter().map(|finding| format!("{name}: {finding}")).collect();
    let found = match image {
        Some(path) => Some(given(path, &dump, &mut warnings)?),
        None => find(&dump, debug_directory, &mut warnings)?,
    };
    let found = found.map(|(mut files, path)| {
        files.find_debug_file(path.as_deref(), debug_directory);
        (files, path)
    });
    let (files, path) = found.unzip();
    let image = files.as_ref().and_then(|files| files.parse().ok());
    let mut report = empty(&dump, image.as_ref(), path.flatten());
    let (diagnosis, kernel) = diagnose(&mut dump, image.as_ref(), with_variables, &mut warnings);
    report.image.kernel = kernel;
    report.hangs = diagnosis.hangs;
    report.backtraces.push(diagnosis.backtrace);
    report.warnings = warnings;
    Ok(report)
}

/// Takes the moment out of the dump, and makes of it what it means.
fn diagnose(
    dump: &mut Dump<'_>,
    image: Option<&Image<'_>>,
    with_variables: bool,
    warnings: &mut Vec<String>,
) -> (Diagnosis, report::Kernel) {
    let kernel = match image {
        Some(image) => kernel::recognise(image),
        None => kernel::unknown("there is no image to recognise it by".into()),
    };
    let symbols = kernel.symbols(image.map(|image| image as &dyn Symbols));
    let with_variables = image.filter(|_| with_variables).map(WithVariables::new);
    let unwound_by = match &with_variables {
        Some(Ok(with_variables)) => Some(with_variables as &dyn Symbols),
        Some(Err(reason)) => {
            warnings.push(reason.to_string());
            symbols
        }
        None => symbols,
    };
    let bounds = Bounds::for_vcpus(dump.vcpus());
    let stopped = Stopped::stop(dump, &*kernel, None, bounds);
    if kernel.unknown_because().is_none()
        && let Err(reason) = &stopped.located
    {
        let reason = crate::error_chain(reason);
        warnings.push(format!("the kernel's tasks, locks and log are not known: {reason}"));
    }
    let request = Request {
        trigger: Trigger::Dump,
        at: Duration::ZERO,
        found: None,
        nmis: false,
        symbols: unwound_by,
        core: None,
        still: None,
    };
    let (mut capture, _) = stopped.capture(dump, request);
    // A dump's time is not the tool's, and one dump is to give one report.
    capture.elapsed = Duration::ZERO;
    let resolver = Resolver::new(symbols, SourceRoots::new(source_roots()));
    let resolver = resolver.with_words(kernel.vocabulary());
    let diagnosis = diagnosis::diagnose(&capture, Some(0), &resolver);
    (diagnosis, kernel_in_report(Some(kernel.unknown_because())))
}

/// The report without its backtrace.
fn empty(dump: &Dump<'_>, image: Option<&Image<'_>>, path: Option<PathBuf>) -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        source: Source::Dump,
        tool: Tool {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
        },
        image: report::Image {
            path: path.map(|path| path.to_string_lossy().into_owned()),
            build_id: image.and_then(Image::build_id).map(hex),
            initrd: None,
            command_line: String::new(),
            kernel: report::Kernel::NotExamined,
        },
        machine: Machine { vcpus: dump.vcpus(), memory_bytes: dump.extents().bytes() },
        ready_after_ms: None,
        outcome: Outcome::Observed,
        hangs: Vec::new(),
        backtraces: Vec::new(),
        warnings: Vec::new(),
        console_tail: Vec::new(),
    }
}

/// The image of a dump and, but for the bundled guest's, its path.
type Found = (Files, Option<PathBuf>);

/// The image that the user names, if it is not another one than the dump's.
fn given(path: &Path, dump: &Dump<'_>, warnings: &mut Vec<String>) -> anyhow::Result<Found> {
    let files = Files::open(Some(path), Access::Map)?;
    let shown = path.display();
    match files.parse().map(|image| build_id_in_memory(&image, dump)) {
        Ok(InMemory::Same) => {}
        Ok(InMemory::Other(id)) => {
            bail!("{shown} is another image: the one with build-id {} is wanted", hex(&id))
        }
        Ok(InMemory::NoNote) => bail!(
            "{shown} is another image, or its kernel was moved (KASLR), which is not undone in dumps \
             yet: the guest's memory has no build-id where the image has its own; without --image the \
             report has registers and addresses"
        ),
        Ok(InMemory::Unchecked(reason)) => {
            warnings.push(format!("{shown} may be another image than the one that ran: {reason}"));
        }
        Err(error) => bail!("{shown} cannot be used: {}", crate::error_chain(&error)),
    }
    Ok((files, Some(path.to_owned())))
}

/// The bundled guest's image if its build-id is in memory at its place, or the one that is there among
/// the debug files.
fn find(
    dump: &Dump<'_>,
    debug_directory: &Path,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<Found>> {
    let bundled = Files::open(None, Access::Map)?;
    let seen = bundled.parse().map(|image| build_id_in_memory(&image, dump));
    if matches!(seen, Ok(InMemory::Same)) {
        return Ok(Some((bundled, None)));
    }
    if let Ok(InMemory::Other(id)) = seen {
        let found = Files::find(Some(&id), None, None, debug_directory)?;
        if found.is_none() {
            let id = hex(&id);
            warnings.push(format!(
                "the image with build-id {id} is not to be found: name it with --image"
            ));
        }
        return Ok(found);
    }
    warnings.push(
        "a dump does not name its image, and it is not the bundled guest's: name it with --image \
         for functions, stacks and the kernel's state"
            .into(),
    );
    Ok(None)
}

/// A guest's memory at the place where an image has its build-id.
enum InMemory {
    /// The image's own build-id.
    Same,
    /// Another image's build-id.
    Other(Vec<u8>),
    /// Mapped memory without a note of a build-id.
    NoNote,
    /// No memory to look at.
    Unchecked(Unchecked),
}

/// The reason why it is not known which image a guest ran.
#[derive(Debug, thiserror::Error)]
enum Unchecked {
    #[error("the image has no build-id that is loaded")]
    NoBuildId,
    #[error("no vCPU has page tables to look for its build-id by")]
    NoPageTables,
    #[error("its build-id is not in the dump's memory")]
    NotMapped,
}

/// Looks for the image's build-id in the address space of each vCPU.
fn build_id_in_memory(image: &Image<'_>, dump: &Dump<'_>) -> InMemory {
    /// namesz, descsz, type and the name "GNU" before it (gABI, "Note Section").
    const HEADER: usize = 16;
    const NT_GNU_BUILD_ID: u32 = 3;
    let address = image.build_id_address().and_then(|at| at.checked_sub(HEADER as u64));
    let (Some(id), Some(address)) = (image.build_id(), address) else {
        return InMemory::Unchecked(Unchecked::NoBuildId);
    };
    let states = dump.states(&Vec::from_iter(0..dump.vcpus()), Duration::ZERO);
    let mut best = InMemory::Unchecked(Unchecked::NoPageTables);
    for tables in states.iter().flatten().filter_map(|state| state.registers.page_tables().ok()) {
        let mut note = vec![0; HEADER + id.len()];
        if GuestVirtual::new(dump, tables).read(address, &mut note).is_err() {
            if matches!(best, InMemory::Unchecked(_)) {
                best = InMemory::Unchecked(Unchecked::NotMapped);
            }
            continue;
        }
        let header = [4, id.len() as u32, NT_GNU_BUILD_ID, u32::from_le_bytes(*b"GNU\0")];
        let expected = header.iter().flat_map(|word| word.to_le_bytes());
        let (header, found) = note.split_at(HEADER);
        if !expected.eq(header.iter().copied()) {
            best = InMemory::NoNote;
        } else if found == id {
            return InMemory::Same;
        } else {
            return InMemory::Other(found.to_vec());
        }
    }
    best
}
