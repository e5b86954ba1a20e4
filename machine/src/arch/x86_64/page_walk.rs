//! x86-64 page walks: from a guest-virtual address to a guest-physical one.
//!
//! Owns 4- and 5-level long-mode paging (Intel SDM volume 3, chapter 5), for one address at a time:
//! `mappings` covers a whole address space. Refuses 32-bit and PAE paging, protection keys, and permission
//! checks: it reports what the tables allow, and the reader is not the guest. Called by `GuestVirtual`,
//! with control registers from KVM or a core.

use super::level::Level;
use crate::address::{PhysicalAddress, VirtualAddress};
use crate::fault::WalkError;
use crate::memory::PhysicalMemory;

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

pub(crate) const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
pub(crate) const PAGE_SIZE_BIT: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Address bits of an entry or CR3: 51:12, the most that it can hold.
pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The widest physical address that the architecture allows, in bits.
const MAX_PHYSICAL_WIDTH: u8 = 52;

/// The reason why control registers describe no long-mode paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PagingError {
    /// CR0.PG is clear: addresses are physical.
    #[error("walk page tables: paging is off (cr0 {cr0:#x})")]
    Off {
        /// The value of CR0 that was given.
        cr0: u64,
    },
    /// The source has no control registers, and so no CR3.
    #[error("walk page tables: the vCPU's control registers are not recorded")]
    NotRecorded,
    /// Paging is on, but the CPU is not in long mode, so the tables have another format.
    #[error("walk page tables: paging is on outside long mode (cr4 {cr4:#x}, efer {efer:#x})")]
    NotLongMode {
        /// The value of CR4 that was given.
        cr4: u64,
        /// The value of EFER that was given.
        efer: u64,
    },
}

/// Size of the page that maps an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB, mapped by a PT entry.
    Size4K,
    /// 2 MiB, mapped by a PD entry.
    Size2M,
    /// 1 GiB, mapped by a PDPT entry.
    Size1G,
}

impl PageSize {
    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Size4K => 1 << 12,
            Self::Size2M => 1 << 21,
            Self::Size1G => 1 << 30,
        }
    }
}

/// The result of a page walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest-physical address that the virtual one maps to.
    pub physical: PhysicalAddress,
    /// The size of the page that maps the address.
    pub page_size: PageSize,
    /// True when every level allows writes.
    pub writable: bool,
    /// True when every level allows user-mode accesses.
    pub user: bool,
    /// True when no level forbids instruction fetches.
    pub executable: bool,
}

/// An address space: its top-level table and the format of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTables {
    root: PhysicalAddress,
    levels: u8,
    no_execute: bool,
    physical_width: u8,
}

impl PageTables {
    /// Makes the address space that these control registers of a vCPU or a core select. PCID and LAM bits
    /// in `cr3` are ignored. The physical address width is taken to be the widest, 52 bits; see
    /// [`with_physical_address_width`](Self::with_physical_address_width).
    ///
    /// # Errors
    /// [`PagingError`] when these registers do not select long-mode paging.
    pub fn from_control_registers(
        cr0: u64,
        cr3: u64,
        cr4: u64,
        efer: u64,
    ) -> Result<Self, PagingError> {
        if cr0 & CR0_PG == 0 {
            return Err(PagingError::Off { cr0 });
        }
        if cr4 & CR4_PAE == 0 || efer & EFER_LMA == 0 {
            return Err(PagingError::NotLongMode { cr4, efer });
        }
        Ok(Self {
            root: PhysicalAddress(cr3 & ADDRESS),
            levels: if cr4 & CR4_LA57 != 0 { 5 } else { 4 },
            no_execute: efer & EFER_NXE != 0,
            physical_width: MAX_PHYSICAL_WIDTH,
        })
    }

    /// Sets MAXPHYADDR (CPUID 80000008h, EAX bits 7:0), in bits, clamped to 32..=52: table entries with
    /// address bits at or above it are reported as reserved.
    pub fn with_physical_address_width(self, bits: u8) -> Self {
        let physical_width = bits.clamp(32, MAX_PHYSICAL_WIDTH);
        Self { physical_width, root: PhysicalAddress(self.root.0 & below(physical_width)), ..self }
    }

    /// The kernel's tables of the two that Linux has for each process with page-table isolation. The two
    /// lie side by side, the kernel's first, and bit 12 of CR3 selects the program's (PTI_USER_PGTABLE_BIT,
    /// arch/x86/entry/calling.h). Tables that have that bit clear are returned unchanged.
    ///
    /// Any other kernel may have an unrelated page there: use this only where a vCPU was stopped in a
    /// program and the kernel's addresses are not mapped.
    #[must_use]
    pub fn kernel_half(self) -> Self {
        const USER_TABLES: u64 = 1 << 12;
        Self { root: PhysicalAddress(self.root.0 & !USER_TABLES), ..self }
    }

