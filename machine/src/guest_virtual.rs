//! Guest-virtual memory, read through page tables.
//!
//! Owns the split of a read into pages and a small cache of translations; refuses to own the walk
//! itself (`arch`). Called by the kernel adapters, the unwinder's callers and the writer of cores.

use std::cell::Cell;

use crate::address::{PhysicalAddress, VirtualAddress};
use crate::arch::x86_64::PageTables;
use crate::fault::{ReadError, WalkError};
use crate::memory::{PhysicalMemory, VirtualMemory};

/// Translations that [`GuestVirtual`] caches. A backtrace touches a few stacks and tables.
const CACHED_PAGES: usize = 16;

/// Guest-virtual memory, read by walking page tables.
///
/// Caches the last few translations, so it must not outlive the moment for which the tables hold: make a
/// new one after the guest has run.
pub struct GuestVirtual<'a, M: ?Sized> {
    memory: &'a M,
    tables: PageTables,
    /// Direct-mapped by the low bits of the 4 KiB page number: (virtual page, physical page).
    cache: [Cell<Option<(u64, PhysicalAddress)>>; CACHED_PAGES],
}

impl<'a, M: PhysicalMemory + ?Sized> GuestVirtual<'a, M> {
    /// Makes the address space of `tables` over `memory`. Reads nothing yet.
    pub fn new(memory: &'a M, tables: PageTables) -> Self {
        Self { memory, tables, cache: Default::default() }
    }

    /// The page tables in use.
    pub fn tables(&self) -> &PageTables {
        &self.tables
    }

    /// Translates `address` to its guest-physical address, from the cache if it is there.
    ///
    /// # Errors
    /// See [`PageTables::translate`].
    pub fn physical(&self, address: VirtualAddress) -> Result<PhysicalAddress, WalkError> {
        let (page, offset) = (address.0 >> 12, address.0 & 0xfff);
        let slot = &self.cache[page as usize % CACHED_PAGES];
        if let Some((cached, physical)) = slot.get()
            && cached == page
        {
            return Ok(PhysicalAddress(physical.0 | offset));
        }
        let physical = self.tables.translate(self.memory, address)?.physical;
        slot.set(Some((page, PhysicalAddress(physical.0 & !0xfff))));
        Ok(physical)
    }
}

impl<M: PhysicalMemory + ?Sized> VirtualMemory for GuestVirtual<'_, M> {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let mut at = address;
        let mut rest = buffer;
        while !rest.is_empty() {
            let in_page = rest.len().min(0x1000 - (at.0 & 0xfff) as usize);
            let (now, later) = rest.split_at_mut(in_page);
            let physical = self.physical(at).map_err(|walk| ReadError::Unmapped {
                address,
                length,
                walk: Box::new(walk),
            })?;
            self.memory.read(physical, now)?;
            rest = later;
            if !rest.is_empty() {
                at = at.checked_add(in_page as u64).ok_or(ReadError::Wraps { address, length })?;
            }
        }
        Ok(())
    }
}
