//! Page tables built from the input: CR3, CR4, an address, and then (table, index, entry) in 8 bytes each,
//! all within 16 pages, so that tables that name each other and themselves are common.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nmiscope_machine::{
    GuestVirtual, MappingLimits, PageTables, PhysicalAddress, PhysicalMemory, ReadError,
    VirtualAddress, VirtualMemory,
};

const PAGES: usize = 16;
const PAGE: usize = 4096;

struct Memory(Vec<u8>);

impl PhysicalMemory for Memory {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let from = usize::try_from(address.0).ok();
        let bytes = from.and_then(|from| self.0.get(from..from.checked_add(length)?));
        buffer.copy_from_slice(bytes.ok_or(ReadError::Unbacked { address, length })?);
        Ok(())
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_at_checked(12) else { return };
    let mut memory = Memory(vec![0; PAGES * PAGE]);
    // The place of an entry takes two bytes; the entry itself has 44 address bits, and flags, and NX.
    for entry in rest.chunks_exact(8) {
        let at = usize::from(entry[0] & 15) * PAGE + usize::from(entry[1]) * 16;
        let value = word(&entry[2..8]);
        let value = value & 0x0000_7fff_ffff_ffff | (value >> 47) << 63;
        memory.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let cr4 = 1 << 5 | u64::from(head[0] & 1) << 12;
    let cr3 = word(&head[1..4]);
    let address = VirtualAddress(word(&head[4..12]));
    let Ok(tables) = PageTables::from_control_registers(0x8000_0011, cr3, cr4, 0xd00) else {
        return;
    };
    if let Ok(found) = tables.translate(&memory, address) {
        assert!(found.physical.0 < 1 << 52);
        assert_eq!(GuestVirtual::new(&memory, tables).physical(address), Ok(found.physical));
    }
    let _ = GuestVirtual::new(&memory, tables).read(address, &mut [0; 5000]);
    let _ = GuestVirtual::new(&memory, tables.kernel_half()).read(address, &mut [0; 8]);
    let limits = MappingLimits { tables: 64, ranges: 64 };
    let found = tables.mappings(&memory, limits);
    assert!(found.ranges.len() <= limits.ranges);
    for pair in found.ranges.windows(2) {
        let end = pair[0].virtual_start.0.checked_add(pair[0].length);
        assert!(end.is_some_and(|end| end <= pair[1].virtual_start.0), "{pair:?}");
    }
    for mapping in &found.ranges {
        let there = tables.translate(&memory, mapping.virtual_start).expect("it is mapped");
        assert_eq!(there.physical, mapping.physical_start);
    }
});
