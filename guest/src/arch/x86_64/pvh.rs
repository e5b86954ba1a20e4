//! Data that a PVH loader passes: `hvm_start_info` and the tables it points at (Xen's public header
//! `arch-x86/hvm/start_info.h`). Owns reading them; refuses to act on them.

use super::layout::{DIRECT_MAP_END, direct_map};

const MAGIC: u32 = 0x336e_c578;
const TYPE_RAM: u32 = 1;
const MAX_COMMAND_LINE: usize = 2048;
const MAX_MEMORY_MAP_ENTRIES: u32 = 128;

/// Xen's `struct hvm_start_info`, version 1.
#[repr(C)]
pub struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

impl StartInfo {
    /// Returns the structure at the physical address that the loader passed.
    ///
    /// # Safety
    /// `physical` is the value of EBX at the entry point.
    pub unsafe fn at(physical: u64) -> &'static Self {
        // SAFETY: the boot ABI: it lies in memory below 4 GiB, all of which is mapped, and stays.
        let info = unsafe { &*(direct_map(physical) as *const Self) };
        assert!(info.magic == MAGIC, "not booted by PVH: no start info at {physical:#x}");
        info
    }

    /// Returns the kernel parameters; empty if there are none or they are not UTF-8.
    pub fn command_line(&self) -> &'static str {
        if self.command_line == 0 || self.command_line >= DIRECT_MAP_END {
            return "";
        }
        let start = direct_map(self.command_line) as *const u8;
        // SAFETY: mapped, as all below 4 GiB; the length is bounded; nothing writes there.
        let bytes = unsafe { core::slice::from_raw_parts(start, MAX_COMMAND_LINE) };
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(MAX_COMMAND_LINE);
        core::str::from_utf8(&bytes[..end]).unwrap_or("")
    }

    /// Returns the physical address of the ACPI root pointer, `None` if the loader gave none.
    pub fn rsdp(&self) -> Option<u64> {
        (self.rsdp != 0).then_some(self.rsdp)
    }

    /// Returns the end of the RAM region that has the address `physical`, or `physical` if none has it.
    pub fn ram_end_around(&self, physical: u64) -> u64 {
        if self.version == 0 || self.memory_map == 0 || self.memory_map >= DIRECT_MAP_END {
            return physical;
        }
        let count = self.memory_map_entries.min(MAX_MEMORY_MAP_ENTRIES) as usize;
        let start = direct_map(self.memory_map) as *const MemoryMapEntry;
        // SAFETY: the boot ABI, version 1: that many entries lie there, below 4 GiB.
        let entries = unsafe { core::slice::from_raw_parts(start, count) };
        entries
            .iter()
            .filter(|entry| entry.kind == TYPE_RAM)
            .map(|entry| (entry.address, entry.address.saturating_add(entry.size)))
            .find(|&(start, end)| (start..end).contains(&physical))
            .map_or(physical, |(_, end)| end)
    }
}
