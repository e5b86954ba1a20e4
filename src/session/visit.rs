//! A visit to a guest that this program did not start: one capture and its report.
//!
//! Owns the common part of dumps and running VMs: the capture, by the same code as for every other target,
//! the hangs of that one moment, and the report. Refuses to own opening and resuming the target (`dump`,
//! `attach`, the callers) and the search for its image (`guest_image`).

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use nmiscope_report::{
    self as report, Machine, Outcome, Report, SCHEMA_VERSION, Source, Tool, Trigger, summary,
};
use nmiscope_symbolizer::{Image, SourceRoots};

use super::observe;
use super::origin::Origin;
use super::stack_choice::StackChoice;
use crate::capture::store::{CoreDestination, PendingCore};
use crate::capture::{Capture, CaptureRequest, StoppedGuest, Timeouts};
use crate::diagnosis::{self, Diagnosis, Resolver};
use crate::images::source_roots;
use crate::kernel::{
    KernelAdapter, KernelImages, KernelSymbols, Reading, SYMBOLS_INCOMPLETE, WithImages,
    WithVariables,
};
use crate::targets::Target;

/// The warning for a user who wants the variables of a guest whose image is not known.
pub(super) const NO_VARIABLES_WITHOUT_IMAGE: &str =
    "arguments and locals are not available: name the image with --image";

/// The image and kernel of a guest, prepared before the capture. Preparation is slow, so it is done while the
/// Images in which a guest's addresses are looked up.
pub enum Images<'f> {
    /// No image, or none beside the kernel's own symbols.
    None,
    /// The image of a kernel that runs where it was linked.
    Whole(Box<Image<'f>>),
    /// Images of the parts of a kernel that describes itself in memory.
    Parts(KernelImages<'f>),
}

/// The images and kernel of a guest, prepared before the capture. Preparation is slow, so it is done while the
/// guest still runs.
pub struct Visitor<'f> {
    images: Images<'f>,
    kernel: Rc<dyn KernelAdapter>,
    stacks: StackChoice,
    /// Path and build-id of the kernel's image, for the report.
    path: Option<PathBuf>,
    build_id: Option<String>,
    /// Warnings that go into the report.
    pub warnings: Vec<String>,
}

/// A capture of one moment and its core; `None` if no core was requested.
pub type CaptureWithCore = (Capture, Option<anyhow::Result<PendingCore>>);

impl<'f> Visitor<'f> {
    /// Creates a visitor to a guest with this kernel. `warnings` are the warnings so far.
    pub fn new(
        kernel: Rc<dyn KernelAdapter>,
        images: Images<'f>,
        stacks: StackChoice,
        mut warnings: Vec<String>,
    ) -> Self {
        if let (true, Images::Whole(image)) = (stacks.variables, &images) {
            warnings.extend(WithVariables::new(image).err().map(|reason| reason.to_string()));
        }
        Self { images, kernel, stacks, path: None, build_id: None, warnings }
    }

    /// Creates a visitor for a known kernel, without an image.
    pub fn from_kernel(kernel: Box<dyn KernelAdapter>) -> Self {
        Self::new(kernel.into(), Images::None, StackChoice::default(), Vec::new())
    }

    /// Sets the path and the build-id of the kernel's image, for the report.
    pub fn with_origin(self, path: Option<PathBuf>, build_id: Option<String>) -> Self {
        Self { path, build_id, ..self }
    }

    /// Returns the kernel of the guest.
    pub(super) fn kernel(&self) -> &dyn KernelAdapter {
        &*self.kernel
    }

    /// Passes the symbols on, with variables if they are wanted.
    pub(super) fn with_symbols<R>(
        &self,
        variables: bool,
        use_symbols: impl FnOnce(Option<&dyn KernelSymbols>) -> R,
    ) -> R {
        match &self.images {
            Images::None => use_symbols(self.kernel.symbols(None)),
            Images::Whole(image) => match variables.then(|| WithVariables::new(image)) {
                Some(Ok(with_variables)) => use_symbols(Some(&with_variables)),
                _ => use_symbols(self.kernel.symbols(Some(&**image))),
            },
            Images::Parts(images) => match self.kernel.symbols(None) {
                Some(own) => use_symbols(Some(&WithImages::new(own, images, variables))),
                None => use_symbols(None),
            },
        }
    }

