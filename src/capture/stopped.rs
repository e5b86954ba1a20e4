//! A guest that stands still: its vCPUs' states, where its kernel is, and what the kernel was doing.
//!
//! Owns the first half of a capture, which is enough to judge the guest by; what is taken of it besides
//! is the other modules'.

use std::time::{Duration, Instant};

use nmiscope_machine::PhysicalMemory;

use super::host_stack::{self, HostStack};
use crate::kernel::{Depth, Kernel, LocateError, Located, Log, LogError, Reading, Symbols};
use crate::targets::{PageSet, ReadRecorder, States, Target};

/// How long each step of a capture may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// For a client inside the guest to give the buffers back.
    pub reservation: Duration,
    /// For the vCPUs to stop.
    pub pause: Duration,
    /// For the NMI handlers, all of them together.
    pub handlers: Duration,
}

impl Bounds {
    /// The bounds for a guest with that many vCPUs: a handler's time, a hundred times over, for each,
    /// since they may all share one core.
    pub fn for_vcpus(vcpus: u32) -> Self {
        Self {
            reservation: Duration::from_secs(1),
            pause: Duration::from_secs(2),
            handlers: Duration::from_secs(1) + Duration::from_millis(10) * vcpus,
        }
    }
}

/// A guest that stands still, before its NMIs. The moment that a backtrace is of: from there on the
/// handlers write to the guest's memory.
#[derive(Debug)]
pub struct Stopped {
    /// The states of the vCPUs, by number.
    pub states: States,
    /// The places of the kernel's structures, or why they are not known.
    pub located: Result<Box<dyn Located>, LocateError>,
    /// The kernel's state.
    pub kernel: Reading,
    /// The memory that all this was read from.
    pub(super) pages: PageSet,
    pub(super) bounds: Bounds,
}

impl Stopped {
    /// Stops all vCPUs, where they can be stopped; otherwise they are taken as they are. Where no
    /// registers lead to the kernel's structures, its state is read at the places that are `known`: a
    /// host that runs none of the vCPUs gives no registers.
    pub fn stop(
        target: &mut dyn Target,
        kernel: &dyn Kernel,
        known: Option<&dyn Located>,
        bounds: Bounds,
    ) -> Self {
        let mut step = Steps::start();
        let states = pause(target, bounds);
        step.done("stopped the vCPUs and read their registers");
        let mut registers = states.iter().map(|state| match state {
            Ok(state) => Ok(state.registers),
            Err(reason) => Err(reason.clone()),
        });
        let memory: &dyn PhysicalMemory = target;
        let recorder = ReadRecorder::new(memory);
        let located = kernel.locate(&recorder, &mut registers);
        let pages = recorder.into_pages();
        let mut stopped = Self { states, located, kernel: Reading::Unknown, pages, bounds };
        stopped.read_kernel(target, known);
        step.done("found the kernel's structures");
        stopped
    }

    /// Reads the kernel's state at the places that were found, or else at those that are `known`.
    fn read_kernel(&mut self, memory: &dyn PhysicalMemory, known: Option<&dyn Located>) {
        let recorder = ReadRecorder::new(memory);
        self.kernel = match (&self.located, known) {
            (Ok(located), _) => Reading::of(located.state(&recorder, Depth::All)),
            (Err(LocateError::UnknownKernel(_)), _) => Reading::Unknown,
            (Err(_), Some(known)) => Reading::of(known.state(&recorder, Depth::All)),
            (Err(reason), None) => Reading::of(Err(reason.clone())),
        };
        self.pages.extend(recorder.into_pages());
    }

    /// Stops a guest again that has run on. The places of its kernel are still the same.
    pub(super) fn stop_again(&mut self, target: &mut dyn Target) {
        self.states = pause(target, self.bounds);
        self.read_kernel(target, None);
    }

    /// The kernel's log; `None` for a kernel that has none in memory, or was not found.
    pub fn read_log(&mut self, memory: &dyn PhysicalMemory) -> Option<Result<Log, LogError>> {
        let recorder = ReadRecorder::new(memory);
        let log = self.located.as_ref().ok()?.log(&recorder);
        self.pages.extend(recorder.into_pages());
        log
    }

    /// The stacks of all vCPUs and of all tasks that do not run, by number.
    pub(super) fn unwind(
        &mut self,
        memory: &dyn PhysicalMemory,
        symbols: Option<&dyn Symbols>,
    ) -> (Vec<Option<HostStack>>, Vec<Option<HostStack>>) {
        let recorder = ReadRecorder::new(memory);
        let states = self.states.iter();
        let cpus = states.map(|state| host_stack::of_vcpu(state, symbols, &recorder)).collect();
        let tasks = host_stack::of_tasks(self.kernel.known(), &self.states, symbols, &recorder);
        self.pages.extend(recorder.into_pages());
        (cpus, tasks)
    }
}

/// Stops the vCPUs. One that does not stop has no state, and the others are dealt with.
fn pause(target: &mut dyn Target, bounds: Bounds) -> States {
    match target.pausing() {
        Ok(pausing) => pausing.pause(bounds.pause),
        // It stands still, or runs on and is seen as it goes.
        Err(_) => target.states(&Vec::from_iter(0..target.vcpus()), bounds.pause),
    }
}

/// The time that each step of a capture takes, for those who ask with -vv.
pub(super) struct Steps(Instant);

impl Steps {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn done(&mut self, what: &str) {
        tracing::debug!(elapsed = ?self.0.elapsed(), "{what}");
        self.0 = Instant::now();
    }
}
