//! A visit to a guest that somebody else started: one capture, and the report of it.
//!
//! Owns what a dump and a running VM have in common: the capture by the code of every other target, the
//! hangs of that one moment, and the report around them. Refuses to own how the target was opened and
//! whether it goes on (`dump`, `attach`), and which image it runs (`which_image`).

use std::path::PathBuf;
use std::time::Duration;

use nmiscope_report::{
    self as report, Machine, Outcome, Report, SCHEMA_VERSION, Source, Tool, Trigger, summary,
};
use nmiscope_symbolizer::{Image, SourceRoots};

use super::observe;
use super::origin::Origin;
use crate::capture::store::{Destination, Pending};
use crate::capture::{Bounds, Capture, Request, Stopped};
use crate::diagnosis::{self, Diagnosis, Resolver};
use crate::images::{hex, source_roots};
use crate::kernel::{self, Kernel, Reading, Symbols, WithVariables};
use crate::targets::Target;

/// The knowledge of a guest before it is looked at. It takes a while to make, and no guest waits for it.
pub struct Visitor<'i> {
    image: Option<&'i Image<'i>>,
    kernel: Box<dyn Kernel>,
    with_variables: Option<WithVariables<'i>>,
    /// Warnings for the report.
    pub warnings: Vec<String>,
}

/// A capture of one moment; and the core of it, if one was wanted.
pub type Taken = (Capture, Option<anyhow::Result<Pending>>);

impl<'i> Visitor<'i> {
    /// Recognises the kernel in the image, if there is one. `warnings` are those that there are already.
    pub fn new(image: Option<&'i Image<'i>>, variables: bool, warnings: Vec<String>) -> Self {
        let kernel = match image {
            Some(image) => kernel::recognise(image),
            None => kernel::unknown("there is no image to recognise it by".into()),
        };
        Self { image, warnings, ..Self::of_kernel(kernel) }.with_variables(variables)
    }

    /// A visitor who knows the kernel, which needs no image.
    pub fn of_kernel(kernel: Box<dyn Kernel>) -> Self {
        Self { image: None, kernel, with_variables: None, warnings: Vec::new() }
    }

    fn with_variables(mut self, wanted: bool) -> Self {
        let found = self.image.filter(|_| wanted).map(WithVariables::new).transpose();
        match found {
            Ok(found) => self.with_variables = found,
            Err(reason) => self.warnings.push(reason.to_string()),
        }
        self
    }

    fn symbols(&self) -> Option<&dyn Symbols> {
        self.kernel.symbols(self.image.map(|image| image as &dyn Symbols))
    }

    /// Takes the moment of a target that stands still.
    pub fn capture(
        &mut self,
        target: &mut dyn Target,
        trigger: Trigger,
        core: Option<&Destination>,
    ) -> Taken {
        let bounds = Bounds::for_vcpus(target.vcpus());
        let stopped = Stopped::stop(target, &*self.kernel, None, bounds);
        if let Reading::Unreadable { unreadable } = &stopped.kernel {
            self.warnings
                .push(format!("the kernel's tasks, locks and log are not known: {unreadable}"));
        }
        let found = Some(observe::of_records(target, &stopped, Duration::ZERO));
        let unwound_by = match &self.with_variables {
            Some(with_variables) => Some(with_variables as &dyn Symbols),
            None => self.symbols(),
        };
        let request = Request {
            trigger,
            at: Duration::ZERO,
            found,
            nmis: false,
            symbols: unwound_by,
            core,
            sampling: None,
        };
        let (capture, core) = stopped.capture(target, request);
        // The time is not the tool's, and one moment is to give one report.
        (Capture { elapsed: Duration::ZERO, ..capture }, core)
    }

    fn panic_message(&self, capture: &Capture) -> Option<String> {
        let log = capture.log.as_ref()?.as_ref().ok()?;
        let lines: Vec<String> = log.records.iter().map(|record| record.text.clone()).collect();
        self.kernel.vocabulary().panic_message(&lines)
    }

    /// Returns the report of a capture.
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
        let resolver = resolver.with_words(self.kernel.vocabulary());
        let Diagnosis { backtrace, hangs } = diagnosis::diagnose(capture, Some(0), &resolver);
        let panicking = capture.kernel.known().and_then(|kernel| kernel.panicking);
        let message = panicking.and_then(|_| self.panic_message(capture));
        let mut report = Report {
            schema_version: SCHEMA_VERSION,
            summary: String::new(),
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
        report.summary = summary::of_report(&report);
        report
    }
}

/// The kernel as a report has it; `None` where nobody has looked.
pub fn kernel_in_report(kernel: Option<&dyn Kernel>) -> report::GuestKernel {
    let Some(kernel) = kernel else { return report::GuestKernel::NotExamined };
    match (kernel.unknown_because(), kernel.name()) {
        (Some(reason), _) => report::GuestKernel::Unknown { reason: reason.into() },
        (None, Some(name)) => report::GuestKernel::Known { name },
        (None, None) => report::GuestKernel::Bundled,
    }
}
