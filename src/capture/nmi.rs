//! The hypervisor as a client of the guest's NMI backtrace protocol.
//!
//! Stop the world, reserve the buffers, let each vCPU run its NMI handler and nothing else, read
//! and wipe the buffers, give them back. Each step has a bound, and one that fails leaves its reason
//! while the rest goes on. The VM is stopped at the end; whether it goes on is the caller's choice.

use std::thread;
use std::time::{Duration, Instant};

use nmiscope_symbolizer::{GuestVirtual, VirtualAddress, VirtualMemory};
use nmiscope_vmm::{Registers, VcpuState, Vm};

use super::{Capture, CpuCapture, NmiCapture, Reservation};
use crate::hang::KernelState;
use crate::kernel::{BufferOwner, CpuPlaces, Depth, Holder, Kernel, Located, ReservationPlace};
use crate::target::memory::GuestRam;
use crate::target::page_tables;

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

/// Each vCPU's state, or why it could not be had.
pub type States = Vec<Result<VcpuState, String>>;

/// A guest that stands still, before its NMIs. The moment that a backtrace is of: from here on the
/// handlers write to the guest's memory.
#[derive(Debug)]
pub struct Stopped {
    /// By vCPU number.
    pub states: States,
    /// Where the kernel's structures are, or why that is not known.
    pub places: Result<Located, String>,
    /// What the kernel says of what it is doing, where that can be read.
    pub activity: Option<KernelState>,
    bounds: Bounds,
}

impl Stopped {
    /// Stops all vCPUs. Where no registers lead to the kernel's structures, what it says of itself is
    /// read at the places that are `known`: a host that runs none of the vCPUs gives no registers.
    pub fn stop(vm: &mut Vm, kernel: &Kernel, known: Option<&Located>, bounds: Bounds) -> Self {
        let mut step = Steps::start();
        let states = stop(vm, bounds);
        step.done("stopped the vCPUs and read their registers");
        let registers = states.iter().map(|state| match state {
            Ok(state) => Ok(state.registers),
            Err(reason) => Err(reason.clone()),
        });
        let places = kernel.locate(GuestRam::new(vm.memory()), registers);
        let mut stopped = Self { states, places, activity: None, bounds };
        stopped.read_activity(vm, known);
        step.done("found the kernel's structures");
        stopped
    }

    fn read_activity(&mut self, vm: &Vm, known: Option<&Located>) {
        let ram = GuestRam::new(vm.memory());
        let mut places = self.places.as_ref().ok().into_iter().chain(known);
        self.activity = places.find_map(|places| places.activity(&ram, Depth::All).ok());
    }

