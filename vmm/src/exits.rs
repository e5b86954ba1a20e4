//! Why KVM_RUN returned, in this VMM's own terms.
//!
//! Owns the decoding, in one place, of everything KVM_RUN can answer, and the counters of it;
//! refuses to own the reaction (`vcpu::thread`). Called by the vCPU thread after each KVM_RUN.

use std::sync::atomic::{AtomicU64, Ordering};

use kvm_ioctls::VcpuExit;
use vmm_sys_util::errno;

/// One return from KVM_RUN. Data borrowed from `kvm_run` must be dealt with before the next one.
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
    /// Nothing to do but to look at the command queue and go on: a kick, another signal, or a
    /// vCPU that waits for its start-up IPI.
    Interrupted,
    /// One instruction is done, as [`crate::Vm::step`] wanted.
    Stepped,
    Ended(End),
}

/// The ways in which a vCPU cannot go on. `vcpu::host` adds what KVM tells about them.
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
    /// The exit's name: none of these carries more than that for us.
    Unexpected(&'static str),
    Unknown {
        reason: u32,
    },
}

impl<'run> Exit<'run> {
    /// Decodes what `VcpuFd::run` returned.
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

    /// True if KVM finishes the instruction only at the next KVM_RUN, so that the registers are
    /// not those of an instruction boundary until then (api.rst, "5. The kvm_run structure").
    pub(crate) fn is_half_done(&self) -> bool {
        matches!(
            self,
            Self::PortIn { .. } | Self::PortOut { .. } | Self::MmioRead { .. } | Self::MmioWrite
        )
    }
}

/// How often KVM_RUN came back, by reason. Exits that KVM handles by itself are not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExitCounts {
    /// Reads from a port.
    pub port_reads: u64,
    /// Writes to a port.
    pub port_writes: u64,
    /// Reads and writes of guest-physical addresses without memory.
    pub mmio: u64,
    /// Kicks and other signals, vCPUs that came out of wait-for-SIPI, and single steps.
    pub interrupted: u64,
    /// Exits after which the vCPU could not go on.
    pub ended: u64,
}

impl ExitCounts {
    /// All of them.
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

/// One vCPU's counters: written by its thread, read by anyone. They order nothing, so relaxed.
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