    /// Captures the present moment of a target, which should be stopped.
    pub fn capture(
        &mut self,
        target: &mut dyn Target,
        trigger: Trigger,
        core: Option<&CoreDestination>,
    ) -> CaptureWithCore {
        self.warnings.extend_from_slice(self.kernel.findings());
        let bounds = Timeouts::for_vcpus(target.vcpus());
        let depth = self.stacks.tasks.depth();
        let stopped = StoppedGuest::stop_and_read(target, &*self.kernel, None, bounds, depth);
        if let Reading::Unreadable { unreadable } = &stopped.kernel {
            self.warnings
                .push(format!("the kernel's tasks, locks and log are unknown: {unreadable}"));
        }
        let found = Some(observe::find_recorded_hangs(target, &stopped, Duration::ZERO));
        let (capture, core) = self.with_symbols(self.stacks.variables, |symbols| {
            let request = CaptureRequest {
                trigger,
                at: Duration::ZERO,
                found,
                history: None,
                nmis: false,
                symbols,
                core,
                sampling: None,
            };
            stopped.capture(target, request)
        });
        // The duration would differ between two visits of one moment, whose reports must be equal.
        (Capture { elapsed: Duration::ZERO, ..capture }, core)
    }

    fn panic_message(&self, capture: &Capture) -> Option<String> {
        let log = capture.log.as_ref()?.as_ref().ok()?;
        let lines: Vec<String> = log.records.iter().map(|record| record.text.clone()).collect();
        self.kernel.vocabulary().panic_message(&lines)
    }

    /// Diagnoses a capture and makes its report.
    pub fn report(
        self,
        capture: &Capture,
        source: Source,
        origin: Origin,
        memory_bytes: u64,
    ) -> Report {
        let (diagnosis, is_budget_spent) = self.with_symbols(false, |symbols| {
            let resolver = Resolver::new(symbols, SourceRoots::new(source_roots()));
            let resolver = resolver.with_vocabulary(self.kernel.vocabulary());
            let diagnosis = diagnosis::diagnose(capture, Some(0), &resolver);
            (diagnosis, symbols.is_some_and(KernelSymbols::is_budget_spent))
        });
        let Diagnosis { mut backtrace, hangs } = diagnosis;
        self.stacks.tasks.apply(&mut backtrace);
        let panicking = capture.kernel.known().and_then(|kernel| kernel.panicking);
        let message = panicking.and_then(|_| self.panic_message(capture));
        let mut warnings = self.warnings;
        if is_budget_spent {
            warnings.push(SYMBOLS_INCOMPLETE.into());
        }
        let mut report = Report {
            schema_version: SCHEMA_VERSION,
            summary: String::new(),
            redacted: false,
            source,
            captured_at: origin.captured_at,
            host: origin.host,
            tool: Tool {
                name: env!("CARGO_PKG_NAME").into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            image: report::GuestImage {
                path: self.path.map(|path| path.to_string_lossy().into_owned()),
                build_id: self.build_id,
                initrd: None,
                command_line: String::new(),
                kernel: kernel_in_report(Some(&*self.kernel)),
            },
            machine: Machine { vcpus: capture.cpus.len() as u32, memory_bytes },
            ready_after_ms: None,
            outcome: Outcome::Observed { panicking, message },
            hangs,
            backtraces: vec![backtrace],
            warnings,
            console_tail: Vec::new(),
            visit: None,
        };
        report.summary = summary::summarize(&report);
        report
    }
}

/// Describes a kernel for the report; `None` is a kernel that was not examined.
pub fn kernel_in_report(kernel: Option<&dyn KernelAdapter>) -> report::GuestKernel {
    let Some(kernel) = kernel else { return report::GuestKernel::NotExamined };
    match (kernel.unknown_because(), kernel.name()) {
        (Some(reason), _) => report::GuestKernel::Unknown { reason: reason.into() },
        (None, Some(name)) => report::GuestKernel::Known { name },
        (None, None) => report::GuestKernel::Bundled,
    }
}
