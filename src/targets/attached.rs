//! A VM that somebody else's QEMU runs, while it is visited.
//!
//! Owns that the pause is bounded: memory that is asked for after the longest pause lets the guest go on
//! first, and counts as torn. Refuses to own the connection (`nmiscope_qemu`) and the order of a visit
//! (`session`). It has no powers: whoever visits stops the VM before, and writes nothing into it.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};
use nmiscope_qemu::{GuestMemory, ReleaseOutcome, StoppedVm};

use super::{NoAnswer, States, Target};
use crate::elf_core::Extents;

/// A visited VM as a target.
#[derive(Debug)]
pub struct Attached<'q> {
    memory: GuestMemory,
    states: States,
    /// There is one while the VM is stopped for this visit.
    stopped: RefCell<Option<StoppedVm<'q>>>,
    longest_pause: Duration,
    released: RefCell<Option<ReleaseOutcome>>,
    torn: Cell<bool>,
}

/// The remains of a visit.
#[derive(Debug)]
pub struct FinishedVisit {
    /// The memory, for another visit.
    pub memory: GuestMemory,
    /// How the VM was let go on; `None` for one that was not stopped for this visit.
    pub released: Option<ReleaseOutcome>,
    /// True where some memory was read while the VM ran.
    pub torn: bool,
}

impl<'q> Attached<'q> {
    /// A VM that runs, or that somebody else has stopped.
    pub fn without_stop(memory: GuestMemory, states: States, runs: bool) -> Self {
        Self::new(memory, states, None, Duration::MAX, runs)
    }

    /// A VM that was stopped for this visit, and goes on after the longest pause at the latest.
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
        // What an earlier look has read is of another moment.
        memory.refresh();
        let (stopped, released, torn) =
            (RefCell::new(stopped), RefCell::default(), Cell::new(torn));
        Self { memory, states, stopped, longest_pause, released, torn }
    }

    /// Ends the visit: lets the VM go on, if that has not been done.
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

/// The guest-physical memory of a VM.
pub fn extents(memory: &GuestMemory) -> Extents {
    let mut extents = Extents::new();
    for range in memory.ranges() {
        extents.insert(range.start, range.length);
    }
    extents
}
