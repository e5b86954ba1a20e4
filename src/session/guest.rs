//! The guest of a live session: its image's files, and the kernel recognised in them.
//!
//! Owns the moment at which the image is examined: on the first request, which for a bundled guest comes
//! after it has started. Called by `live` and `watch`.

use std::path::Path;
use std::time::{Duration, Instant};

use nmiscope_report as report;

use super::options::RunOptions;
use super::visit::kernel_in_report;
use crate::images::{Files, hex};
use crate::kernel::{self, KernelAdapter, LocateError, Located, Vocabulary};
use crate::targets::{NoAnswer, Target};

/// Time that all vCPUs have together to return their registers. It is short: the next observation tries
/// again, and the guest is not observed during the wait.
const ANSWER: Duration = Duration::from_millis(500);

/// The image of a live session's guest, read and examined on the first request.
pub struct Guest<'a> {
    files: Files,
    kernel: Option<Box<dyn KernelAdapter>>,
    options: &'a RunOptions,
}

impl<'a> Guest<'a> {
    pub fn new(files: Files, options: &'a RunOptions) -> Self {
        Self { files, kernel: None, options }
    }

    /// Returns the guest's kernel and its files, with the separate debug file if there is one. The first
    /// call reads the image.
    pub fn examine(&mut self) -> (&dyn KernelAdapter, &Files) {
        let Self { files, kernel, options } = self;
        let kernel = kernel.get_or_insert_with(|| {
            files.find_debug_files(options.image.as_deref(), &options.debug);
            match files.parse() {
                Ok(image) => kernel::recognise(&image),
                Err(error) => kernel::unknown(crate::error_chain(&error)),
            }
        });
        (&**kernel, files)
    }

    /// Returns true if the kernel's structures are known. Does not read the bundled image.
    pub fn is_known(&mut self) -> bool {
        self.options.image.is_none() || self.examine().0.unknown_because().is_none()
    }

    /// Returns the vocabulary of the kernel's codes and messages. Does not read the bundled image.
    pub fn vocabulary(&mut self) -> &dyn Vocabulary {
        match self.options.image {
            None => kernel::bundled_vocabulary(),
            Some(_) => self.examine().0.vocabulary(),
        }
    }

    /// Returns the reason why the kernel is unknown; empty for a known one.
    pub fn unknown_because(&mut self) -> &str {
        self.examine().0.unknown_because().unwrap_or_default()
    }

    /// Locates the kernel's structures in a running VM, by the registers of vCPUs, which are interrupted
    /// for a moment.
    ///
    /// # Errors
    /// No vCPU answers in time, or none of their registers leads to the structures.
    pub fn locate(&mut self, target: &dyn Target) -> Result<Box<dyn Located>, LocateError> {
        let started = Instant::now();
        let mut registers = (0..target.vcpus()).map(|cpu| {
            let left = ANSWER.saturating_sub(started.elapsed());
            let state = target.states(&[cpu], left).pop();
            Ok(state.unwrap_or(Err(NoAnswer::NoSuchVcpu(cpu)))?.registers)
        });
        self.examine().0.locate(target, &mut registers)
    }

    /// Returns the report's description of the image.
    pub fn report(&self) -> report::GuestImage {
        let build_id = self.files.parse().ok().and_then(|image| image.build_id().map(hex));
        report::GuestImage {
            path: self.options.image.as_deref().map(show_path),
            build_id,
            initrd: self.options.initrd.as_deref().map(show_path),
            command_line: self.options.command_line.clone(),
            kernel: kernel_in_report(self.kernel.as_deref()),
        }
    }
}

fn show_path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
