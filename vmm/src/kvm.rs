//! Access to /dev/kvm: opening it, checking its capabilities, and naming its failures.
//!
//! Owns the device's handle and the error for every KVM ioctl; refuses to own VMs and vCPUs.
//! Called by `vm` (to open and create) and by all callers of an ioctl, for [`KvmError::ioctl`].

use std::ffi::CStr;
use std::io;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::errno;

const DEVICE: &CStr = c"/dev/kvm";

/// Capabilities that this VMM requires, by their names in Linux's Documentation/virt/kvm/api.rst.
const REQUIRED: [(Cap, &str); 8] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::UserNmi, "KVM_CAP_USER_NMI"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Reasons why KVM cannot be used, or why an ioctl of KVM failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmError {
    /// /dev/kvm does not exist (ENOENT).
    #[error(
        "open /dev/kvm: it does not exist; load the kvm_intel or kvm_amd module, enable \
         virtualization in the firmware, or nested virtualization if this machine is itself virtual"
    )]
    Missing(#[source] io::Error),
    /// /dev/kvm may not be opened (EACCES or EPERM).
    #[error(
        "open /dev/kvm: no permission; join the kvm group (usermod -aG kvm USER, then log in \
         again) or check the permissions of /dev/kvm"
    )]
    Permission(#[source] io::Error),
    /// /dev/kvm could not be opened for any other reason.
    #[error("open /dev/kvm")]
    Open(#[source] io::Error),
    /// The API version is not the one that has been stable since Linux 2.6.22.
    #[error("use /dev/kvm: its API version is {0}, not {KVM_API_VERSION}")]
    ApiVersion(i32),
    /// A required capability, named here, is missing.
    #[error("use /dev/kvm: this host's KVM lacks {0}; a newer kernel has it")]
    MissingCapability(&'static str),
    /// An ioctl of KVM failed.
    #[error("set up a virtual machine: {name} failed")]
    Ioctl {
        /// Name of the ioctl, such as `KVM_RUN`.
        name: &'static str,
        /// Error number that the ioctl returned.
        source: io::Error,
    },
    /// A table for KVM is longer than KVM takes.
    #[error("set up a virtual machine: {entries} {table} entries are more than KVM takes")]
    TableFull {
        /// Kind of the table: CPUID or MSR.
        table: &'static str,
        /// Number of entries in the table.
        entries: usize,
    },
}

impl KvmError {
    /// Converts an errno to an error that names the ioctl: `.map_err(KvmError::ioctl("KVM_RUN"))`.
    pub(crate) fn ioctl(name: &'static str) -> impl FnOnce(errno::Error) -> Self {
        move |error| Self::Ioctl { name, source: error.into() }
    }

    fn open(error: errno::Error) -> Self {
        let source = io::Error::from(error);
        match source.raw_os_error() {
            Some(libc::ENOENT) => Self::Missing(source),
            Some(libc::EACCES | libc::EPERM) => Self::Permission(source),
            _ => Self::Open(source),
        }
    }
}

/// Checks that VMs can be created on this host, for callers that are about to create many.
///
/// # Errors
/// KVM is missing, may not be used, or lacks a required capability.
pub fn check() -> Result<(), KvmError> {
    open().map(drop)
}

/// Opens /dev/kvm and checks its API version and required capabilities.
pub(crate) fn open() -> Result<Kvm, KvmError> {
    open_at(DEVICE)
}

fn open_at(path: &CStr) -> Result<Kvm, KvmError> {
    let kvm = Kvm::new_with_path(path).map_err(KvmError::open)?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        return Err(KvmError::ApiVersion(version));
    }
    for (cap, name) in REQUIRED {
        if !kvm.check_extension(cap) {
            return Err(KvmError::MissingCapability(name));
        }
    }
    Ok(kvm)
}

/// Creates a VM (KVM_CREATE_VM). Retries when a signal interrupts the ioctl, which may wait for hardware.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    const TRIES: usize = 5;
    let mut created = kvm.create_vm();
    for _ in 1..TRIES {
        match &created {
            Err(error) if error.errno() == libc::EINTR => created = kvm.create_vm(),
            _ => break,
        }
    }
    created.map_err(KvmError::ioctl("KVM_CREATE_VM"))
}

/// Returns the CPUID leaves that KVM can give a guest (KVM_GET_SUPPORTED_CPUID).
pub(crate) fn supported_cpuid(kvm: &Kvm) -> Result<CpuId, KvmError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::ioctl("KVM_GET_SUPPORTED_CPUID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_says_what_to_load() {
        let error = open_at(c"/dev/no-such-kvm").unwrap_err();
        assert!(matches!(error, KvmError::Missing(_)));
        assert!(error.to_string().contains("kvm_intel or kvm_amd"), "{error}");
    }

    #[test]
    fn a_lack_of_permission_names_the_group() {
        let error = KvmError::open(errno::Error::new(libc::EACCES));
        assert!(matches!(error, KvmError::Permission(_)));
        assert!(error.to_string().contains("join the kvm group"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_kvm_has_the_wrong_api_version() {
        assert!(matches!(open_at(c"/dev/null").unwrap_err(), KvmError::ApiVersion(-1)));
    }
}
