//! The two ways to read a guest's memory.
//!
//! Owns the traits only. A source of memory (a VM, a core file) implements [`PhysicalMemory`];
//! `guest_virtual` makes [`VirtualMemory`] of it, which typed reads and the unwinder take. There is no
//! write here: only a live target has one.

use crate::address::{PhysicalAddress, VirtualAddress};
use crate::fault::ReadError;

/// Guest memory, read by guest-physical address.
pub trait PhysicalMemory {
    /// Fills `buffer` with the bytes from `address` on. On an error its contents are unspecified.
    ///
    /// # Errors
    /// [`ReadError::Unbacked`] or [`ReadError::Target`] unless every byte was read.
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError>;

    /// Reads a little-endian 32-bit word.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_u32(&self, address: PhysicalAddress) -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian 64-bit word.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_u64(&self, address: PhysicalAddress) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Guest memory, read by guest-virtual address in a single address space.
pub trait VirtualMemory {
    /// Fills `buffer` with the bytes from `address` on. On an error its contents are unspecified.
    ///
    /// # Errors
    /// Any [`ReadError`] unless every byte was read.
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError>;

    /// Reads a little-endian 32-bit word.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_u32(&self, address: VirtualAddress) -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian 64-bit word.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_u64(&self, address: VirtualAddress) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
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
