//! The hypervisor as a client of the guest's NMI backtrace protocol.
//!
//! Owns its steps: reserve the buffers, let each vCPU run its NMI handler alone, read and wipe the
//! buffers, release them. Each step has a timeout, and one that fails leaves its reason while the rest
//! continues. The guest is stopped at the end.

use std::thread;
use std::time::{Duration, Instant};

use nmiscope_machine::{
    GuestVirtual, PhysicalMemory, Registers, VcpuState, VirtualAddress, VirtualMemory,
};

use super::stopped::{StepTimer, StoppedGuest};
use super::{BufferReservation, CpuCapture, NmiCapture, NoReservation, NotSent};
use crate::kernel::{BufferOwner, Holder, NmiBuffers, NoBuffer};
use crate::targets::{NoAnswer, States, Target};

impl StoppedGuest {
    fn buffers(&self) -> Option<&dyn NmiBuffers> {
        self.located.as_ref().ok()?.nmi_buffers()
    }
}

/// Reserves the buffers of a stopped guest. If a client inside holds them, the guest is resumed, for at
/// most the timeout, so that it can release them; the moment is then a later one.
pub(super) fn reserve(stopped: &mut StoppedGuest, target: &mut dyn Target) -> BufferReservation {
    let mut step = StepTimer::start();
    let started = Instant::now();
    let (result, ran) = wait_for_buffers(stopped, target, started);
    // Without the guest nobody was waited for: the host may just not have run this thread.
    let waited = if ran { started.elapsed() } else { Duration::ZERO };
    if ran {
        stopped.stop_again(target);
    }
    let reservation = match result {
        Ok(Ok(())) => BufferReservation::Held { waited },
        Ok(Err(holder)) => BufferReservation::Refused {
            holder: holder.cpu,
            held: stopped
                .buffers()
                .and_then(|buffers| held_for(target, buffers, holder, &stopped.states)),
            waited,
        },
        Err(reason) => BufferReservation::Unavailable { reason },
    };
    step.done("reserved the buffers");
    reservation
}

/// Tries to take the buffers until the timeout. Also returns true if the guest was resumed.
fn wait_for_buffers(
    stopped: &StoppedGuest,
    target: &mut dyn Target,
    started: Instant,
) -> (Result<Result<(), Holder>, NoReservation>, bool) {
    let buffers = match &stopped.located {
        Ok(located) => located.nmi_buffers().ok_or(NoReservation::NoBuffers),
        Err(reason) => Err(reason.clone().into()),
    };
    let buffers = match buffers {
        Ok(buffers) => buffers,
        Err(reason) => return (Err(reason), false),
    };
    let mut ran = false;
    let result = loop {
        match try_take(target, buffers) {
            Ok(Err(_))
                if started.elapsed() < stopped.bounds.reservation
                    && (ran || let_run(target, buffers)) =>
            {
                ran = true;
                thread::sleep(Duration::from_millis(1));
            }
            result => break result,
        }
    };
    if ran && let Ok(words) = target.words() {
        let _ = buffers.set_wanted(words, false);
    }
    (result, ran)
}

fn try_take(
    target: &dyn Target,
    buffers: &dyn NmiBuffers,
) -> Result<Result<(), Holder>, NoReservation> {
    Ok(buffers.try_take(target, target.words()?)?)
}

/// Resumes the guest with the word set that makes its clients stand back, if the target can.
fn let_run(target: &mut dyn Target, buffers: &dyn NmiBuffers) -> bool {
    if let Ok(words) = target.words() {
        // The next try shows if it worked.
        let _ = buffers.set_wanted(words, true);
    }
    target.pausing().map(|pausing| pausing.resume()).is_ok()
}

/// Returns the time for which the holder has held the buffers, by the guest's own clock.
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

/// Sends the NMIs, if `wanted`, reads the handlers' output, and releases the buffers if `held`. Returns
/// the vCPUs by number, without stacks, and the time that it took.
pub(super) fn send_and_collect(
    stopped: &StoppedGuest,
    target: &mut dyn Target,
    wanted: bool,
    held: bool,
) -> (Vec<CpuCapture>, Duration) {
    let mut step = StepTimer::start();
    let buffers = stopped.buffers();
    let read_baseline = |(cpu, state): (u32, &Result<VcpuState, NoAnswer>)| {
        // The output of a handler that has not returned is worth keeping.
        let idle = state.as_ref().is_ok_and(|state| !state.is_in_nmi());
        Baseline::read(target, buffers, cpu, held && idle)
    };
    let before: Vec<Baseline> = (0..).zip(&stopped.states).map(read_baseline).collect();
    let started = Instant::now();
    let nmis = match wanted {
        true => send_nmis(stopped, target),
        false => vec![NmiCapture::NotSent(NotSent::NotAsked); stopped.states.len()],
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
        // The word was there when the buffers were taken.
        let _ = buffers.release(words);
    }
    (cpus, elapsed)
}

