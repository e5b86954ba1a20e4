//! The thread that runs one vCPU.
//!
//! Owns the run loop, the reaction to each exit and the NMI run; refuses to own deadlines other
//! than that run's (`world` has them) and any view of the other vCPUs. Spawned by `VcpuHandle`.
//!
//! Each turn of the loop in the running state clears the kick, takes at most one command, and only
//! then enters the guest: `kick` has the reason for this order.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;
use nmiscope_machine::{MpState, NmiResult, NmiRun, NmiState, Outcome, VcpuState};
use tracing::{debug, warn};
use vm_memory::GuestMemoryMmap;

use super::Command;
use super::host::{self, CpuClock};
use super::kick::ImmediateExit;
use super::state::{read_mp_state, read_nmi_state, read_state, read_tsc};
use crate::collector::Slot;
use crate::devices::{Devices, Effect};
use crate::event::VmEvent;
use crate::exits::{Counters, End, Exit};
use crate::kvm::KvmError;

/// Most exits that one instruction may take to finish. KVM interrupts a REP string instruction after 1024
/// iterations, and splits an access into pieces of 8 bytes.
const MAX_EXITS_OF_AN_INSTRUCTION: usize = 8192;

/// State that all vCPU threads of a VM share.
pub(crate) struct SharedState {
    pub(crate) devices: Devices,
    pub(crate) events: Box<dyn Fn(VmEvent) + Send + Sync>,
    /// Set by the first vCPU that ends the VM.
    pub(crate) ended: AtomicBool,
    /// Guest memory, which stays mapped until the last thread is gone: otherwise a vCPU that outlives its
    /// `Vm` would write to whatever is mapped at those addresses next.
    pub(crate) memory: GuestMemoryMmap,
}

impl fmt::Debug for SharedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without `events`: a closure has no Debug output.
        let mut all = f.debug_struct("SharedState");
        all.field("devices", &self.devices).field("ended", &self.ended);
        all.field("memory", &self.memory).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum State {
    /// The thread waits for a command.
    Paused,
    /// The thread runs the guest.
    Running,
    /// The vCPU cannot run any more; the thread still answers commands.
    Ended(Outcome),
    /// The thread returns, and answers once the vCPU is closed.
    Exiting(Option<Slot<u32>>),
}

/// Time allowed to an NMI handler: see `Vm::run_nmi`.
struct Allowance {
    /// Time at which the NMI was injected.
    started: Instant,
    /// The thread's CPU clock at that time.
    cpu_started: Duration,
    /// Limit of the vCPU's own time.
    bound: Duration,
    /// Limit of wall time, as a point in time.
    until: Instant,
}

impl Allowance {
    fn is_used_up(&self, vcpu: &VcpuFd) -> Result<bool, KvmError> {
        let wall = self.started.elapsed();
        if wall < self.bound {
            return Ok(false);
        }
        let asleep = read_mp_state(vcpu)? == MpState::Halted;
        let run = CpuClock::THIS_THREAD.now().saturating_sub(self.cpu_started);
        Ok(asleep || run >= self.bound || Instant::now() >= self.until)
    }
}

/// Reaction of the run loop to an exit.
enum Reaction {
    Continue,
    /// KVM_RUN was interrupted, and no instruction is half done.
    Interrupted,
    Stepped,
    NmiDone,
    Ended(Outcome),
}

pub(super) struct Vcpu {
    cpu: u32,
    fd: VcpuFd,
    shared: Arc<SharedState>,
    commands: Receiver<Command>,
    immediate_exit: Arc<ImmediateExit>,
    counters: Arc<Counters>,
    state: State,
    /// True if the last exit left a port or memory access unfinished.
    half_done: bool,
}

impl Vcpu {
    pub(super) fn new(
        cpu: u32,
        fd: VcpuFd,
        shared: Arc<SharedState>,
        commands: Receiver<Command>,
        immediate_exit: Arc<ImmediateExit>,
        counters: Arc<Counters>,
    ) -> Self {
        let (state, half_done) = (State::Paused, false);
        Self { cpu, fd, shared, commands, immediate_exit, counters, state, half_done }
    }

    pub(super) fn run(mut self) {
        let answer = loop {
            match &mut self.state {
                State::Running => self.run_guest(),
                State::Paused | State::Ended(_) => match self.commands.recv() {
                    Ok(command) => self.execute(command),
                    Err(_) => break None,
                },
                State::Exiting(answer) => break answer.take(),
            }
        };
        let cpu = self.cpu;
        drop(self);
        if let Some(answer) = answer {
            answer.answer(cpu);
        }
    }

    /// Runs one turn of the loop: executes a command if there is one, else enters the guest.
    fn run_guest(&mut self) {
        self.immediate_exit.clear();
        match self.commands.try_recv() {
            Ok(command) => self.execute(command),
            Err(TryRecvError::Disconnected) => self.state = State::Exiting(None),
            Err(TryRecvError::Empty) => match self.enter() {
                Reaction::Continue | Reaction::Interrupted | Reaction::Stepped => {}
                Reaction::NmiDone => self.announce_nmi_done(),
                Reaction::Ended(outcome) => self.end(outcome),
            },
        }
    }

