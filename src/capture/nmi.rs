//! The hypervisor as a client of the guest's NMI backtrace protocol.
//!
//! Stop the world, reserve the buffers, let each vCPU run its NMI handler and nothing else, read
//! and wipe the buffers, give them back. Each step has a bound, and one that fails leaves its reason
//! while the rest goes on. The VM is stopped at the end; whether it goes on is the caller's choice.

use std::thread;
use std::time::{Duration, Instant};

use nmiscope_machine::{
    GuestVirtual, PhysicalMemory, Registers, VcpuState, VirtualAddress, VirtualMemory,
};

use super::{Capture, CpuCapture, NmiCapture, Reservation};
use crate::kernel::{BufferOwner, Depth, Holder, Kernel, Located, NmiBuffers, Reading};
use crate::targets::{MissingPower, States, Target};

/// How long each step may take.
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
    /// What a guest with that many vCPUs can be given: a handler's time, a hundred times over, for
    /// each, since they may all share one core.
    pub fn for_vcpus(vcpus: u32) -> Self {
        Self {
            reservation: Duration::from_secs(1),
            pause: Duration::from_secs(2),
            handlers: Duration::from_secs(1) + Duration::from_millis(10) * vcpus,
        }
    }
}

/// A guest that stands still, before its NMIs. The moment that a backtrace is of: from here on the
/// handlers write to the guest's memory.
#[derive(Debug)]
pub struct Stopped {
    /// By vCPU number.
    pub states: States,
    /// Where the kernel's structures are, or why that is not known.
    pub places: Result<Box<dyn Located>, String>,
    /// What the kernel says of what it is doing.
    pub activity: Reading,
    bounds: Bounds,
}

impl Stopped {
    /// Stops all vCPUs, where they can be stopped; otherwise they are taken as they are. Where no
    /// registers lead to the kernel's structures, what it says of itself is read at the places that are
    /// `known`: a host that runs none of the vCPUs gives no registers.
    pub fn stop(
        target: &mut dyn Target,
        kernel: &dyn Kernel,
        known: Option<&dyn Located>,
        bounds: Bounds,
    ) -> Self {
        let mut step = Steps::start();
        let states = stop(target, bounds);
        step.done("stopped the vCPUs and read their registers");
        let mut registers = states.iter().map(|state| match state {
            Ok(state) => Ok(state.registers),
            Err(reason) => Err(reason.clone()),
        });
        let places = kernel.locate(target, &mut registers);
        let activity = match (&places, kernel.unknown_because()) {
            (Err(reason), None) => Reading::of(Err(reason.clone())),
            _ => Reading::Unknown,
        };
        let mut stopped = Self { states, places, activity, bounds };
        stopped.read_activity(target, known);
        step.done("found the kernel's structures");
        stopped
    }

    fn buffers(&self) -> Result<&dyn NmiBuffers, String> {
        let located = self.places.as_ref().map_err(String::clone)?;
        located.nmi_buffers().ok_or_else(|| "the kernel has no NMI buffers".into())
    }

    /// Reads the kernel's state at the places that were found, or else at those that are `known`.
    fn read_activity(&mut self, memory: &dyn PhysicalMemory, known: Option<&dyn Located>) {
        if let Some(places) = self.places.as_deref().ok().or(known) {
            let state = places.state(memory, Depth::All);
            self.activity = Reading::of(state.map_err(|error| crate::error_chain(&error)));
        }
    }

    /// Reserves the buffers, if they can be had. A guest in which somebody else has them is let run
    /// for it, and then the moment is a later one.
    pub fn reserve(mut self, target: &mut dyn Target) -> Reserved {
        let mut step = Steps::start();
        let reservation = match self.buffers() {
            Ok(buffers) => {
                let mut states = self.states.clone();
                let (reservation, ran) = reserve(target, buffers, self.bounds, &mut states);
                if ran {
                    self.states = states;
                    self.read_activity(target, None);
                }
                reservation
            }
            Err(reason) => Reservation::Unavailable { reason },
        };
        step.done("reserved the buffers");
        Reserved { stopped: self, reservation, nmis: true }
    }
}

/// A guest that stands still, with its buffers reserved, or not.
#[derive(Debug)]
pub struct Reserved {
    /// The moment.
    pub stopped: Stopped,
    reservation: Reservation,
    nmis: bool,
}

impl Stopped {
    /// Leaves the buffers to whoever has them: nobody is going to be sent an NMI.
    pub fn without_nmis(self) -> Reserved {
        let reason = "no NMIs were asked for".into();
        Reserved { stopped: self, reservation: Reservation::Unavailable { reason }, nmis: false }
    }
}

