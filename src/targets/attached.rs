//! A target for a VM in another program's QEMU, during a visit.
//!
//! Owns the bound on the pause: the first read after the longest pause resumes the guest, and marks the
//! memory as torn. Refuses to own the connection (`nmiscope_qemu`) and the order of a visit (`session`, the
//! caller). The target has no powers: the caller stops the VM beforehand, and nothing is written into it.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};
use nmiscope_qemu::{GuestMemory, ReleaseOutcome, StoppedVm};

use super::{NoAnswer, States, Target};
use crate::elf_core::Extents;

/// A VM in another program's QEMU, as a target.
#[derive(Debug)]
pub struct Attached<'q> {
    memory: GuestMemory,
    states: States,
    /// The stop of this visit; `None` if the VM was not stopped for it, or runs again.
    stopped: RefCell<Option<StoppedVm<'q>>>,
    longest_pause: Duration,
    released: RefCell<Option<ReleaseOutcome>>,
    torn: Cell<bool>,
}

/// Results of a finished visit.
#[derive(Debug)]
pub struct FinishedVisit {
    /// The guest's memory, for use by another visit.
    pub memory: GuestMemory,
    /// Outcome of resuming the VM; `None` if the VM was not stopped for this visit.
    pub released: Option<ReleaseOutcome>,
    /// True if some memory was read while the VM ran.
    pub torn: bool,
}

impl<'q> Attached<'q> {
    /// Creates a target without stopping the VM, which runs (`runs`) or was stopped before.
    pub fn without_stop(memory: GuestMemory, states: States, runs: bool) -> Self {
        Self::new(memory, states, None, Duration::MAX, runs)
    }

    /// Creates a target from a VM stopped for this visit; the first read after `longest_pause` resumes it.
    pub fn stopped(
        memory: GuestMemory,
        states: States,
        stopped: StoppedVm<'q>,
        longest_pause: Duration,
    ) -> Self {
        Self::new(memory, states, Some(stopped), longest_pause, false)
    }

    fn new(
        memory: GuestMemory,
        states: States,
        stopped: Option<StoppedVm<'q>>,
        longest_pause: Duration,
        torn: bool,
    ) -> Self {
        // Cached data of an earlier visit is outdated.
        memory.refresh();
        let (stopped, released, torn) =
            (RefCell::new(stopped), RefCell::default(), Cell::new(torn));
        Self { memory, states, stopped, longest_pause, released, torn }
    }

    /// Ends the visit: resumes the VM, unless it was resumed before.
    pub fn finish(self) -> FinishedVisit {
        let Self { memory, stopped, released, torn, .. } = self;
        let released = match stopped.into_inner() {
            Some(stopped) => Some(stopped.release()),
            None => released.into_inner(),
        };
        FinishedVisit { memory, released, torn: torn.get() }
    }

    fn resume_if_expired(&self) {
        let mut stopped = self.stopped.borrow_mut();
        let has_expired = |stopped: &mut StoppedVm<'_>| {
            stopped.must_resume() && stopped.elapsed() >= self.longest_pause
        };
        if let Some(expired) = stopped.take_if(has_expired) {
            *self.released.borrow_mut() = Some(expired.release());
            self.torn.set(true);
        }
    }
}

impl PhysicalMemory for Attached<'_> {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.resume_if_expired();
        self.memory.read(address, buffer)
    }
}

impl Target for Attached<'_> {
    fn vcpus(&self) -> u32 {
        self.states.len() as u32
    }

    fn states(&self, cpus: &[u32], _deadline: Duration) -> States {
        let state = |&cpu: &u32| {
            let state = self.states.get(cpu as usize).cloned();
            state.unwrap_or(Err(NoAnswer::NoSuchVcpu(cpu)))
        };
        cpus.iter().map(state).collect()
    }

    fn extents(&self) -> Extents {
        extents(&self.memory)
    }
}

/// Returns the ranges of a VM's guest-physical memory.
pub fn extents(memory: &GuestMemory) -> Extents {
    let mut extents = Extents::new();
    for range in memory.ranges() {
        extents.insert(range.start, range.length);
    }
    extents
}