    fn execute(&mut self, command: Command) {
        // Every command needs the registers of an instruction boundary.
        if let Some(outcome) = self.finish_instruction() {
            self.end(outcome);
        }
        match command {
            Command::Pause(answer) => {
                if matches!(self.state, State::Running) {
                    self.state = State::Paused;
                }
                answer.answer((self.cpu, read_state(self.cpu, &self.fd)));
            }
            Command::Resume => self.resume(),
            Command::Read(answer) => {
                answer.answer((self.cpu, read_state(self.cpu, &self.fd)));
            }
            Command::Step { to, answer } => answer.answer((self.cpu, self.step(to))),
            Command::ReadTsc(answer) => answer.answer((self.cpu, read_tsc(&self.fd))),
            Command::RunNmi { bound, until, answer } => {
                answer.answer((self.cpu, self.run_nmi(bound, until)));
            }
            Command::Exit(answer) => self.state = State::Exiting(Some(answer)),
        }
    }

    fn resume(&mut self) {
        if !matches!(self.state, State::Paused) {
            return;
        }
        // Notify the guest that it was stopped, so that its watchdogs do not fire.
        if let Err(error) = self.fd.kvmclock_ctrl()
            && error.errno() != libc::EINVAL
        {
            debug!(cpu = self.cpu, %error, "KVM_KVMCLOCK_CTRL failed");
        }
        self.state = State::Running;
    }

    /// Enters the guest once and handles the exit.
    fn enter(&mut self) -> Reaction {
        let exit = Exit::decode(self.fd.run());
        self.counters.count(&exit);
        self.half_done = exit.is_half_done();
        let end = match exit {
            Exit::PortOut { port, data } => {
                let effect = self.shared.devices.write(port, data);
                return self.react_to(effect);
            }
            Exit::PortIn { port, data } => {
                self.shared.devices.read(port, data);
                return Reaction::Continue;
            }
            Exit::MmioRead { data } => {
                data.fill(0xff);
                return Reaction::Continue;
            }
            Exit::MmioWrite => return Reaction::Continue,
            Exit::Interrupted => return Reaction::Interrupted,
            Exit::Stepped => return Reaction::Stepped,
            Exit::Ended(end) => end,
        };
        Reaction::Ended(self.outcome_from(end))
    }

    fn react_to(&self, effect: Effect) -> Reaction {
        let cpu = self.cpu;
        match effect {
            Effect::None => Reaction::Continue,
            Effect::NmiDone => Reaction::NmiDone,
            Effect::DebugExit(code) => Reaction::Ended(Outcome::DebugExit { cpu, code }),
            Effect::Reset => Reaction::Ended(Outcome::Reset { cpu }),
            Effect::Post(code) => {
                self.announce(VmEvent::Post { cpu, code, at: Instant::now() });
                Reaction::Continue
            }
        }
    }

    fn outcome_from(&mut self, end: End) -> Outcome {
        let cpu = self.cpu;
        match end {
            End::Shutdown => Outcome::TripleFault { cpu },
            End::InternalError => {
                let (suberror, instruction) = host::internal_error(&mut self.fd);
                let rip = self.fd.get_regs().ok().map(|registers| registers.rip);
                Outcome::InternalError { cpu, suberror, rip, instruction }
            }
            End::EntryFailure { reason } => Outcome::EntryFailure { cpu, reason },
            End::SystemEvent { kind } => Outcome::SystemEvent { cpu, kind },
            End::MemoryFault { gpa } => Outcome::MemoryFault { cpu, gpa },
            End::Failed { errno } => Outcome::RunFailed { cpu, errno },
            End::Unexpected(name) => Outcome::UnexpectedExit { cpu, exit: name.to_owned() },
            End::Unknown { reason } => {
                Outcome::UnexpectedExit { cpu, exit: format!("number {reason}") }
            }
        }
    }

    /// Lets KVM finish a pending port or memory access, without executing a further instruction. Returns
    /// the outcome if the guest ended on it.
    fn finish_instruction(&mut self) -> Option<Outcome> {
        for _ in 0..MAX_EXITS_OF_AN_INSTRUCTION {
            if !self.half_done {
                return None;
            }
            self.immediate_exit.set();
            let reaction = self.enter();
            self.immediate_exit.clear();
            match reaction {
                Reaction::Continue | Reaction::Interrupted | Reaction::Stepped => {}
                Reaction::NmiDone => self.announce_nmi_done(),
                Reaction::Ended(outcome) => return Some(outcome),
            }
        }
        warn!(cpu = self.cpu, "an instruction does not end; its registers may be inconsistent");
        None
    }

