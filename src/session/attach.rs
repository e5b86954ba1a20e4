//! A visit to a VM that runs in a QEMU of somebody else's.
//!
//! Owns the order of the steps, which is that of least harm: everything that needs no stop comes before
//! it, a rehearsal of the capture too, so that symbols are looked up and memory is mapped when the guest
//! stands still. Then one stop, one capture, and the guest goes on; the report is made afterwards. What
//! cannot be stopped is captured as it runs, and the report says so. Called by the CLI.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nmiscope_qemu::{
    Address, Deadlines, GuestMemory, ProcessHandle, Qemu, QemuError, Readiness, ReleaseOutcome,
    VcpuRegisters,
};
use nmiscope_report::{MemorySource, Report, Source, Trigger, Visit};

use super::guest_image;
use super::visit::{CaptureWithCore, Visitor};
use crate::capture::store::Destination;
use crate::diagnosis::milliseconds;
use crate::errors::BadRequest;
use crate::targets::{Attached, FinishedVisit, States, extents};

/// The VM to visit, and what is wanted of it.
#[derive(Debug)]
pub struct AttachOptions {
    /// The way to the VM.
    pub vm: VmSelector,
    /// The image that runs in it; `None` for the one that is found.
    pub image: Option<PathBuf>,
    /// The directory of separate debug files.
    pub debug_directory: PathBuf,
    /// True to read arguments and locals.
    pub variables: bool,
    /// The longest time that the guest stands still.
    pub longest_pause: Duration,
    /// The core to write.
    pub core: Option<Destination>,
}

/// The way to a VM.
#[derive(Debug)]
pub enum VmSelector {
    /// The path of its QMP socket.
    Socket(PathBuf),
    /// The number of its process.
    Process(i32),
}

/// The results of a visit.
#[derive(Debug)]
pub struct AttachResult {
    /// The report.
    pub report: Report,
    /// The core, or why there is none; `None` if none was asked for.
    pub core: Option<anyhow::Result<PathBuf>>,
}

/// The number of times that the capture is rehearsed.
const REHEARSALS: usize = 2;

/// Visits a VM. `guardian` is a command that leads to [`nmiscope_qemu::hold::run`].
///
/// # Errors
/// The VM could not be reached, may not be captured, or its registers or memory cannot be read; or
/// the image is another one. The guest is not stopped then.
pub fn attach(options: &AttachOptions, guardian: Command) -> anyhow::Result<AttachResult> {
    let mut qemu = open(&options.vm, options.longest_pause)?;
    let readiness = qemu.readiness().context(ATTACH)?;
    let states = vcpu_states(qemu.states().context(ATTACH)?);
    let memory = qemu.memory().context(ATTACH)?;
    let source = memory_source(&memory, options.core.as_ref())?;
    let runs = readiness == Readiness::Running;
    let mut running = Attached::without_stop(memory, states.clone(), runs);
    let mut warnings = Vec::new();
    let image = options.image.as_deref();
    let found = guest_image::open(&running, image, &options.debug_directory, &mut warnings)
        .map_err(BadRequest::from_error)?;
    let (files, path) = found.unzip();
    let image = files.as_ref().and_then(|files| files.parse().ok());
    let mut visitor = Visitor::new(image.as_ref(), options.variables, warnings);
    let warnings = visitor.warnings.clone();
    for _ in 0..REHEARSALS {
        visitor.capture(&mut running, Trigger::Attach, None);
    }
    // The capture that counts gives them again, where they are still true.
    visitor.warnings = warnings;
    let process = qemu.process().map(ProcessHandle::pid);
    let FinishedVisit { memory, .. } = running.finish();
    let memory_bytes = extents(&memory).bytes();
    let prepared =
        PreparedVisit { options, states, process, source, was: run_state_name(&readiness) };
    let ((capture, core), visit) = prepared.visit(&mut qemu, memory, guardian, &mut visitor)?;
    let mut report = visitor.report(&capture, Source::Attached, memory_bytes, path.flatten());
    report.visit = Some(visit);
    let core = core.map(|core| core?.finish(&report, 0, capture));
    Ok(AttachResult { report, core })
}

/// Every error here is of the attempt.
const ATTACH: &str = "failed to attach to the VM";

