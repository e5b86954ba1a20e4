//! From a name to an address, and from there to guest-physical memory.
//!
//! Owns what all parts of the adapter look up in the same way, and the most CPUs that it believes in.

use nmiscope_machine::{
    GuestVirtual, PhysicalAddress, PhysicalMemory, ReadError, VirtualAddress, WalkError,
};
use nmiscope_symbolizer::{Place, TypeError, Types};

/// More CPUs than any kernel here has, and few enough to make a table of.
pub const MAX_CPUS: u64 = 4096;

/// The address of a variable in the image.
pub fn address(types: &Types<'_>, name: &str) -> Result<VirtualAddress, TypeError> {
    types.variable(name).map(|place: Place<'_>| place.address())
}

/// The guest-physical address of a guest-virtual one.
pub fn physical<M: PhysicalMemory + ?Sized>(
    memory: &GuestVirtual<'_, M>,
    address: VirtualAddress,
) -> Result<PhysicalAddress, TypeError> {
    let unmapped =
        |walk: WalkError| ReadError::Unmapped { address, length: 1, walk: Box::new(walk) };
    Ok(memory.physical(address).map_err(unmapped)?)
}
