//! The mappings of a whole address space, as ranges.
//!
//! Owns the walk over all page tables of an address space, where `page_walk` follows one address. Refuses
//! what `page_walk` refuses, and reports no permissions. Called by writers of cores: the ranges are a
//! core's program headers, and the tables themselves have to go into it.
//!
//! The tables are the guest's, and can point anywhere, at each other and at themselves: the walk is
//! as deep as there are levels, and [`MappingLimits`] bounds how many tables it reads.

use std::collections::BTreeSet;

use super::level::Level;
use super::page_walk::{ADDRESS, PAGE_SIZE_BIT, PRESENT, PageTables, index_shift};
use crate::address::{PhysicalAddress, VirtualAddress};
use crate::memory::PhysicalMemory;

/// Entries in a page table of any level.
const ENTRIES: usize = 512;

/// A run of guest-virtual addresses that maps to a run of guest-physical ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First guest-virtual address of the run.
    pub virtual_start: VirtualAddress,
    /// The guest-physical address that `virtual_start` maps to.
    pub physical_start: PhysicalAddress,
    /// Length in bytes. The virtual range can end with the address space, at 2^64.
    pub length: u64,
}

/// Limits on the work that an address space may cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingLimits {
    /// Tables to read, of any level; a table that several entries name counts each time.
    pub tables: usize,
    /// Ranges that are returned at most.
    pub ranges: usize,
}

impl Default for MappingLimits {
    /// Room for 32 GiB in scattered pages of 4 KiB; at most 64 MiB are read.
    fn default() -> Self {
        Self { tables: 16 << 10, ranges: 64 << 10 }
    }
}

/// The limit that ended a walk before the tables did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overrun {
    /// The walk had read [`MappingLimits::tables`] tables.
    Tables,
    /// The walk had found [`MappingLimits::ranges`] ranges.
    Ranges,
}

/// The mappings of an address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mappings {
    /// The ranges by virtual address, without overlaps; neighbours that are adjacent in both spaces are
    /// joined.
    pub ranges: Vec<Mapping>,
    /// Guest-physical addresses of the tables that were read, in ascending order: a 4 KiB page each.
    pub tables: Vec<PhysicalAddress>,
    /// Number of entries that named a table which could not be read.
    pub unreadable: usize,
    /// The limit that was hit; `None` if the list is complete.
    pub overrun: Option<Overrun>,
}

impl PageTables {
    /// Lists everything that these tables map. Entries with reserved bits map nothing, as in
    /// [`translate`](Self::translate), and a table that cannot be read whole maps nothing either.
    ///
    /// The upper half of the space, where kernels live, is walked first, so that a process with many
    /// mappings cannot use up the limits.
    pub fn mappings(
        &self,
        memory: &(impl PhysicalMemory + ?Sized),
        limits: MappingLimits,
    ) -> Mappings {
        let mut walk = Walk {
            tables: self,
            memory,
            limits,
            reads: 0,
            pages: BTreeSet::new(),
            found: Mappings::default(),
        };
        let levels = [Level::Pml5, Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt];
        let levels = if self.levels() == 5 { &levels[..] } else { &levels[1..] };
        let mut kernel = 0;
        if let Some(root) = walk.read_table(self.root()) {
            let (user_half, kernel_half) = root.split_at(ENTRIES / 2);
            walk.entries(kernel_half, levels, !0 << (index_shift(levels[0]) + 8));
            kernel = walk.found.ranges.len();
            walk.entries(user_half, levels, 0);
        }
        // The two halves cannot touch: addresses between them are not canonical.
        walk.found.ranges.rotate_left(kernel);
        walk.found.tables = walk.pages.into_iter().map(PhysicalAddress).collect();
        walk.found
    }
}

struct Walk<'a, M: ?Sized> {
    tables: &'a PageTables,
    memory: &'a M,
    limits: MappingLimits,
    reads: usize,
    pages: BTreeSet<u64>,
    found: Mappings,
}

impl<M: PhysicalMemory + ?Sized> Walk<'_, M> {
    /// Reads the entries of a table. `None` if the limit is reached or the table is not in memory.
    fn read_table(&mut self, table: PhysicalAddress) -> Option<[u64; ENTRIES]> {
        if self.reads >= self.limits.tables {
            self.found.overrun = Some(Overrun::Tables);
            return None;
        }
        self.reads += 1;
        let mut bytes = [0; ENTRIES * 8];
        if self.memory.read(table, &mut bytes).is_err() {
            self.found.unreadable += 1;
            return None;
        }
        self.pages.insert(table.0);
        let mut entries = [0; ENTRIES];
        for (entry, bytes) in entries.iter_mut().zip(bytes.as_chunks().0) {
            *entry = u64::from_le_bytes(*bytes);
        }
        Some(entries)
    }

    /// Walks consecutive entries of a table of the first of `levels`; the first entry maps `start`.
    /// Recurses once per level.
    fn entries(&mut self, entries: &[u64], levels: &[Level], start: u64) {
        let Some((&level, below)) = levels.split_first() else { return };
        let size = 1 << index_shift(level);
        for (index, &entry) in (0_u64..).zip(entries) {
            if self.found.overrun.is_some() {
                return;
            }
            let address = start + index * size;
            if entry & PRESENT == 0 || entry & self.tables.reserved_bits(level, entry) != 0 {
                continue;
            }
            if level == Level::Pt || entry & PAGE_SIZE_BIT != 0 {
                self.leaf(address, entry & ADDRESS & !(size - 1), size);
            } else if let Some(table) = self.read_table(PhysicalAddress(entry & ADDRESS)) {
                self.entries(&table, below, address);
            }
        }
    }

    fn leaf(&mut self, address: u64, physical: u64, size: u64) {
        // A range that begins at 0 joins none, though the range before it may end at 2^64.
        if address != 0
            && let Some(last) = self.found.ranges.last_mut()
            && last.virtual_start.0.wrapping_add(last.length) == address
            && last.physical_start.0 + last.length == physical
        {
            last.length += size;
        } else if self.found.ranges.len() < self.limits.ranges {
            self.found.ranges.push(Mapping {
                virtual_start: VirtualAddress(address),
                physical_start: PhysicalAddress(physical),
                length: size,
            });
        } else {
            self.found.overrun = Some(Overrun::Ranges);
        }
    }
}
