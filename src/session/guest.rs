//! What runs, understood as far as it is needed: the image's files, and which kernel it is.
//!
//! Owns that nothing is read before somebody asks, which for a guest that behaves is after it has
//! started, or never.

use std::path::Path;
use std::time::{Duration, Instant};

use nmiscope_report as report;

use super::options::Options;
use super::visit::kernel_in_report;
use crate::images::{Files, hex};
use crate::kernel::{self, Kernel, LocateError, Located, Vocabulary};
use crate::targets::{NoAnswer, Target};

/// The time that all vCPUs have together to say what their registers are. It is short: the next look is
/// another try, and a guest is not watched while it is waited for.
const ANSWER: Duration = Duration::from_millis(500);

pub struct Guest<'a> {
    files: Files,
    kernel: Option<Box<dyn Kernel>>,
    options: &'a Options,
}

impl<'a> Guest<'a> {
    pub fn new(files: Files, options: &'a Options) -> Self {
        Self { files, kernel: None, options }
    }

    /// Its kernel and its files, with the separate debug file if there is one.
    pub fn examine(&mut self) -> (&dyn Kernel, &Files) {
        let Self { files, kernel, options } = self;
        let kernel = kernel.get_or_insert_with(|| {
            files.find_debug_file(options.image.as_deref(), &options.debug_directory);
            match files.parse() {
                Ok(image) => kernel::recognise(&image),
                Err(error) => kernel::unknown(crate::error_chain(&error)),
            }
        });
        (&**kernel, files)
    }

    /// Whether its structures are known: without a look for the bundled one.
    pub fn is_known(&mut self) -> bool {
        self.options.image.is_none() || self.examine().0.unknown_because().is_none()
    }

    /// What its words mean: without a look for the bundled one.
    pub fn vocabulary(&mut self) -> &dyn Vocabulary {
        match self.options.image {
            None => kernel::bundled_words(),
            Some(_) => self.examine().0.vocabulary(),
        }
    }

    /// Why its structures are not known, if they are not.
    pub fn unknown_because(&mut self) -> &str {
        self.examine().0.unknown_because().unwrap_or_default()
    }

    /// Finds its structures in a VM that runs: stops a vCPU for a moment.
    pub fn locate(&mut self, target: &dyn Target) -> Result<Box<dyn Located>, LocateError> {
        let started = Instant::now();
        let mut registers = (0..target.vcpus()).map(|cpu| {
            let left = ANSWER.saturating_sub(started.elapsed());
            let state = target.states(&[cpu], left).pop();
            Ok(state.unwrap_or(Err(NoAnswer::NoSuchVcpu(cpu)))?.registers)
        });
        self.examine().0.locate(target, &mut registers)
    }

    /// What a report says of it.
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
