//! State of a stopped vCPU, translated from KVM's structures to those of `nmiscope-machine`.
//!
//! Owns the translation, and the error of reading a vCPU; refuses to own when it is safe to read one
//! (`thread`). Used by `thread` and `world`.

use std::io;
use std::time::Duration;

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_sregs, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;
use nmiscope_machine::{MpState, NmiState, Registers, Segment, VcpuState};

use super::apic_timer;
use crate::kvm::KvmError;

/// MSR number of the time-stamp counter (IA32_TIME_STAMP_COUNTER).
const MSR_TSC: u32 = 0x10;

/// Reads a vCPU's whole state. The vCPU must be at an instruction boundary.
pub(super) fn read_state(cpu: u32, vcpu: &VcpuFd) -> Result<VcpuState, KvmError> {
    // First, because it may act on a pending INIT or SIPI, which changes the registers.
    let mp_state = read_mp_state(vcpu)?;
    let general = vcpu.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?;
    let special = vcpu.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?;
    let events = read_events(vcpu)?;
    // Elsewhere the timer's interrupt may be due this very moment, and it tells nothing of a hang.
    let is_halted = mp_state == MpState::Halted;
    let timer_armed = if is_halted { apic_timer::read_armed(vcpu) } else { None };
    Ok(VcpuState {
        cpu,
        registers: registers(&general, &special),
        nmi: Some(nmi_state(&events)),
        mp_state,
        smm: events.smi.smm != 0,
        timer_armed,
    })
}

/// Reads a vCPU's multiprocessing state: running, halted or not started.
pub(super) fn read_mp_state(vcpu: &VcpuFd) -> Result<MpState, KvmError> {
    let state = vcpu.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
    Ok(match state.mp_state {
        KVM_MP_STATE_RUNNABLE => MpState::Running,
        KVM_MP_STATE_HALTED => MpState::Halted,
        KVM_MP_STATE_UNINITIALIZED => MpState::Uninitialized,
        KVM_MP_STATE_INIT_RECEIVED => MpState::InitReceived,
        KVM_MP_STATE_SIPI_RECEIVED => MpState::SipiReceived,
        other => MpState::Other(other),
    })
}

/// Reads a vCPU's NMI state and interrupt shadow.
pub(super) fn read_nmi_state(vcpu: &VcpuFd) -> Result<NmiState, KvmError> {
    Ok(nmi_state(&read_events(vcpu)?))
}

fn read_events(vcpu: &VcpuFd) -> Result<kvm_vcpu_events, KvmError> {
    vcpu.get_vcpu_events().map_err(KvmError::ioctl("KVM_GET_VCPU_EVENTS"))
}

/// Reads a vCPU's time-stamp counter, in cycles.
pub(super) fn read_tsc(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    read_msr(vcpu, MSR_TSC)
}

/// Reads a model-specific register; zero if KVM does not have it.
pub(super) fn read_msr(vcpu: &VcpuFd, index: u32) -> Result<u64, KvmError> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }])
        .map_err(|_| KvmError::TableFull { table: "MSR", entries: 1 })?;
    vcpu.get_msrs(&mut msrs).map_err(KvmError::ioctl("KVM_GET_MSRS"))?;
    Ok(msrs.as_slice()[0].data)
}

fn nmi_state(events: &kvm_vcpu_events) -> NmiState {
    NmiState {
        pending: events.nmi.pending != 0,
        injected: events.nmi.injected != 0,
        masked: events.nmi.masked != 0,
        interrupt_shadow: events.interrupt.shadow != 0,
    }
}

fn segment(segment: &kvm_segment) -> Segment {
    Segment { selector: segment.selector, base: segment.base }
}

fn registers(general: &kvm_regs, special: &kvm_sregs) -> Registers {
    Registers {
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
        cs: segment(&special.cs),
        ss: segment(&special.ss),
        ds: segment(&special.ds),
        es: segment(&special.es),
        fs: segment(&special.fs),
        gs: segment(&special.gs),
        cpl: special.ss.dpl & 3,
        idt_base: special.idt.base,
        idt_limit: special.idt.limit,
        kernel_gs_base: None,
        control_unrecorded: false,
    }
}

/// Reasons why a vCPU could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VcpuError {
    /// The VM has no such vCPU.
    #[error("ask cpu{0}: there is no such vCPU")]
    NoSuchVcpu(u32),
    /// The vCPU's thread did not answer within the deadline. It still executes the command when it can.
    #[error(
        "ask cpu{cpu}: no answer from its thread within {} ms; is the serial output blocked, or \
         the host overloaded?",
        .waited.as_millis()
    )]
    NoAnswer {
        /// Number of the vCPU that did not answer.
        cpu: u32,
        /// The deadline that it missed.
        waited: Duration,
    },
    /// The vCPU's thread has been created a moment ago and has not begun yet.
    #[error("look at cpu{0}'s thread: it has not begun")]
    NoThreadYet(u32),
    /// The host's files about the vCPU's thread cannot be read.
    #[error("look at cpu{cpu}'s thread in /proc; is it mounted?")]
    Thread {
        /// Number of the vCPU that the thread runs.
        cpu: u32,
        /// Error of opening or reading the thread's files in /proc.
        source: io::Error,
    },
    /// An ioctl on the vCPU failed.
    #[error("ask cpu{cpu}")]
    Kvm {
        /// Number of the vCPU that the ioctl was for.
        cpu: u32,
        /// The ioctl that failed, and its error.
        source: KvmError,
    },
}
