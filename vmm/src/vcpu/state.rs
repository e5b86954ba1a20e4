//! What a stopped vCPU looks like from outside, and what became of an NMI sent to it.
//!
//! Owns the answers' types and their translation from KVM's; refuses to own when it is safe to ask
//! (`thread`). Used by `world` and by the crate's callers.

use std::time::Duration;

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;

use crate::event::Outcome;
use crate::kvm::KvmError;

/// IA32_TIME_STAMP_COUNTER.
const MSR_TSC: u32 = 0x10;

/// A vCPU's registers. Addresses in them are guest-virtual, CR3 is guest-physical.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Registers {
    /// KVM_GET_REGS: RAX to R15, RIP, RFLAGS.
    pub general: kvm_regs,
    /// KVM_GET_SREGS: segments, descriptor tables, control registers, EFER, APIC base.
    pub special: kvm_sregs,
}

/// KVM_GET_MP_STATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MpState {
    /// It executes instructions.
    Running,
    /// It executed HLT and waits for an interrupt.
    Halted,
    /// An application processor that no one has started.
    Uninitialized,
    /// It got an INIT and waits for its start-up IPI.
    InitReceived,
    /// It got its start-up IPI and has not run since.
    SipiReceived,
    /// A state that x86 does not have.
    Other(u32),
}

impl MpState {
    /// False for a CPU that waits for INIT or a start-up IPI, and so takes no NMI.
    pub fn is_started(self) -> bool {
        !matches!(self, Self::Uninitialized | Self::InitReceived)
    }

    pub(super) fn read(vcpu: &VcpuFd) -> Result<Self, KvmError> {
        let state = vcpu.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
        Ok(match state.mp_state {
            KVM_MP_STATE_RUNNABLE => Self::Running,
            KVM_MP_STATE_HALTED => Self::Halted,
            KVM_MP_STATE_UNINITIALIZED => Self::Uninitialized,
            KVM_MP_STATE_INIT_RECEIVED => Self::InitReceived,
            KVM_MP_STATE_SIPI_RECEIVED => Self::SipiReceived,
            other => Self::Other(other),
        })
    }
}

/// Where a vCPU stands with NMIs and interrupts (KVM_GET_VCPU_EVENTS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NmiState {
    /// An NMI has been sent and not yet been delivered.
    pub pending: bool,
    /// An NMI is being delivered.
    pub injected: bool,
    /// The vCPU is inside an NMI handler: it takes no other until its IRET.
    pub masked: bool,
    /// The vCPU is in the shadow of an STI or MOV SS, and takes nothing for one instruction.
    pub interrupt_shadow: bool,
}

impl From<kvm_vcpu_events> for NmiState {
    fn from(events: kvm_vcpu_events) -> Self {
        Self {
            pending: events.nmi.pending != 0,
            injected: events.nmi.injected != 0,
            masked: events.nmi.masked != 0,
            interrupt_shadow: events.interrupt.shadow != 0,
        }
    }
}

impl NmiState {
    pub(super) fn read(vcpu: &VcpuFd) -> Result<Self, KvmError> {
        let events = vcpu.get_vcpu_events().map_err(KvmError::ioctl("KVM_GET_VCPU_EVENTS"))?;
        Ok(events.into())
    }
}

/// All that KVM tells of a vCPU between two instructions.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct VcpuState {
    /// Which vCPU.
    pub cpu: u32,
    /// Its registers.
    pub registers: Registers,
    /// Its NMIs.
    pub nmi: NmiState,
    /// Whether it runs, sleeps or was never started.
    pub mp_state: MpState,
    /// Its time-stamp counter, in cycles.
    pub tsc: u64,
}

impl VcpuState {
    /// Reads it. The vCPU must stand at an instruction boundary.
    pub(super) fn read(cpu: u32, vcpu: &VcpuFd) -> Result<Self, KvmError> {
        Ok(Self {
            cpu,
            // First, because it may act on a pending INIT or SIPI, which changes the registers.
            mp_state: MpState::read(vcpu)?,
            registers: Registers {
                general: vcpu.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?,
                special: vcpu.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?,
            },
            nmi: NmiState::read(vcpu)?,
            tsc: read_tsc(vcpu)?,
        })
    }
}

fn read_tsc(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index: MSR_TSC, ..Default::default() }])
        .map_err(|_| KvmError::TableFull { table: "MSR", entries: 1 })?;
    vcpu.get_msrs(&mut msrs).map_err(KvmError::ioctl("KVM_GET_MSRS"))?;
    Ok(msrs.as_slice()[0].data)
}

/// What became of one vCPU in `Vm::run_nmi`.
#[derive(Debug, Clone, PartialEq)]
pub enum NmiResult {
    /// The handler ran and wrote the nmi_done port. The vCPU stands after that write, inside it.
    Finished,
    /// Its bound passed first. `after.nmi` says whether the NMI was even delivered.
    Unfinished,
    /// Not sent: the vCPU waits for INIT or a start-up IPI.
    NotStarted,
    /// The vCPU had ended before, other than by asking for the end through a port, or ended while
    /// its handler ran.
    Ended(Outcome),
}

/// One vCPU's part of `Vm::run_nmi`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NmiRun {
    /// Which vCPU.
    pub cpu: u32,
    /// Whether KVM_NMI was called.
    pub injected: bool,
    /// What became of it.
    pub result: NmiResult,
    /// Where it stood with NMIs when it was stopped again.
    pub after: NmiState,
    /// Wall time from the injection until it was stopped.
    pub wall: Duration,
    /// CPU time that its thread used for that.
    pub run_time: Duration,
}

impl NmiRun {
    /// True if the handler ran to its end.
    pub fn finished(&self) -> bool {
        self.result == NmiResult::Finished
    }
}

/// Why a vCPU could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VcpuError {
    /// The VM has no such vCPU.
    #[error("ask cpu{0}: there is no such vCPU")]
    NoSuchVcpu(u32),
    /// Its thread did not answer in time. It will when it can.
    #[error(
        "ask cpu{cpu}: no answer from its thread within {} ms; is the serial output blocked, or \
         the host overloaded?",
        .waited.as_millis()
    )]
    NoAnswer {
        /// Which vCPU.
        cpu: u32,
        /// How long it was given.
        waited: Duration,
    },
    /// KVM refused.
    #[error("ask cpu{cpu}")]
    Kvm {
        /// Which vCPU.
        cpu: u32,
        /// The ioctl and its error.
        source: KvmError,
    },
}