impl Reserved {
    /// Sends the NMIs, reads what the handlers print, and gives the buffers back. All vCPUs stay
    /// stopped. Whatever goes wrong is in the capture.
    pub fn run_nmis(self, target: &mut dyn Target) -> Capture {
        let Self { stopped, reservation, nmis } = self;
        let mut step = Steps::start();
        let buffers = stopped.buffers().ok();
        let held = matches!(reservation, Reservation::Held { .. });
        let look = |(cpu, state): (u32, &Result<VcpuState, String>)| {
            // What a handler has printed that has not returned is worth keeping.
            let idle = state.as_ref().is_ok_and(|state| !state.nmi.masked);
            Before::look(target, buffers, cpu, held && idle)
        };
        let before: Vec<Before> = (0..).zip(&stopped.states).map(look).collect();
        let started = Instant::now();
        let nmis = if nmis {
            stopped.send_nmis(target)
        } else {
            let reason = || "no NMIs were asked for".to_owned();
            stopped.states.iter().map(|_| NmiCapture::NotSent(reason())).collect()
        };
        step.done("ran the NMI handlers");
        let cpus = (0..)
            .zip(stopped.states.iter().cloned().zip(nmis))
            .zip(before)
            .map(|((cpu, (state, nmi)), before)| {
                before.complete(target, buffers, cpu, state, nmi, held)
            })
            .collect();
        let elapsed = started.elapsed();
        step.done("read the buffers");
        if held && let (Some(buffers), Ok(words)) = (buffers, target.words()) {
            // The word was there when it was taken.
            let _ = buffers.release(words);
        }
        Capture { reservation, elapsed, cpus, kernel: stopped.activity }
    }
}

/// How long the steps of a capture take, for those who ask with -vv.
struct Steps(Instant);

impl Steps {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn done(&mut self, what: &str) {
        tracing::debug!(elapsed = ?self.0.elapsed(), "{what}");
        self.0 = Instant::now();
    }
}

/// Stops the vCPUs. One that does not stop has no state, and the others are dealt with.
fn stop(target: &mut dyn Target, bounds: Bounds) -> States {
    match target.pausing() {
        Ok(pausing) => pausing.pause(bounds.pause),
        // It stands still, or runs on and is seen as it goes.
        Err(_) => target.states(&Vec::from_iter(0..target.vcpus()), bounds.pause),
    }
}

impl Stopped {
    /// Has every vCPU that can take an NMI run its handler.
    fn send_nmis(&self, target: &mut dyn Target) -> Vec<NmiCapture> {
        let states = (0..).zip(&self.states);
        let reasons: Vec<Option<String>> =
            states.map(|(cpu, state)| self.cannot_take_nmi(target, cpu, state)).collect();
        let able = (0..).zip(&reasons).filter(|(_, reason)| reason.is_none());
        let able: Vec<u32> = able.map(|(cpu, _)| cpu).collect();
        let runs = match target.nmis() {
            Ok(nmis) => nmis.run(&able, self.bounds.handlers),
            Err(missing) => able.iter().map(|_| Err(missing.to_string())).collect(),
        };
        let mut runs = runs.into_iter();
        let run = |reason: Option<String>| match reason {
            Some(reason) => NmiCapture::NotSent(reason),
            None => match runs.next() {
                Some(Ok(run)) => NmiCapture::Run(Box::new(run)),
                Some(Err(reason)) => NmiCapture::NotSent(reason),
                None => NmiCapture::NotSent("the target did not say what became of it".into()),
            },
        };
        reasons.into_iter().map(run).collect()
    }

    /// Why a vCPU must not be sent an NMI: without a handler for it, it would end the guest.
    fn cannot_take_nmi(
        &self,
        memory: &dyn PhysicalMemory,
        cpu: u32,
        state: &Result<VcpuState, String>,
    ) -> Option<String> {
        let state = match state {
            Ok(state) if state.mp_state.is_started() => state,
            // The VMM knows to leave it alone.
            Ok(_) => return None,
            Err(reason) => return Some(reason.clone()),
        };
        let online = match &self.places {
            Ok(places) => match places.nmi_buffers() {
                Some(buffers) => buffers.is_online(memory, cpu),
                None => return Some("the kernel has no buffer to answer an NMI into".into()),
            },
            Err(_) => None,
        };
        let able = online.unwrap_or_else(|| has_nmi_gate(memory, &state.registers));
        (!able).then(|| {
            "it has no NMI handler: it is still booting, has been reset, or never had one".into()
        })
    }
}

