//! What a stopped vCPU looks like from outside, and what became of an NMI sent to it.
//!
//! Owns the answers' types and their translation from KVM's; refuses to own when it is safe to ask
//! (`thread`). Used by `world` and by the crate's callers.

use std::io;
use std::time::Duration;

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_sregs, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use crate::event::Outcome;
use crate::kvm::KvmError;

/// IA32_TIME_STAMP_COUNTER.
const MSR_TSC: u32 = 0x10;

/// A vCPU's registers (KVM_GET_REGS and KVM_GET_SREGS). Addresses in them are guest-virtual, CR3 is
/// guest-physical.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "registers by their names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    /// The current privilege level: 0 for the kernel, 3 for programs (SS.DPL, as the processor keeps
    /// it).
    pub cpl: u8,
    /// Where the interrupt descriptor table lies.
    pub idt_base: u64,
    /// Its last byte's offset.
    pub idt_limit: u16,
}

/// A segment register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// What was loaded into it.
    pub selector: u16,
    /// Where the segment begins: guest-virtual, or linear without paging.
    pub base: u64,
}

impl From<&kvm_segment> for Segment {
    fn from(segment: &kvm_segment) -> Self {
        Self { selector: segment.selector, base: segment.base }
    }
}

impl Registers {
    fn new(general: &kvm_regs, special: &kvm_sregs) -> Self {
        Self {
            rax: general.rax,
            rbx: general.rbx,
            rcx: general.rcx,
            rdx: general.rdx,
            rsi: general.rsi,
            rdi: general.rdi,
            rsp: general.rsp,
            rbp: general.rbp,
            r8: general.r8,
            r9: general.r9,
            r10: general.r10,
            r11: general.r11,
            r12: general.r12,
            r13: general.r13,
            r14: general.r14,
            r15: general.r15,
            rip: general.rip,
            rflags: general.rflags,
            cr0: special.cr0,
            cr2: special.cr2,
            cr3: special.cr3,
            cr4: special.cr4,
            efer: special.efer,
            cs: (&special.cs).into(),
            ss: (&special.ss).into(),
            ds: (&special.ds).into(),
            es: (&special.es).into(),
            fs: (&special.fs).into(),
            gs: (&special.gs).into(),
            cpl: special.ss.dpl & 3,
            idt_base: special.idt.base,
            idt_limit: special.idt.limit,
        }
    }
}

/// KVM_GET_MP_STATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl VcpuState {
    /// Reads it. The vCPU must stand at an instruction boundary.
    pub(super) fn read(cpu: u32, vcpu: &VcpuFd) -> Result<Self, KvmError> {
        Ok(Self {
            cpu,
            // First, because it may act on a pending INIT or SIPI, which changes the registers.
            mp_state: MpState::read(vcpu)?,
            registers: Registers::new(
                &vcpu.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?,
                &vcpu.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?,
            ),
            nmi: NmiState::read(vcpu)?,
        })
    }
}

/// A vCPU's time-stamp counter, in cycles.
pub(super) fn read_tsc(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index: MSR_TSC, ..Default::default() }])
        .map_err(|_| KvmError::TableFull { table: "MSR", entries: 1 })?;
    vcpu.get_msrs(&mut msrs).map_err(KvmError::ioctl("KVM_GET_MSRS"))?;
    Ok(msrs.as_slice()[0].data)
}

/// What became of one vCPU in `Vm::run_nmi`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Its thread has not begun. It will in a moment.
    #[error("look at cpu{0}'s thread: it has not begun")]
    NoThreadYet(u32),
    /// The host does not tell of its thread.
    #[error("look at cpu{cpu}'s thread in /proc; is it mounted?")]
    Thread {
        /// Which vCPU.
        cpu: u32,
        /// The error of opening or reading its files there.
        source: io::Error,
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
