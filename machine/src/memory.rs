//! The two ways to read a guest's memory.
//!
//! Owns the traits only. Whoever has memory implements [`PhysicalMemory`] (a VM, a core file);
//! `guest_virtual` makes [`VirtualMemory`] of it, which is what typed reads and the unwinder ask
//! for. There is no write here: only a live target has one.

use crate::address::{PhysicalAddress, VirtualAddress};
use crate::fault::ReadError;

/// Memory by guest-physical address.
pub trait PhysicalMemory {
    /// Fills `buffer` with the bytes from `address` on. On an error its contents are unspecified.
    ///
    /// # Errors
    /// [`ReadError::Unbacked`] or [`ReadError::Target`] unless every byte was read.
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError>;
}

/// Memory by guest-virtual address, in one address space.
pub trait VirtualMemory {
    /// Fills `buffer` with the bytes from `address` on. On an error its contents are unspecified.
    ///
    /// # Errors
    /// Any [`ReadError`] unless every byte was read.
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError>;
}

impl<M: PhysicalMemory + ?Sized> PhysicalMemory for &M {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        (**self).read(address, buffer)
    }
}

impl<M: VirtualMemory + ?Sized> VirtualMemory for &M {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        (**self).read(address, buffer)
    }
}