/// Whether there is an interrupt descriptor table with a gate for vector 2. In long mode a gate has
/// 16 bytes, in protected mode 8; bit 47 says that it is present (SDM vol. 3, 6.11 and 6.14.1). A table
/// at address 0 is what a processor has after a reset.
fn has_nmi_gate(memory: &dyn PhysicalMemory, registers: &Registers) -> bool {
    const PRESENT: u8 = 1 << 7;
    let gate = if registers.is_long_mode() { 16 } else { 8 };
    if registers.idt_base == 0 || registers.idt_limit < 3 * gate - 1 {
        return false;
    }
    // Paging that is not understood cannot be followed: then it has the benefit of the doubt.
    let Ok(tables) = registers.page_tables() else { return true };
    let at = VirtualAddress(registers.idt_base).wrapping_add(u64::from(2 * gate) + 5);
    let mut kind = [0];
    let read = GuestVirtual::new(memory, tables).read(at, &mut kind);
    read.is_ok() && kind[0] & PRESENT != 0
}

/// Takes the reservation of a stopped guest. If a client inside has it, the guest has to run for it
/// to be given back: it does, up to the bound, and `states` are read anew.
fn reserve(
    target: &mut dyn Target,
    buffers: &dyn NmiBuffers,
    bounds: Bounds,
    states: &mut States,
) -> (Reservation, bool) {
    let started = Instant::now();
    let mut ran = false;
    let result = loop {
        match try_take(target, buffers) {
            Ok(Err(_))
                if started.elapsed() < bounds.reservation && (ran || let_run(target, buffers)) =>
            {
                ran = true;
                thread::sleep(Duration::from_millis(1));
            }
            result => break result,
        }
    };
    let waited = started.elapsed();
    if ran {
        if let Ok(words) = target.words() {
            let _ = buffers.set_wanted(words, false);
        }
        *states = stop(target, bounds);
    }
    let reservation = match result {
        Ok(Ok(())) => Reservation::Held { waited },
        Ok(Err(holder)) => Reservation::Refused {
            holder: holder.cpu,
            held: held_for(target, buffers, holder, states),
            waited,
        },
        Err(reason) => Reservation::Unavailable { reason },
    };
    (reservation, ran)
}

fn try_take(target: &dyn Target, buffers: &dyn NmiBuffers) -> Result<Result<(), Holder>, String> {
    let words = target.words().map_err(|missing: MissingPower| missing.to_string())?;
    buffers.try_take(target, words).map_err(|error| error.to_string())
}

/// Lets the guest run with the word set that makes its clients stand back, if the target can.
fn let_run(target: &mut dyn Target, buffers: &dyn NmiBuffers) -> bool {
    if let Ok(words) = target.words() {
        // Whether it worked shows in the next try.
        let _ = buffers.set_wanted(words, true);
    }
    target.pausing().map(|pausing| pausing.resume()).is_ok()
}

/// How long the holder has held it, by the guest's own clock.
fn held_for(
    target: &dyn Target,
    buffers: &dyn NmiBuffers,
    holder: Holder,
    states: &States,
) -> Option<Duration> {
    let tsc = target.tsc(states.iter().flatten().next()?.cpu)?;
    let now = buffers.clock_ns(target, tsc)?;
    now.checked_sub(holder.since_ns?).map(Duration::from_nanos)
}

/// What is known of a CPU before its NMI.
struct Before {
    stale_bytes: u32,
    nmi_count: Option<u64>,
}

impl Before {
    /// Looks, and if it may, throws away what is left in a buffer that nobody is using.
    fn look(
        target: &dyn Target,
        buffers: Option<&dyn NmiBuffers>,
        cpu: u32,
        may_wipe: bool,
    ) -> Self {
        let Some(buffers) = buffers else { return Self { stale_bytes: 0, nmi_count: None } };
        let stale_bytes = match (buffers.peek(target, cpu), target.words()) {
            (Some((BufferOwner::Free, len)), Ok(words)) if may_wipe && buffers.wipe(words, cpu) => {
                len
            }
            _ => 0,
        };
        Self { stale_bytes, nmi_count: buffers.nmi_count(target, cpu) }
    }

    /// Reads what the NMI has left, and wipes it.
    fn complete(
        self,
        target: &dyn Target,
        buffers: Option<&dyn NmiBuffers>,
        cpu: u32,
        state: Result<VcpuState, String>,
        nmi: NmiCapture,
        held: bool,
    ) -> CpuCapture {
        let buffer = match buffers {
            Some(buffers) => buffers.read(target, cpu),
            None => Err("its place is not known".into()),
        };
        let counted =
            buffers.and_then(|buffers| Some(buffers.nmi_count(target, cpu)? != self.nmi_count?));
        // A buffer whose handler is still at work is the handler's.
        let idle = buffer.as_ref().is_ok_and(|buffer| buffer.owner == BufferOwner::Free);
        if held
            && idle
            && state.is_ok()
            && let (Some(buffers), Ok(words)) = (buffers, target.words())
        {
            // It was read a moment ago, so it is there.
            let _ = buffers.wipe(words, cpu);
        }
        CpuCapture { state, nmi, buffer, stale_bytes: self.stale_bytes, counted }
    }
}