    /// Executes one instruction, or all up to the guest-virtual address `to`: see `Vm::step` and
    /// `Vm::run_to`.
    fn step(&mut self, to: Option<u64>) -> Result<VcpuState, KvmError> {
        let control = if to.is_some() { KVM_GUESTDBG_USE_HW_BP } else { KVM_GUESTDBG_SINGLESTEP };
        let mut debug =
            kvm_guest_debug { control: KVM_GUESTDBG_ENABLE | control, ..Default::default() };
        if let Some(address) = to {
            // DR0, and DR7 with its breakpoint on execution enabled (SDM vol. 3, 18.2.4).
            debug.arch.debugreg[0] = address;
            debug.arch.debugreg[7] = 0x402;
        }
        self.immediate_exit.clear();
        self.debug(&debug)?;
        loop {
            match self.enter() {
                // A port or memory access, which the next entry finishes.
                Reaction::Continue => {}
                Reaction::NmiDone => self.announce_nmi_done(),
                Reaction::Interrupted | Reaction::Stepped => break,
                Reaction::Ended(outcome) => {
                    self.end(outcome);
                    break;
                }
            }
        }
        self.debug(&kvm_guest_debug::default())?;
        read_state(self.cpu, &self.fd)
    }

    fn debug(&self, debug: &kvm_guest_debug) -> Result<(), KvmError> {
        self.fd.set_guest_debug(debug).map_err(KvmError::ioctl("KVM_SET_GUEST_DEBUG"))
    }

    /// Injects an NMI and runs its handler: see `Vm::run_nmi`.
    fn run_nmi(&mut self, bound: Duration, until: Instant) -> Result<NmiRun, KvmError> {
        let mp_state = read_mp_state(&self.fd)?;
        let mut after = None;
        let (started, cpu_started) = (Instant::now(), CpuClock::THIS_THREAD.now());
        let mut injected = false;
        let result = match &self.state {
            State::Ended(outcome) if !outcome.can_run_handlers() => {
                NmiResult::Ended(outcome.clone())
            }
            _ if !mp_state.is_started() => NmiResult::NotStarted,
            _ => {
                self.fd.nmi().map_err(KvmError::ioctl("KVM_NMI"))?;
                injected = true;
                let allowance = Allowance { started, cpu_started, bound, until };
                self.run_until_nmi_done(&allowance, &mut after)?
            }
        };
        let (wall, cpu_now) = (started.elapsed(), CpuClock::THIS_THREAD.now());
        let run_time = if injected { cpu_now.saturating_sub(cpu_started) } else { Duration::ZERO };
        let after = after.map_or_else(|| read_nmi_state(&self.fd), Ok)?;
        Ok(NmiRun { cpu: self.cpu, injected, result, after, wall, run_time })
    }

    /// Runs the guest until the NMI handler is done or its time is used up. Sets `after` to the vCPU's NMI
    /// state if it had to be read.
    fn run_until_nmi_done(
        &mut self,
        allowance: &Allowance,
        after: &mut Option<NmiState>,
    ) -> Result<NmiResult, KvmError> {
        loop {
            // A kick asks to check the time, which happens next.
            self.immediate_exit.clear();
            if allowance.is_used_up(&self.fd)? {
                return Ok(match self.finish_instruction() {
                    Some(outcome) => self.ended_in_nmi(outcome),
                    None => NmiResult::Unfinished,
                });
            }
            match self.enter() {
                Reaction::Continue | Reaction::Interrupted | Reaction::Stepped => {}
                Reaction::Ended(outcome) => return Ok(self.ended_in_nmi(outcome)),
                Reaction::NmiDone => {
                    if let Some(outcome) = self.finish_instruction() {
                        return Ok(self.ended_in_nmi(outcome));
                    }
                    // If the injected NMI is still pending, an earlier handler has finished.
                    let state = read_nmi_state(&self.fd)?;
                    if !state.pending {
                        *after = Some(state);
                        return Ok(NmiResult::Finished);
                    }
                }
            }
        }
    }

    fn ended_in_nmi(&mut self, outcome: Outcome) -> NmiResult {
        if !matches!(self.state, State::Ended(_)) {
            self.end(outcome.clone());
        }
        NmiResult::Ended(outcome)
    }

    /// Ends this vCPU. The first vCPU of a VM that ends reports it to the owner.
    fn end(&mut self, outcome: Outcome) {
        self.state = State::Ended(outcome.clone());
        if let Some(later) = self.finish_instruction() {
            debug!(%later, "a vCPU that had ended ended again");
        }
        if self.shared.ended.swap(true, Ordering::Relaxed) {
            debug!(%outcome, "another vCPU ended as well");
        } else {
            self.announce(VmEvent::Ended(outcome));
        }
    }

    fn announce_nmi_done(&self) {
        self.announce(VmEvent::NmiDone { cpu: self.cpu, at: Instant::now() });
    }

    fn announce(&self, event: VmEvent) {
        (self.shared.events)(event);
    }
}
