//! Exits: the reasons why KVM_RUN returned, in this VMM's own terms.
//!
//! Owns the decoding, in one place, of all that KVM_RUN can return, and the counters of exits;
//! refuses to own the reaction (`vcpu::thread`). Called by the vCPU thread after each KVM_RUN.

use std::sync::atomic::{AtomicU64, Ordering};

use kvm_ioctls::VcpuExit;
use vmm_sys_util::errno;

/// A return from KVM_RUN. Data borrowed from `kvm_run` must be handled before the next KVM_RUN.
#[derive(Debug)]
pub(crate) enum Exit<'run> {
    PortIn {
        port: u16,
        data: &'run mut [u8],
    },
    PortOut {
        port: u16,
        data: &'run [u8],
    },
    MmioRead {
        data: &'run mut [u8],
    },
    MmioWrite,
    /// KVM_RUN was interrupted: by a kick, by another signal, or because the vCPU waits for its start-up
    /// IPI. The thread checks its command queue and enters the guest again.
    Interrupted,
    /// The vCPU has executed the one instruction that [`crate::Vm::step`] asked for, or has reached the
    /// address given to [`crate::Vm::run_to`].
    Stepped,
    Ended(End),
}

/// Reasons why a vCPU cannot run any further. `vcpu::host` adds the details that KVM has of them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Shutdown,
    InternalError,
    EntryFailure {
        reason: u64,
    },
    SystemEvent {
        kind: u32,
    },
    MemoryFault {
        gpa: u64,
    },
    Failed {
        errno: i32,
    },
    /// An exit that this VMM does not expect, by its name.
    Unexpected(&'static str),
    Unknown {
        reason: u32,
    },
}

impl<'run> Exit<'run> {
    /// Decodes the result of `VcpuFd::run`.
    pub(crate) fn decode(returned: Result<VcpuExit<'run>, errno::Error>) -> Self {
        match returned {
            Ok(exit) => Self::from_kvm(exit),
            // EAGAIN: the vCPU was in wait-for-SIPI, and woke up.
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => Self::Interrupted,
                errno => Self::Ended(End::Failed { errno }),
            },
        }
    }

    fn from_kvm(exit: VcpuExit<'run>) -> Self {
        match exit {
            VcpuExit::IoIn(port, data) => Self::PortIn { port, data },
            VcpuExit::IoOut(port, data) => Self::PortOut { port, data },
            VcpuExit::MmioRead(_, data) => Self::MmioRead { data },
            VcpuExit::MmioWrite(..) => Self::MmioWrite,
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => Self::Interrupted,
            VcpuExit::Shutdown => Self::Ended(End::Shutdown),
            VcpuExit::InternalError => Self::Ended(End::InternalError),
            VcpuExit::FailEntry(reason, _) => Self::Ended(End::EntryFailure { reason }),
            VcpuExit::SystemEvent(kind, _) => Self::Ended(End::SystemEvent { kind }),
            VcpuExit::MemoryFault { gpa, .. } => Self::Ended(End::MemoryFault { gpa }),
            // With the irqchip in the kernel these do not leave it.
            VcpuExit::Hlt => Self::Ended(End::Unexpected("KVM_EXIT_HLT")),
            VcpuExit::SetTpr => Self::Ended(End::Unexpected("KVM_EXIT_SET_TPR")),
            VcpuExit::TprAccess => Self::Ended(End::Unexpected("KVM_EXIT_TPR_ACCESS")),
            VcpuExit::IoapicEoi(_) => Self::Ended(End::Unexpected("KVM_EXIT_IOAPIC_EOI")),
            VcpuExit::Debug(_) => Self::Stepped,
            // These need a capability that this VMM does not enable.
            VcpuExit::Hypercall(_) => Self::Ended(End::Unexpected("KVM_EXIT_HYPERCALL")),
            VcpuExit::Hyperv => Self::Ended(End::Unexpected("KVM_EXIT_HYPERV")),
            VcpuExit::X86Rdmsr(_) => Self::Ended(End::Unexpected("KVM_EXIT_X86_RDMSR")),
            VcpuExit::X86Wrmsr(_) => Self::Ended(End::Unexpected("KVM_EXIT_X86_WRMSR")),
            VcpuExit::Unknown => Self::Ended(End::Unexpected("KVM_EXIT_UNKNOWN")),
            VcpuExit::Exception => Self::Ended(End::Unexpected("KVM_EXIT_EXCEPTION")),
            VcpuExit::Nmi => Self::Ended(End::Unexpected("KVM_EXIT_NMI")),
            VcpuExit::Unsupported(reason) => Self::Ended(End::Unknown { reason }),
            // Exits of other architectures.
            _ => Self::Ended(End::Unexpected("of another architecture")),
        }
    }

    /// Returns true if KVM finishes the instruction only at the next KVM_RUN, so that the registers are
    /// not those of an instruction boundary until then (api.rst, "5. The kvm_run structure").
    pub(crate) fn is_half_done(&self) -> bool {
        matches!(
            self,
            Self::PortIn { .. } | Self::PortOut { .. } | Self::MmioRead { .. } | Self::MmioWrite
        )
    }
}

/// Counts of returns from KVM_RUN, by reason. Exits that KVM handles by itself are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExitCounts {
    /// Exits for a read from an I/O port.
    pub port_reads: u64,
    /// Exits for a write to an I/O port.
    pub port_writes: u64,
    /// Exits for a read or write of a guest-physical address without memory.
    pub mmio: u64,
    /// Exits for a kick or another signal, for leaving wait-for-SIPI, and for a single step.
    pub interrupted: u64,
    /// Exits after which the vCPU could not run any further.
    pub ended: u64,
}

impl ExitCounts {
    /// Returns the number of exits of all kinds.
    pub fn total(&self) -> u64 {
        self.port_reads + self.port_writes + self.mmio + self.interrupted + self.ended
    }
}

impl std::iter::Sum for ExitCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |a, b| Self {
            port_reads: a.port_reads + b.port_reads,
            port_writes: a.port_writes + b.port_writes,
            mmio: a.mmio + b.mmio,
            interrupted: a.interrupted + b.interrupted,
            ended: a.ended + b.ended,
        })
    }
}

/// Counters of a vCPU's exits: written by its thread, read by any. Relaxed: they order no other memory.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    port_reads: AtomicU64,
    port_writes: AtomicU64,
    mmio: AtomicU64,
    interrupted: AtomicU64,
    ended: AtomicU64,
}

impl Counters {
    pub(crate) fn count(&self, exit: &Exit<'_>) {
        let counter = match exit {
            Exit::PortIn { .. } => &self.port_reads,
            Exit::PortOut { .. } => &self.port_writes,
            Exit::MmioRead { .. } | Exit::MmioWrite => &self.mmio,
            Exit::Interrupted | Exit::Stepped => &self.interrupted,
            Exit::Ended(_) => &self.ended,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> ExitCounts {
        ExitCounts {
            port_reads: self.port_reads.load(Ordering::Relaxed),
            port_writes: self.port_writes.load(Ordering::Relaxed),
            mmio: self.mmio.load(Ordering::Relaxed),
            interrupted: self.interrupted.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
        }
    }
}