    /// Reserves the buffers, if they can be had. A guest in which somebody else has them is let run
    /// for it, and then the moment is a later one.
    pub fn reserve(mut self, vm: &mut Vm) -> Reserved {
        let mut step = Steps::start();
        let reservation = match &self.places {
            Ok(places) => {
                let place = &places.reservation;
                let (reservation, ran) = reserve(vm, place, self.bounds, &mut self.states);
                if ran {
                    self.read_activity(vm, None);
                }
                reservation
            }
            Err(reason) => Reservation::Unavailable { reason: reason.clone() },
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
    pub fn run_nmis(self, vm: &mut Vm) -> Capture {
        let Self { stopped: Stopped { states, places, activity, bounds }, reservation, nmis } =
            self;
        let mut step = Steps::start();
        let places = places.as_ref().ok();
        let held = matches!(reservation, Reservation::Held { .. });
        let ram = GuestRam::new(vm.memory());
        let before: Vec<Before> = states
            .iter()
            .enumerate()
            .map(|(cpu, state)| {
                // What a handler has printed that has not returned is worth keeping.
                let idle = state.as_ref().is_ok_and(|state| !state.nmi.masked);
                Before::look(ram, places, cpu, held && idle)
            })
            .collect();
        let started = Instant::now();
        let nmis = if nmis {
            send_nmis(vm, places, &states, bounds.handlers)
        } else {
            let reason = || "no NMIs were asked for".to_owned();
            states.iter().map(|_| NmiCapture::NotSent(reason())).collect()
        };
        step.done("ran the NMI handlers");
        let ram = GuestRam::new(vm.memory());
        let cpus = (0..)
            .zip(states.into_iter().zip(nmis))
            .zip(before)
            .map(|((cpu, (state, nmi)), before)| {
                before.complete(ram, places, cpu, state, nmi, held)
            })
            .collect();
        let elapsed = started.elapsed();
        step.done("read the buffers");
        if held && let Some(places) = places {
            // The word was there when it was taken.
            let _ = places.reservation.release(ram);
        }
        Capture { reservation, elapsed, cpus, kernel: activity }
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
fn stop(vm: &mut Vm, bounds: Bounds) -> States {
    let states = vm.pause(bounds.pause).into_iter();
    states.map(|state| state.map_err(|error| crate::error_chain(&error))).collect()
}

/// Has every vCPU that can take an NMI run its handler.
fn send_nmis(
    vm: &mut Vm,
    places: Option<&Located>,
    states: &States,
    bound: Duration,
) -> Vec<NmiCapture> {
    let ram = GuestRam::new(vm.memory());
    let mut nmis: Vec<Option<NmiCapture>> = (0..)
        .zip(states)
        .map(|(cpu, state)| cannot_take_nmi(ram, places, cpu, state).map(NmiCapture::NotSent))
        .collect();
    let all = 0..vm.cpus();
    let able: Vec<u32> = all.filter(|&cpu| nmis[cpu as usize].is_none()).collect();
    for (cpu, run) in able.iter().zip(vm.run_nmi(&able, bound)) {
        nmis[*cpu as usize] = Some(match run {
            Ok(run) => NmiCapture::Run(Box::new(run)),
            Err(error) => NmiCapture::NotSent(crate::error_chain(&error)),
        });
    }
    nmis.into_iter().flatten().collect()
}

/// Why a vCPU must not be sent an NMI: without a handler for it, it would end the guest.
fn cannot_take_nmi(
    ram: GuestRam<'_>,
    places: Option<&Located>,
    cpu: usize,
    state: &Result<VcpuState, String>,
) -> Option<String> {
    let state = match state {
        Ok(state) if state.mp_state.is_started() => state,
        // The VMM knows to leave it alone.
        Ok(_) => return None,
        Err(reason) => return Some(reason.clone()),
    };
    let online = places.and_then(|places| places_of(places, cpu).ok()?.is_online(ram).ok());
    let able = online.unwrap_or_else(|| has_nmi_gate(ram, &state.registers));
    (!able).then(|| {
        "it has no NMI handler: it is still booting, has been reset, or never had one".into()
    })
}

/// Whether there is an interrupt descriptor table with a gate for vector 2. In long mode a gate has
/// 16 bytes, in protected mode 8; bit 47 says that it is present (SDM vol. 3, 6.11 and 6.14.1). A table
/// at address 0 is what a processor has after a reset.
fn has_nmi_gate(ram: GuestRam<'_>, registers: &Registers) -> bool {
    const LONG_MODE_ACTIVE: u64 = 1 << 10;
    const PRESENT: u8 = 1 << 7;
    let gate = if registers.efer & LONG_MODE_ACTIVE != 0 { 16 } else { 8 };
    if registers.idt_base == 0 || registers.idt_limit < 3 * gate - 1 {
        return false;
    }
    // Paging that is not understood cannot be followed: then it has the benefit of the doubt.
    let Ok(tables) = page_tables(registers) else { return true };
    let at = VirtualAddress(registers.idt_base).wrapping_add(u64::from(2 * gate) + 5);
    let mut kind = [0];
    let read = GuestVirtual::new(&ram, tables).read(at, &mut kind);
    read.is_ok() && kind[0] & PRESENT != 0
}

/// Takes the reservation of a stopped guest. If a client inside has it, the guest has to run for it
/// to be given back: it does, up to the bound, and `states` are read anew.
fn reserve(
    vm: &mut Vm,
    place: &ReservationPlace,
    bounds: Bounds,
    states: &mut States,
) -> (Reservation, bool) {
    let started = Instant::now();
    let mut ran = false;
    let result = loop {
        match place.try_take(GuestRam::new(vm.memory())) {
            Ok(Err(_)) if started.elapsed() < bounds.reservation => {
                if !ran {
                    // Whether it worked shows in the next try.
                    let _ = place.set_wanted(GuestRam::new(vm.memory()), true);
                    vm.resume();
                    ran = true;
                }
                thread::sleep(Duration::from_millis(1));
            }
            result => break result,
        }
    };
    let waited = started.elapsed();
    if ran {
        let _ = place.set_wanted(GuestRam::new(vm.memory()), false);
        *states = stop(vm, bounds);
    }
    let reservation = match result {
        Ok(Ok(())) => Reservation::Held { waited },
        Ok(Err(holder)) => Reservation::Refused {
            holder: holder.cpu,
            held: held_for(vm, place, holder, states),
            waited,
        },
        Err(error) => Reservation::Unavailable { reason: error.to_string() },
    };
    (reservation, ran)
}

/// How long the holder has held it, by the guest's own clock.
fn held_for(
    vm: &Vm,
    place: &ReservationPlace,
    holder: Holder,
    states: &States,
) -> Option<Duration> {
    let tsc = vm.tsc(states.iter().flatten().next()?.cpu).ok()?;
    let now = place.clock_ns(GuestRam::new(vm.memory()), tsc).ok()?;
    now.checked_sub(holder.since_ns).map(Duration::from_nanos)
}

/// What is known of a CPU before its NMI.
struct Before {
    stale_bytes: u32,
    nmi_count: Option<u64>,
}

impl Before {
    /// Looks, and if it may, throws away what is left in a buffer that nobody is using.
    fn look(ram: GuestRam<'_>, places: Option<&Located>, cpu: usize, may_wipe: bool) -> Self {
        let Some(Ok(places)) = places.map(|places| places_of(places, cpu)) else {
            return Self { stale_bytes: 0, nmi_count: None };
        };
        let stale_bytes = match places.seq_buf.peek(ram) {
            Ok((BufferOwner::Free, len)) if may_wipe => {
                places.seq_buf.wipe(ram).map_or(0, |()| len)
            }
            _ => 0,
        };
        Self { stale_bytes, nmi_count: places.nmi_count(ram).ok() }
    }

    /// Reads what the NMI has left, and wipes it.
    fn complete(
        self,
        ram: GuestRam<'_>,
        places: Option<&Located>,
        cpu: usize,
        state: Result<VcpuState, String>,
        nmi: NmiCapture,
        held: bool,
    ) -> CpuCapture {
        let places = places
            .ok_or_else(|| String::from("its place is not known"))
            .and_then(|places| Ok((places_of(places, cpu)?, places.tables)));
        let buffer = match &places {
            Ok((places, tables)) => places.seq_buf.read(ram, *tables),
            Err(reason) => Err(reason.clone()),
        };
        let counted = places
            .as_ref()
            .ok()
            .and_then(|(places, _)| Some(places.nmi_count(ram).ok()? != self.nmi_count?));
        // A buffer whose handler is still at work is the handler's.
        let idle = buffer.as_ref().is_ok_and(|buffer| buffer.owner == BufferOwner::Free);
        if held
            && idle
            && state.is_ok()
            && let Ok((places, _)) = &places
        {
            // It was read a moment ago, so it is there.
            let _ = places.seq_buf.wipe(ram);
        }
        CpuCapture { state, nmi, buffer, stale_bytes: self.stale_bytes, counted }
    }
}

fn places_of(places: &Located, cpu: usize) -> Result<&CpuPlaces, String> {
    match places.cpus.get(cpu) {
        Some(Ok(places)) => Ok(places),
        Some(Err(reason)) => Err(reason.clone()),
        None => Err(format!("the guest knows of {} CPUs only", places.cpus.len())),
    }
}