    /// Guest-physical address of the top-level table.
    pub fn root(&self) -> PhysicalAddress {
        self.root
    }

    /// The number of levels: 4, or 5 with CR4.LA57.
    pub fn levels(&self) -> u8 {
        self.levels
    }

    /// Walks the tables for one address, reading at most five entries.
    ///
    /// # Errors
    /// [`WalkError`], with the level at which the walk ended.
    pub fn translate(
        &self,
        memory: &(impl PhysicalMemory + ?Sized),
        address: VirtualAddress,
    ) -> Result<Translation, WalkError> {
        if !self.is_canonical(address) {
            return Err(WalkError::NotCanonical { address, levels: self.levels });
        }
        let levels: &[Level] = &[Level::Pml5, Level::Pml4, Level::Pdpt, Level::Pd];
        let mut table = self.root;
        let mut rights = Rights { writable: true, user: true, executable: true };
        for &level in if self.levels == 5 { levels } else { &levels[1..] } {
            let entry = self.entry(memory, table, level, address)?;
            rights.restrict(entry);
            let page_size = match level {
                Level::Pdpt => PageSize::Size1G,
                _ => PageSize::Size2M,
            };
            if entry & PAGE_SIZE_BIT != 0 {
                return Ok(rights.translation(entry, page_size, address));
            }
            table = PhysicalAddress(entry & ADDRESS);
        }
        let entry = self.entry(memory, table, Level::Pt, address)?;
        rights.restrict(entry);
        Ok(rights.translation(entry, PageSize::Size4K, address))
    }

    fn is_canonical(&self, address: VirtualAddress) -> bool {
        let unused = 64 - (12 + 9 * u32::from(self.levels));
        ((address.0 as i64) << unused >> unused) as u64 == address.0
    }

    /// Reads the entry of `table` for `address`, which is present and has no reserved bit set.
    fn entry(
        &self,
        memory: &(impl PhysicalMemory + ?Sized),
        table: PhysicalAddress,
        level: Level,
        address: VirtualAddress,
    ) -> Result<u64, WalkError> {
        let index = address.0 >> index_shift(level) & 0x1ff;
        let mut bytes = [0; 8];
        // Cannot wrap: `table` is masked to 52 bits.
        memory
            .read(PhysicalAddress(table.0 + index * 8), &mut bytes)
            .map_err(|source| WalkError::TableUnreadable { address, level, source })?;
        let entry = u64::from_le_bytes(bytes);
        if entry & PRESENT == 0 {
            return Err(WalkError::NotPresent { address, level, entry });
        }
        let reserved = entry & self.reserved_bits(level, entry);
        if reserved != 0 {
            return Err(WalkError::ReservedBits { address, level, entry, reserved });
        }
        Ok(entry)
    }

    /// The bits of a present entry that must be clear (Intel SDM volume 3, tables 5-14 to 5-20).
    pub(crate) fn reserved_bits(&self, level: Level, entry: u64) -> u64 {
        let address = ADDRESS & !below(self.physical_width);
        let no_execute = if self.no_execute { 0 } else { NO_EXECUTE };
        let by_level = match (level, entry & PAGE_SIZE_BIT != 0) {
            // In the upper two levels the bit itself is reserved; in a PT entry it is the PAT bit.
            (Level::Pml5 | Level::Pml4, _) => PAGE_SIZE_BIT,
            // Bit 12 of an entry that maps a large page is the PAT bit.
            (Level::Pdpt, true) => below(30) & !below(13),
            (Level::Pd, true) => below(21) & !below(13),
            (Level::Pdpt | Level::Pd, false) | (Level::Pt, _) => 0,
        };
        address | no_execute | by_level
    }
}

/// A mask of all bits below `bit`.
fn below(bit: u8) -> u64 {
    (1 << bit) - 1
}

pub(crate) fn index_shift(level: Level) -> u32 {
    match level {
        Level::Pt => 12,
        Level::Pd => 21,
        Level::Pdpt => 30,
        Level::Pml4 => 39,
        Level::Pml5 => 48,
    }
}

/// Permissions accumulated along the walk: each level can only take away.
struct Rights {
    writable: bool,
    user: bool,
    executable: bool,
}

impl Rights {
    fn restrict(&mut self, entry: u64) {
        self.writable &= entry & WRITABLE != 0;
        self.user &= entry & USER != 0;
        self.executable &= entry & NO_EXECUTE == 0;
    }

    fn translation(self, leaf: u64, page_size: PageSize, address: VirtualAddress) -> Translation {
        let offset = page_size.bytes() - 1;
        Translation {
            physical: PhysicalAddress(leaf & ADDRESS & !offset | address.0 & offset),
            page_size,
            writable: self.writable,
            user: self.user,
            executable: self.executable,
        }
    }
}
