//! A visit to a guest that this program did not start: one capture and its report.
//!
//! Owns the common part of dumps and running VMs: the capture, by the same code as for every other target,
//! the hangs of that one moment, and the report. Refuses to own opening and resuming the target (`dump`,
//! `attach`, the callers) and the search for its image (`guest_image`).

use std::path::PathBuf;
use std::time::Duration;

use nmiscope_machine::PhysicalMemory;
use nmiscope_report::{
    self as report, Machine, Outcome, Report, SCHEMA_VERSION, Source, Tool, Trigger, summary,
};
use nmiscope_symbolizer::{Image, SourceRoots};

use super::observe;
use super::origin::Origin;
use crate::capture::store::{CoreDestination, PendingCore};
use crate::capture::{Capture, CaptureRequest, StoppedGuest, Timeouts};
use crate::diagnosis::{self, Diagnosis, Resolver};
use crate::images::{hex, source_roots};
use crate::kernel::{self, KernelAdapter, KernelSymbols, Reading, WithVariables};
use crate::targets::Target;

/// The warning for a user who wants the variables of a guest whose image is not known.
pub(super) const NO_VARIABLES_WITHOUT_IMAGE: &str =
    "arguments and locals are not available: name the image with --image";

/// The image and kernel of a guest, prepared before the capture. Preparation is slow, so it is done while the
/// guest still runs.
pub struct Visitor<'i> {
    image: Option<&'i Image<'i>>,
    kernel: Box<dyn KernelAdapter>,
    with_variables: Option<WithVariables<'i>>,
    /// Warnings that go into the report.
    pub warnings: Vec<String>,
}

/// A capture of one moment and its core; `None` if no core was requested.
pub type CaptureWithCore = (Capture, Option<anyhow::Result<PendingCore>>);

impl<'i> Visitor<'i> {
    /// Recognises the kernel in the image, if there is one. `warnings` are the warnings so far.
    pub fn new(image: Option<&'i Image<'i>>, variables: bool, warnings: Vec<String>) -> Self {
        let kernel = match image {
            Some(image) => kernel::recognise(image),
            None => kernel::unknown("there is no image to recognise it by".into()),
        };
        Self { image, warnings, ..Self::from_kernel(kernel) }.with_variables(variables)
    }

    /// Recognises a kernel that describes itself in the target's memory; `None` if there is none.
    pub fn in_memory(target: &dyn Target) -> Option<Self> {
        let states = target.states(&Vec::from_iter(0..target.vcpus()), Duration::ZERO);
        let registers: Vec<_> = states.into_iter().flatten().map(|state| state.registers).collect();
        Some(Self::from_kernel(kernel::recognise_in_memory(target, &registers)?))
    }

    /// Describes the state of the target in place of a kernel, where there is neither a kernel nor an image. Memory is
    /// searched for it where `reads_memory` is true.
    pub fn or_state_of(self, target: &dyn Target, reads_memory: bool) -> Self {
        if self.image.is_some() || self.kernel.unknown_because().is_none() {
            return self;
        }
        let states = target.states(&Vec::from_iter(0..target.vcpus()), Duration::ZERO);
        let states: Vec<_> = states.into_iter().flatten().collect();
        let memory = reads_memory.then_some(target as &dyn PhysicalMemory);
        Self { kernel: kernel::unrecognised(&states, memory), ..self }
    }

    /// Creates a visitor for a known kernel, without an image.
    pub fn from_kernel(kernel: Box<dyn KernelAdapter>) -> Self {
        Self { image: None, kernel, with_variables: None, warnings: Vec::new() }
    }

    /// Replaces the warnings for the report, and adds one if variables are wanted, which only an image locates.
    pub fn without_image(self, variables: bool, mut warnings: Vec<String>) -> Self {
        if variables {
            warnings.push(NO_VARIABLES_WITHOUT_IMAGE.into());
        }
        Self { warnings, ..self }
    }

    fn with_variables(mut self, wanted: bool) -> Self {
        let found = self.image.filter(|_| wanted).map(WithVariables::new).transpose();
        match found {
            Ok(found) => self.with_variables = found,
            Err(reason) => self.warnings.push(reason.to_string()),
        }
        self
    }

    fn symbols(&self) -> Option<&dyn KernelSymbols> {
        self.kernel.symbols(self.image.map(|image| image as &dyn KernelSymbols))
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
        let stopped = StoppedGuest::stop(target, &*self.kernel, None, bounds);
        if let Reading::Unreadable { unreadable } = &stopped.kernel {
            self.warnings
                .push(format!("the kernel's tasks, locks and log are unknown: {unreadable}"));
        }
        let found = Some(observe::find_recorded_hangs(target, &stopped, Duration::ZERO));
        let unwound_by = match &self.with_variables {
            Some(with_variables) => Some(with_variables as &dyn KernelSymbols),
            None => self.symbols(),
        };
        let request = CaptureRequest {
            trigger,
            at: Duration::ZERO,
            found,
            nmis: false,
            symbols: unwound_by,
            core,
            sampling: None,
        };
        let (capture, core) = stopped.capture(target, request);
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
        path: Option<PathBuf>,
    ) -> Report {
        let symbols = self.symbols();
        let resolver = Resolver::new(symbols, SourceRoots::new(source_roots()));
        let resolver = resolver.with_vocabulary(self.kernel.vocabulary());
        let Diagnosis { backtrace, hangs } = diagnosis::diagnose(capture, Some(0), &resolver);
        let panicking = capture.kernel.known().and_then(|kernel| kernel.panicking);
        let message = panicking.and_then(|_| self.panic_message(capture));
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
                path: path.map(|path| path.to_string_lossy().into_owned()),
                build_id: self.image.and_then(Image::build_id).map(hex),
                initrd: None,
                command_line: String::new(),
                kernel: kernel_in_report(Some(&*self.kernel)),
            },
            machine: Machine { vcpus: capture.cpus.len() as u32, memory_bytes },
            ready_after_ms: None,
            outcome: Outcome::Observed { panicking, message },
            hangs,
            backtraces: vec![backtrace],
            warnings: self.warnings,
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
