//! Addresses: from a name in the image to a guest-virtual and a guest-physical address.
//!
//! Owns the lookups that all parts of the adapter share, and the bound on CPUs. Called by the whole
//! adapter.

use nmiscope_machine::{
    GuestVirtual, PhysicalAddress, PhysicalMemory, ReadError, VirtualAddress, WalkError,
};
use nmiscope_symbolizer::{Place, TypeError, Types};

/// The most CPUs that are read: more than any kernel here has, and few enough for a table.
pub const MAX_CPUS: u64 = 4096;

/// Returns the address of a variable in the image.
pub fn address(types: &Types<'_>, name: &str) -> Result<VirtualAddress, TypeError> {
    types.variable(name).map(|place: Place<'_>| place.address())
}

/// Translates a guest-virtual address to a guest-physical one.
pub fn physical<M: PhysicalMemory + ?Sized>(
    memory: &GuestVirtual<'_, M>,
    address: VirtualAddress,
) -> Result<PhysicalAddress, TypeError> {
    let unmapped =
        |walk: WalkError| ReadError::Unmapped { address, length: 1, walk: Box::new(walk) };
    Ok(memory.physical(address).map_err(unmapped)?)
}
