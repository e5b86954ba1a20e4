//! A visit to a VM that runs in a QEMU of somebody else's.
//!
//! Owns the order of the steps, which is that of least harm: everything that needs no stop comes before
//! it, a rehearsal of the capture too, so that symbols are looked up and memory is mapped when the guest
//! stands still. Then one stop, one capture, and the guest goes on; the report is made afterwards. What
//! cannot be stopped is captured as it runs, and the report says so. Called by the CLI.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use nmiscope_qemu::{Address, Cpu, Deadlines, Error, ProcessMemory, Qemu, Readiness, Released};
use nmiscope_report::{Report, Source, Trigger, Visit};

use super::origin::Origin;
use super::visit::{Taken, Visitor};
use super::which_image;
use crate::capture::store::Destination;
use crate::diagnosis::milliseconds;
use crate::errors::BadRequest;
use crate::targets::{Attached, Left, States, extents};

/// The VM to visit, and what is wanted of it.
#[derive(Debug)]
pub struct Options {
    /// The way to the VM.
    pub vm: Vm,
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
pub enum Vm {
    /// The path of its QMP socket.
    Socket(PathBuf),
    /// The number of its process.
    Process(i32),
}

/// The results of a visit.
#[derive(Debug)]
pub struct Visited {
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
pub fn attach(options: &Options, guardian: Command) -> anyhow::Result<Visited> {
    let mut qemu = open(&options.vm, options.longest_pause)?;
    let readiness = qemu.readiness().context(ATTACH)?;
    let states = states(qemu.states().context(ATTACH)?);
    let memory = qemu.memory().context(ATTACH)?;
    let runs = readiness == Readiness::Running;
    let mut running = Attached::as_it_is(memory, states.clone(), runs);
    let mut warnings = Vec::new();
    let image = options.image.as_deref();
    let found = which_image::open(&running, image, &options.debug_directory, &mut warnings)
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
    let process = qemu.process().pid();
    let Left { memory, .. } = running.leave();
    let memory_bytes = extents(&memory).bytes();
    let place = Place { options, states, process, was: run_state(&readiness) };
    let origin = Origin::here(SystemTime::now());
    let ((capture, core), visit) = place.visit(&mut qemu, memory, guardian, &mut visitor)?;
    let mut report =
        visitor.report(&capture, Source::Attached, origin, memory_bytes, path.flatten());
    report.visit = Some(visit);
    let core = core.map(|core| core?.finish(&report, 0, capture));
    Ok(Visited { report, core })
}

/// Every error here is of the attempt.
const ATTACH: &str = "failed to attach to the VM";

fn open(vm: &Vm, longest_pause: Duration) -> anyhow::Result<Qemu> {
    // The guardian steps in only where this process does not: stopped itself, for one.
    let pause = longest_pause * 2 + Duration::from_secs(1);
    let deadlines = Deadlines { pause, ..Deadlines::default() };
    match vm {
        Vm::Socket(path) => Qemu::open(&Address::from(path.as_path()), deadlines),
        Vm::Process(pid) => Qemu::open_pid(*pid, deadlines),
    }
    .context(ATTACH)
}

fn states(cpus: Vec<Cpu>) -> States {
    cpus.into_iter().map(|cpu| Ok(cpu.state)).collect()
}

fn run_state(readiness: &Readiness) -> String {
    match readiness {
        Readiness::Running => "running".into(),
        Readiness::Stopped(state) => state.name().into(),
    }
}

/// A VM just before its stop.
struct Place<'a> {
    options: &'a Options,
    /// The states that were read without a stop.
    states: States,
    process: i32,
    /// The run state before the visit.
    was: String,
}

impl Place<'_> {
    /// Stops the VM, takes the moment, and lets it go on.
    fn visit(
        self,
        qemu: &mut Qemu,
        memory: ProcessMemory,
        guardian: Command,
        visitor: &mut Visitor<'_>,
    ) -> anyhow::Result<(Taken, Visit)> {
        let longest_pause = self.options.longest_pause;
        let mut torn = false;
        let mut target = match qemu.stop(guardian) {
            Ok(mut stopped) => {
                let states = stopped.qemu().states().map(states).unwrap_or_else(|error| {
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
            Err(error @ Error::Status(_)) => return Err(error).context(ATTACH),
            Err(error) => {
                visitor.warnings.push(not_stopped(&error));
                Attached::as_it_is(memory, self.states, true)
            }
        };
        let taken = visitor.capture(&mut target, Trigger::Attach, self.options.core.as_ref());
        let left = target.leave();
        let (released, mut torn) = (left.released, torn || left.torn);
        let stopped_ms = match &released {
            Some(Released::Resumed { pause, .. }) => Some(milliseconds(*pause)),
            _ => None,
        };
        match released {
            Some(Released::Resumed { expired, .. }) => torn |= expired,
            Some(Released::HandedOver { guardian, error }) => visitor.warnings.push(format!(
                "the guest may be stopped still: {}; process {guardian} lets it go on as soon as QEMU \
                 answers",
                crate::error_chain(&error)
            )),
            Some(Released::LeftStopped) | None => {}
        }
        let visit = Visit { pid: self.process, run_state: self.was, stopped_ms, torn };
        Ok((taken, visit))
    }
}

fn not_stopped(error: &Error) -> String {
    let reason = crate::error_chain(error);
    format!(
        "the guest was captured as it ran, with registers from a moment before: failed to {reason}"
    )
}