fn open(vm: &VmSelector, longest_pause: Duration) -> anyhow::Result<Qemu> {
    // The guardian steps in only where this process does not: stopped itself, for one.
    let pause = longest_pause * 2 + Duration::from_secs(1);
    let deadlines = Deadlines { pause, ..Deadlines::default() };
    match vm {
        VmSelector::Socket(path) => Qemu::open(&Address::from(path.as_path()), deadlines),
        VmSelector::Process(pid) => Qemu::open_pid(*pid, deadlines),
    }
    .context(ATTACH)
}

/// The source of the memory. A whole memory is not read through the monitor: it would take minutes a
/// gigabyte.
fn memory_source(memory: &GuestMemory, core: Option<&Destination>) -> anyhow::Result<MemorySource> {
    match memory {
        GuestMemory::Process(_) => Ok(MemorySource::Process),
        GuestMemory::Monitor(_) if core.is_some_and(Destination::is_full) => {
            Err(BadRequest::from_error(anyhow!(
                "the memory of QEMU's process may not be read, and its monitor is too slow for a core of \
                 --core-size full: run this as root, or let QEMU write a dump (dump-guest-memory, or \
                 virsh dump --memory-only) and look at it by nmiscope report",
            )))
        }
        GuestMemory::Monitor(_) => Ok(MemorySource::Monitor),
    }
}

fn vcpu_states(cpus: Vec<VcpuRegisters>) -> States {
    cpus.into_iter().map(|cpu| Ok(cpu.state)).collect()
}

fn run_state_name(readiness: &Readiness) -> String {
    match readiness {
        Readiness::Running => "running".into(),
        Readiness::Stopped(state) => state.name().into(),
    }
}

/// A VM just before its stop.
struct PreparedVisit<'a> {
    options: &'a AttachOptions,
    /// The states that were read without a stop.
    states: States,
    process: Option<i32>,
    source: MemorySource,
    /// The run state before the visit.
    was: String,
}

impl PreparedVisit<'_> {
    /// Stops the VM, takes the moment, and lets it go on.
    fn visit(
        self,
        qemu: &mut Qemu,
        memory: GuestMemory,
        guardian: Command,
        visitor: &mut Visitor<'_>,
    ) -> anyhow::Result<(CaptureWithCore, Visit)> {
        let longest_pause = self.options.longest_pause;
        let mut torn = false;
        let mut target = match qemu.stop(guardian) {
            Ok(mut stopped) => {
                let states = stopped.qemu().states().map(vcpu_states).unwrap_or_else(|error| {
                    let reason = crate::error_chain(&error);
                    visitor.warnings.push(format!(
                        "the registers are those from before the stop: failed to {reason}"
                    ));
                    torn = true;
                    self.states
                });
                Attached::stopped(memory, states, stopped, longest_pause)
            }
            // Something began to work on the VM in between.
            Err(error @ QemuError::Status(_)) => return Err(error).context(ATTACH),
            Err(error) => {
                visitor.warnings.push(not_stopped_warning(&error));
                Attached::without_stop(memory, self.states, true)
            }
        };
        let taken = visitor.capture(&mut target, Trigger::Attach, self.options.core.as_ref());
        let finished = target.finish();
        let (released, mut torn) = (finished.released, torn || finished.torn);
        let stopped_ms = match &released {
            Some(ReleaseOutcome::Resumed { pause, .. }) => Some(milliseconds(*pause)),
            _ => None,
        };
        match released {
            Some(ReleaseOutcome::Resumed { expired, .. }) => torn |= expired,
            Some(ReleaseOutcome::HandedOver { guardian, error }) => visitor.warnings.push(format!(
                "the guest may be stopped still: {}; process {guardian} lets it go on as soon as QEMU \
                 answers",
                crate::error_chain(&error)
            )),
            Some(ReleaseOutcome::LeftStopped) | None => {}
        }
        let visit =
            Visit { process: self.process, memory: self.source, was: self.was, stopped_ms, torn };
        Ok((taken, visit))
    }
}

fn not_stopped_warning(error: &QemuError) -> String {
    let reason = crate::error_chain(error);
    format!(
        "the guest was captured as it ran, with registers from a moment before: failed to {reason}"
    )
}
