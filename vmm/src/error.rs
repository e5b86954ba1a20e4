//! The error of creating a VM.
//!
//! Owns the one error that `Vm::new` returns; the parts' own errors are beside the parts. The way a VM
//! *ends* is no error: see `event`.

use crate::boot::BootError;
use crate::kvm::KvmError;
use crate::memory::RamError;

/// Reasons why a VM could not be created. Messages fit after "failed to"; causes are in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The configuration asks for 0 vCPUs.
    #[error("create a VM with 0 vCPUs: it needs at least 1")]
    NoVcpus,
    /// The configuration asks for more vCPUs than KVM or this VMM supports.
    #[error("create a VM with {asked} vCPUs: the most that this host allows is {max}")]
    TooManyVcpus {
        /// Number of vCPUs in the configuration.
        asked: u32,
        /// The limit: KVM_CAP_MAX_VCPUS, or [`crate::MAX_VCPUS`] if that is less.
        max: u32,
    },
    /// KVM cannot be used on this host.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory cannot be allocated.
    #[error(transparent)]
    Memory(#[from] RamError),
    /// The guest cannot be prepared to boot.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A host call other than KVM's failed.
    #[error("{what}")]
    Host {
        /// The operation that failed, as a verb phrase.
        what: &'static str,
        /// Error of the host call.
        source: std::io::Error,
    },
}