/// Runs the NMI handler of every vCPU that can take an NMI.
fn send_nmis(stopped: &StoppedGuest, target: &mut dyn Target) -> Vec<NmiCapture> {
    let states = (0..).zip(&stopped.states);
    let reasons: Vec<Option<NotSent>> =
        states.map(|(cpu, state)| cannot_take_nmi(stopped, target, cpu, state)).collect();
    let able = (0..).zip(&reasons).filter(|(_, reason)| reason.is_none());
    let able: Vec<u32> = able.map(|(cpu, _)| cpu).collect();
    let mut runs = match target.nmis() {
        Ok(nmis) => nmis.run(&able, stopped.bounds.handlers).into_iter(),
        Err(missing) => return none_sent(reasons, || NotSent::from(missing)),
    };
    let run = |reason: Option<NotSent>| match reason {
        Some(reason) => NmiCapture::NotSent(reason),
        None => match runs.next() {
            Some(Ok(run)) => NmiCapture::Run(Box::new(run)),
            Some(Err(reason)) => NmiCapture::NotSent(reason.into()),
            None => NmiCapture::NotSent(NotSent::NoAccount),
        },
    };
    reasons.into_iter().map(run).collect()
}

/// Sends no NMI at all: vCPUs that could take one get `reason`.
fn none_sent(reasons: Vec<Option<NotSent>>, reason: impl Fn() -> NotSent) -> Vec<NmiCapture> {
    let reasons = reasons.into_iter().map(|own| own.unwrap_or_else(&reason));
    reasons.map(NmiCapture::NotSent).collect()
}

/// Returns the reason why a vCPU must not be sent an NMI: without a handler for it, it would end the
/// guest; without a buffer to read, it would tell nothing.
fn cannot_take_nmi(
    stopped: &StoppedGuest,
    memory: &dyn PhysicalMemory,
    cpu: u32,
    state: &Result<VcpuState, NoAnswer>,
) -> Option<NotSent> {
    let state = match state {
        Ok(state) if state.mp_state.is_started() => state,
        // The VMM sends none to it.
        Ok(_) => return None,
        Err(reason) => return Some(reason.clone().into()),
    };
    let located = match &stopped.located {
        Ok(located) => located,
        // An NMI may kill a kernel that does not expect one, and no answer could be read.
        Err(reason) if has_nmi_gate(memory, &state.registers) => {
            return Some(NotSent::NotFound(reason.clone()));
        }
        Err(_) => return Some(NotSent::NoHandler),
    };
    let Some(buffers) = located.nmi_buffers() else { return Some(NotSent::NoBuffers) };
    let online = buffers.is_online(memory, cpu);
    let able = online.unwrap_or_else(|| has_nmi_gate(memory, &state.registers));
    (!able).then_some(NotSent::NoHandler)
}

/// Returns true if there is an interrupt descriptor table with a gate for vector 2. In long mode a gate
/// has 16 bytes, in protected mode 8; bit 47 is its present bit (SDM vol. 3, 6.11 and 6.14.1). After a
/// reset a processor has a table at address 0.
fn has_nmi_gate(memory: &dyn PhysicalMemory, registers: &Registers) -> bool {
    const PRESENT: u8 = 1 << 7;
    let gate = if registers.is_long_mode() { 16 } else { 8 };
    if registers.idt_base == 0 || registers.idt_limit < 3 * gate - 1 {
        return false;
    }
    // Without page tables to follow, the gate is assumed to be there.
    let Ok(tables) = registers.page_tables() else { return true };
    let at = VirtualAddress(registers.idt_base).wrapping_add(u64::from(2 * gate) + 5);
    let mut kind = [0];
    let read = GuestVirtual::new(memory, tables).read(at, &mut kind);
    read.is_ok() && kind[0] & PRESENT != 0
}

/// State of a CPU's buffer and counter before its NMI.
struct Baseline {
    stale_bytes: u32,
    nmi_count: Option<u64>,
}

impl Baseline {
    /// Reads the state, and if `may_wipe`, discards text in a buffer that is not in use.
    fn read(
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

    /// Reads the buffer after the NMI, and wipes it.
    fn complete(
        self,
        target: &dyn Target,
        buffers: Option<&dyn NmiBuffers>,
        cpu: u32,
        state: Result<VcpuState, NoAnswer>,
        nmi: NmiCapture,
        held: bool,
    ) -> CpuCapture {
        let buffer = match buffers {
            Some(buffers) => buffers.read(target, cpu),
            None => Err(NoBuffer::PlaceUnknown),
        };
        let counted =
            buffers.and_then(|buffers| Some(buffers.nmi_count(target, cpu)? != self.nmi_count?));
        // The buffer of an unfinished handler stays the handler's.
        let idle = buffer.as_ref().is_ok_and(|buffer| buffer.owner == BufferOwner::Free);
        if held
            && idle
            && state.is_ok()
            && let (Some(buffers), Ok(words)) = (buffers, target.words())
        {
            // It was read a moment ago, so it is there.
            let _ = buffers.wipe(words, cpu);
        }
        CpuCapture { state, stack: None, nmi, buffer, stale_bytes: self.stale_bytes, counted }
    }
}
