//! `nmiscope attach`: a visit to a VM in another program's QEMU.
//!
//! Owns the order of the steps, which keeps the pause short: all work that needs no stop comes first,
//! including a rehearsal of the capture, which looks up symbols and maps memory. Then the guest is stopped
//! once, captured and resumed, and the report is made afterwards. A guest that cannot be stopped is captured
//! while it runs, and the report says so. Refuses to own the capture and the report (`visit`) and the search
//! for the image (`guest_image`). Called by the CLI.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use nmiscope_qemu::{
    Address, Deadlines, GuestMemory, ProcessHandle, Qemu, QemuError, Readiness, ReleaseOutcome,
    VcpuRegisters,
};
use nmiscope_report::{MemorySource, Report, Source, Trigger, Visit};

use super::guest_image::{GuestImages, ImageSearch};
use super::origin::Origin;
use super::stack_choice::StackChoice;
use super::visit::{CaptureWithCore, Visitor};
use crate::capture::store::{CoreDestination, UnfinishedCore};
use crate::diagnosis::milliseconds;
use crate::errors::BadRequest;
use crate::images::DebugSearch;
use crate::targets::{Attached, FinishedVisit, States, extents};

/// Options of an attach: the VM and the wanted results.
#[derive(Debug)]
pub struct AttachOptions {
    /// The VM to attach to.
    pub vm: VmSelector,
    /// Images of the guest's kernel and modules; those that are not named are searched for by build-id.
    pub images: Vec<PathBuf>,
    /// Places where separate debug files are looked for.
    pub debug: DebugSearch,
    /// Stacks that the report is to have.
    pub stacks: StackChoice,
    /// Longest time for which the guest is stopped.
    pub longest_pause: Duration,
    /// Core file to write; `None` for none.
    pub core: Option<CoreDestination>,
}

/// Selects a VM by the socket or the process of its QEMU.
#[derive(Debug)]
pub enum VmSelector {
    /// Path of the QMP socket.
    Socket(PathBuf),
    /// PID of the QEMU process.
    Process(i32),
}

/// Report and core of an attach.
#[derive(Debug)]
pub struct AttachResult {
    /// Report of the captured moment.
    pub report: Report,
    /// Core that lacks the report; `None` if no core was requested.
    pub core: Option<UnfinishedCore>,
}

/// Number of rehearsals before the capture.
const REHEARSALS: usize = 2;

/// Captures a VM and makes its report. `guardian` is a command that ends up in
/// [`nmiscope_qemu::hold::run`].
///
/// # Errors
/// The VM cannot be reached or may not be captured, its registers or memory cannot be read, or it runs
/// another image. The guest is not stopped in these cases.
pub fn attach(options: &AttachOptions, guardian: Command) -> anyhow::Result<AttachResult> {
    let mut qemu = open(&options.vm, options.longest_pause)?;
    let readiness = qemu.readiness().context(ATTACH)?;
    let states = vcpu_states(qemu.states().context(ATTACH)?);
    let memory = qemu.memory().context(ATTACH)?;
    let source = memory_source(&memory, options.core.as_ref())?;
    let runs = readiness == Readiness::Running;
    let mut running = Attached::without_stop(memory, states.clone(), runs);
    let search = ImageSearch { named: &options.images, debug: &options.debug };
    // The image of a kernel has tens of megabytes, which take half a minute through the monitor.
    let in_memory = source == MemorySource::Process;
    let images = GuestImages::open(&running, search, in_memory, Vec::new())
        .map_err(BadRequest::from_error)?;
    let mut visitor = images.visitor(options.stacks);
    let warnings = visitor.warnings.clone();
    for _ in 0..REHEARSALS {
        visitor.capture(&mut running, Trigger::Attach, None);
    }
    // The real capture repeats the warnings that still apply.
    visitor.warnings = warnings;
    let process = qemu.process().map(ProcessHandle::pid);
    let FinishedVisit { memory, .. } = running.finish();
    let memory_bytes = extents(&memory).bytes();
    let prepared =
        PreparedVisit { options, states, process, source, was: run_state_name(&readiness) };
    let origin = Origin::here(SystemTime::now());
    let ((capture, core), visit) = prepared.visit(&mut qemu, memory, guardian, &mut visitor)?;
    let mut report = visitor.report(&capture, Source::Attached, origin, memory_bytes);
    report.visit = Some(visit);
    options.debug.notes.add_to(&mut report.warnings);
    let core = core.map(|core| UnfinishedCore::new(core.map(|core| (core, capture)), 0));
    Ok(AttachResult { report, core })
}

/// Context of every error of an attach.
const ATTACH: &str = "failed to attach to the VM";

fn open(vm: &VmSelector, longest_pause: Duration) -> anyhow::Result<Qemu> {
    // The guardian resumes the guest only if this process does not, for example because it is stopped.
    let pause = longest_pause * 2 + Duration::from_secs(1);
    let deadlines = Deadlines { pause, ..Deadlines::default() };
    match vm {
        VmSelector::Socket(path) => Qemu::open(&Address::from(path.as_path()), deadlines),
        VmSelector::Process(pid) => Qemu::open_pid(*pid, deadlines),
    }
    .context(ATTACH)
}

/// Returns the source of the memory. A full core is refused through the monitor, which takes minutes per
/// gigabyte.
fn memory_source(
    memory: &GuestMemory,
    core: Option<&CoreDestination>,
) -> anyhow::Result<MemorySource> {
    match memory {
        GuestMemory::Process(_) => Ok(MemorySource::Process),
        GuestMemory::Monitor(_) if core.is_some_and(CoreDestination::is_full) => {
            Err(BadRequest::from_error(anyhow!(
                "the memory of QEMU's process may not be read, and its monitor is too slow for a core of \
                 --core-size full: run this as root, or let QEMU write a dump (dump-guest-memory, or \
                 virsh dump --memory-only) and open it with nmiscope report",
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

/// A VM just before its stop, with the results of the preceding steps.
struct PreparedVisit<'a> {
    options: &'a AttachOptions,
    /// States of the vCPUs, read before the stop.
    states: States,
    process: Option<i32>,
    source: MemorySource,
    /// QEMU's name of the run state before the visit.
    was: String,
}

impl PreparedVisit<'_> {
    /// Stops the VM, captures it, and resumes it.
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
            // A migration, snapshot or dump has begun since the first query.
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
                "the guest may still be stopped: {}; process {guardian} resumes it as soon as QEMU \
                 answers",
                crate::error_chain(&error)
            )),
            Some(ReleaseOutcome::LeftStopped) | None => {}
        }
        let visit =
            Visit { pid: self.process, memory: self.source, run_state: self.was, stopped_ms, torn };
        Ok((taken, visit))
    }
}

fn not_stopped_warning(error: &QemuError) -> String {
    let reason = crate::error_chain(error);
    format!(
        "the guest was captured while it ran, with registers from a moment before: failed to {reason}"
    )
}
