//! Why a VM could not be made.
//!
//! Owns the one error that `Vm::new` returns; the parts' own errors stand beside the parts. How a
//! VM *ends* is no error and stands in `event`.

use crate::boot::BootError;
use crate::kvm::KvmError;
use crate::memory::RamError;

/// Why a VM could not be made. Messages fit after "failed to"; causes are in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// A VM without CPUs.
    #[error("create a VM with 0 vCPUs: it needs at least 1")]
    NoVcpus,
    /// More vCPUs than KVM or this VMM can do.
    #[error("create a VM with {asked} vCPUs: the most that this host allows is {max}")]
    TooManyVcpus {
        /// What was asked for.
        asked: u32,
        /// KVM_CAP_MAX_VCPUS, or [`crate::MAX_VCPUS`] if that is less.
        max: u32,
    },
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory cannot be had.
    #[error(transparent)]
    Memory(#[from] RamError),
    /// The guest cannot be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A host call other than KVM's failed.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Its error.
        source: std::io::Error,
    },
}
