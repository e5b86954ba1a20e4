//! Stopped guest: its vCPUs' states, the places of its kernel's structures, and the kernel's state.
//!
//! Owns the first half of a capture, which is enough to judge the guest; refuses to own the rest, which
//! the other modules take.

use std::time::{Duration, Instant};

use nmiscope_machine::{PhysicalMemory, VcpuState};

use super::host_stack::{self, Stacks};
use crate::kernel::{
    Depth, KernelAdapter, KernelSymbols, LocateError, Located, Log, LogError, Reading,
};
use crate::targets::{PageSet, ReadRecorder, States, Target};

/// Timeouts of a capture's steps.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// The longest wait for a client inside the guest to release the buffers.
    pub reservation: Duration,
    /// The longest wait for the vCPUs to stop.
    pub pause: Duration,
    /// The longest wait for all NMI handlers together.
    pub handlers: Duration,
}

impl Timeouts {
    /// Makes the timeouts for that many vCPUs. Only `handlers` grows with them, by a hundred times a
    /// handler's time for each, since they may all share one core.
    pub fn for_vcpus(vcpus: u32) -> Self {
        Self {
            reservation: Duration::from_secs(1),
            pause: Duration::from_secs(2),
            handlers: Duration::from_secs(1) + Duration::from_millis(10) * vcpus,
        }
    }

    /// Returns the longest wall time of a capture's waits. `handlers` counts the vCPUs' own time, so that
    /// their wall time is bounded by a multiple of it ([`Vm::run_nmi`](nmiscope_vmm::Vm::run_nmi)).
    /// The guest is stopped again after its samples.
    #[cfg(feature = "kvm")]
    pub fn longest_capture(self) -> Duration {
        use nmiscope_vmm::Vm;
        self.reservation + self.pause * 2 + self.handlers * Vm::NMI_PATIENCE + Vm::ANSWER_DEADLINE
    }
}

/// Guest that is stopped and has not been sent NMIs: the moment of a backtrace. Handlers write to the
/// guest's memory afterwards.
#[derive(Debug)]
pub struct StoppedGuest {
    /// The states of the vCPUs, by number.
    pub states: States,
    /// The places of the kernel's structures, or the reason why they were not found.
    pub located: Result<Box<dyn Located>, LocateError>,
    /// The kernel's state, as far as it can be read.
    pub kernel: Reading,
    /// The pages that all this was read from.
    pub(super) pages: PageSet,
    pub(super) bounds: Timeouts,
    /// The depth to which the kernel's state is read.
    depth: Depth,
}

impl StoppedGuest {
    /// Stops all vCPUs if the target can; otherwise they are read as they are. If registers do not lead
    /// to the kernel's structures, its state is read at the `known` places: a vCPU that the host does not
    /// run gives none.
    pub fn stop(
        target: &mut dyn Target,
        kernel: &dyn KernelAdapter,
        known: Option<&dyn Located>,
        bounds: Timeouts,
    ) -> Self {
        Self::stop_and_read(target, kernel, known, bounds, Depth::Stuck)
    }

    /// Stops a guest as [`stop`](Self::stop) does, and reads its kernel's state to a depth of the caller's choice.
    pub fn stop_and_read(
        target: &mut dyn Target,
        kernel: &dyn KernelAdapter,
        known: Option<&dyn Located>,
        bounds: Timeouts,
        depth: Depth,
    ) -> Self {
        let mut step = StepTimer::start();
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
        let mut stopped = Self { states, located, kernel: Reading::Unknown, pages, bounds, depth };
        stopped.read_kernel(target, known);
        step.done("found the kernel's structures");
        stopped
    }

    /// Reads the kernel's state at the places that were found, or else at the `known` ones.
    fn read_kernel(&mut self, memory: &dyn PhysicalMemory, known: Option<&dyn Located>) {
        let recorder = ReadRecorder::new(memory);
        let registers = |state: &Result<VcpuState, _>| Some(state.as_ref().ok()?.registers);
        let vcpus: Vec<_> = self.states.iter().map(registers).collect();
        let state = |located: &dyn Located| located.state(&recorder, &vcpus, self.depth);
        self.kernel = match (&self.located, known) {
            (Ok(located), _) => Reading::from_result(state(&**located)),
            (Err(LocateError::UnknownKernel(_)), _) => Reading::Unknown,
            (Err(_), Some(known)) => Reading::from_result(state(known)),
            (Err(reason), None) => Reading::from_result(Err(reason.clone())),
        };
        self.pages.extend(recorder.into_pages());
    }

    /// Stops a guest that was resumed. The places of its kernel are unchanged.
    pub(super) fn stop_again(&mut self, target: &mut dyn Target) {
        self.states = pause(target, self.bounds);
        self.read_kernel(target, None);
    }

    /// Reads the kernel's log; `None` for a kernel that has none in memory, or was not found.
    pub fn read_log(&mut self, memory: &dyn PhysicalMemory) -> Option<Result<Log, LogError>> {
        let recorder = ReadRecorder::new(memory);
        let log = self.located.as_ref().ok()?.log(&recorder);
        self.pages.extend(recorder.into_pages());
        log
    }

    /// Unwinds the stacks of all vCPUs and of all tasks that do not run.
    pub(super) fn unwind(
        &mut self,
        memory: &dyn PhysicalMemory,
        symbols: Option<&dyn KernelSymbols>,
    ) -> Stacks {
        let recorder = ReadRecorder::new(memory);
        let stacks = host_stack::unwind_all(self.kernel.known(), &self.states, symbols, &recorder);
        self.pages.extend(recorder.into_pages());
        stacks
    }
}

/// Stops the vCPUs. One that does not stop has no state; the others do.
fn pause(target: &mut dyn Target, bounds: Timeouts) -> States {
    match target.pausing() {
        Ok(pausing) => pausing.pause(bounds.pause),
        // The guest is stopped for good, or keeps running and is read while it runs.
        Err(_) => target.states(&Vec::from_iter(0..target.vcpus()), bounds.pause),
    }
}

/// Timer of a capture's steps, logged with -vv.
pub(super) struct StepTimer(Instant);

impl StepTimer {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn done(&mut self, what: &str) {
        tracing::debug!(elapsed = ?self.0.elapsed(), "{what}");
        self.0 = Instant::now();
    }
}
