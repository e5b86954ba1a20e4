//! Contents of guest memory at the boot CPU's first instruction.
//!
//! Owns the order: check the image, load it, then write the tables that the guest reads. Refuses to own
//! the boot CPU's registers (`vcpu::setup`) and the memory itself. Called by `vm`, once.

mod acpi;
mod image;
mod initrd;
mod pvh;

use vm_memory::{GuestAddress, GuestMemoryMmap};

pub use image::BootImageError;
pub use initrd::InitrdError;
pub use pvh::PvhError;

/// Loads `image`, and `initrd` if there is one, and writes the PVH start info for `cpus` vCPUs and
/// `bytes` of RAM.
///
/// Returns the guest-physical address of the 32-bit entry point.
pub(crate) fn load(
    memory: &GuestMemoryMmap,
    bytes: u64,
    image: &[u8],
    initrd: Option<&[u8]>,
    cmdline: &str,
    cpus: u32,
) -> Result<GuestAddress, BootError> {
    let checked = image::check(image, bytes)?;
    checked.load(memory)?;
    acpi::write(memory, cpus).map_err(PvhError::Write)?;
    let initrd = initrd
        .map(|data| initrd::load(memory, bytes, checked.end_below_hole(), data))
        .transpose()?;
    pvh::write(memory, bytes, initrd, cmdline)?;
    Ok(checked.entry())
}

/// Checks that an image can be booted in `bytes` of RAM, without a VM.
///
/// # Errors
/// The image is no x86-64 ELF file with a PVH entry point, is damaged, or does not fit.
pub fn check_image(image: &[u8], bytes: u64) -> Result<(), BootImageError> {
    image::check(image, bytes).map(|_| ())
}

/// Reasons why a guest could not be prepared to boot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The image cannot be booted.
    #[error(transparent)]
    Image(#[from] BootImageError),
    /// The initial RAM disk cannot be loaded.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// The tables that a PVH guest reads could not be written.
    #[error(transparent)]
    Pvh(#[from] PvhError),
}
