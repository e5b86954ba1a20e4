//! The one ACPI table that the kernel reads: the MADT, which lists CPUs and I/O APICs (ACPI 6.5,
//! 5.2.12). All reads are bounds-checked: a malformed table loses CPUs, but causes no fault.

use super::layout::{DIRECT_MAP_END, direct_map};

const MAX_TABLES: usize = 64;
const HEADER: usize = 36;

/// A table in physical memory below 4 GiB, read a field at a time.
#[derive(Clone, Copy)]
struct Table {
    physical: u64,
    length: usize,
}

impl Table {
    /// Returns the system description table at `physical`, with the length in its header.
    fn at(physical: u64) -> Option<Self> {
        let header = Self { physical, length: HEADER };
        let length = header.u32(4)? as usize;
        (length >= HEADER).then_some(Self { physical, length })
    }

    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let address = self.physical.checked_add(offset as u64)?;
        if offset.checked_add(N)? > self.length || address + N as u64 > DIRECT_MAP_END {
            return None;
        }
        // SAFETY: below 4 GiB, where all is mapped; bytes have no alignment and every value.
        Some(unsafe { (direct_map(address) as *const [u8; N]).read_volatile() })
    }

    fn u8(&self, offset: usize) -> Option<u8> {
        self.bytes::<1>(offset).map(|[byte]| byte)
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }
}

/// Multiple APIC Description Table, found in memory.
#[derive(Clone, Copy)]
pub struct Madt(Table);

/// An entry of the MADT of a kind that the kernel uses.
pub enum MadtEntry {
    /// A usable CPU, by its APIC ID.
    Cpu(u32),
    /// An I/O APIC: its physical address and its first global interrupt.
    IoApic(u32, u32),
}

impl Madt {
    /// Finds the MADT from the root pointer at the physical address `rsdp`. Without one, searches the area
    /// where PC firmware puts it.
    pub fn find(rsdp: Option<u64>) -> Option<Self> {
        let rsdp = rsdp.or_else(scan_for_rsdp)?;
        let root = Table { physical: rsdp, length: HEADER };
        let revision = root.u8(15)?;
        let extended = if revision >= 2 { root.u64(24)? } else { 0 };
        let (tables, width) =
            if extended != 0 { (extended, 8) } else { (u64::from(root.u32(16)?), 4) };
        let list = Table::at(tables)?;
        (HEADER..list.length)
            .step_by(width)
            .take(MAX_TABLES)
            .filter_map(|offset| {
                let address = match width {
                    8 => list.u64(offset)?,
                    _ => u64::from(list.u32(offset)?),
                };
                Table::at(address)
            })
            .find(|table| table.bytes(0) == Some(*b"APIC"))
            .map(Self)
    }

    /// Iterates over the entries, in the table's order.
    pub fn entries(self) -> impl Iterator<Item = MadtEntry> {
        let mut offset = HEADER + 8;
        core::iter::from_fn(move || {
            loop {
                let table = &self.0;
                let (kind, length) = (table.u8(offset)?, table.u8(offset + 1)?);
                if length < 2 {
                    return None;
                }
                let at = offset;
                offset += usize::from(length);
                const ENABLED: u32 = 1;
                match kind {
                    0 if table.u32(at + 4)? & ENABLED != 0 => {
                        return Some(MadtEntry::Cpu(u32::from(table.u8(at + 3)?)));
                    }
                    1 => return Some(MadtEntry::IoApic(table.u32(at + 4)?, table.u32(at + 8)?)),
                    9 if table.u32(at + 8)? & ENABLED != 0 => {
                        return Some(MadtEntry::Cpu(table.u32(at + 4)?));
                    }
                    _ => {}
                }
            }
        })
    }
}

/// Searches the BIOS area for the root pointer, which is on a 16-byte boundary (ACPI 6.5, 5.2.5.1).
/// Returns its physical address.
fn scan_for_rsdp() -> Option<u64> {
    (0xe_0000..0x10_0000)
        .step_by(16)
        .find(|&physical| Table { physical, length: 8 }.bytes(0) == Some(*b"RSD PTR "))
}
