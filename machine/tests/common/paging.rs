//! Page tables made by hand and at random, in sparse physical memory.

#![allow(dead_code, reason = "each test uses its part")]

use std::cell::Cell;
use std::collections::BTreeMap;

use nmiscope_machine::{
    PageSize, PageTables, PhysicalAddress, PhysicalMemory, ReadError, VirtualAddress,
};
use proptest::prelude::*;

pub const CR0: u64 = 0x8000_0011;
pub const CR4_PAE: u64 = 1 << 5;
pub const CR4_LA57: u64 = 1 << 12;
pub const EFER_LMA_NXE: u64 = 0xd00;

pub const P: u64 = 1;
pub const W: u64 = 2;
pub const U: u64 = 4;
pub const PS: u64 = 1 << 7;
pub const NX: u64 = 1 << 63;

/// Physical memory of 4 KiB pages, each of which exists once it is written.
#[derive(Default)]
pub struct Sparse {
    pub pages: BTreeMap<u64, Vec<u8>>,
    pub reads: Cell<usize>,
}

impl Sparse {
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        for (at, &byte) in (address..).zip(bytes) {
            let page = self.pages.entry(at >> 12).or_insert_with(|| vec![0; 4096]);
            page[at as usize & 0xfff] = byte;
        }
    }

    pub fn write_entry(&mut self, table: u64, index: u64, entry: u64) {
        self.write(table + 8 * index, &entry.to_le_bytes());
    }

    pub fn entry(&self, table: u64, index: u64) -> u64 {
        let page = self.pages.get(&(table >> 12));
        let at = index as usize * 8;
        page.map_or(0, |page| u64::from_le_bytes(page[at..at + 8].try_into().expect("8 bytes")))
    }
}

impl PhysicalMemory for Sparse {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.reads.set(self.reads.get() + 1);
        let length = buffer.len();
        let mut at = address.0;
        let mut rest = buffer;
        while !rest.is_empty() {
            let begin = at as usize & 0xfff;
            let (now, later) = rest.split_at_mut(rest.len().min(4096 - begin));
            let page =
                self.pages.get(&(at >> 12)).ok_or(ReadError::Unbacked { address, length })?;
            now.copy_from_slice(&page[begin..begin + now.len()]);
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

pub fn four_levels(cr3: u64) -> PageTables {
    PageTables::from_control_registers(CR0, cr3, CR4_PAE, EFER_LMA_NXE).expect("long mode")
}

pub fn five_levels(cr3: u64) -> PageTables {
    let cr4 = CR4_PAE | CR4_LA57;
    PageTables::from_control_registers(CR0, cr3, cr4, EFER_LMA_NXE).expect("long mode")
}

/// Page tables of 4 or 5 levels.
pub fn tables(levels: u8, cr3: u64) -> PageTables {
    if levels == 5 { five_levels(cr3) } else { four_levels(cr3) }
}

/// Maps `ffffffff80201234` by tables at 0x1000 (PML4), 0x2000 (PDPT), 0x3000 (PD) and 0x4000 (PT). Indexes
/// worked out by hand: 511, 510, 1, 1.
pub fn kernel_tables() -> Sparse {
    let mut memory = Sparse::default();
    memory.write_entry(0x1000, 511, 0x2000 | P | W);
    memory.write_entry(0x2000, 510, 0x3000 | P | W);
    memory.write_entry(0x3000, 1, 0x4000 | P | W);
    memory.write_entry(0x4000, 1, 0x7000 | P);
    memory.write(0x7234, b"stack");
    memory
}

pub const KERNEL: VirtualAddress = VirtualAddress(0xffff_ffff_8020_1234);

/// Maps `ff11000040203004`, in Linux's direct map with five levels, by tables at 0x1000 (PML5), 0x2000
/// (PML4), 0x3000 (PDPT), 0x4000 (PD) and 0x5000 (PT). Indexes worked out by hand: the nine bits from bit
/// 48 on are 0x111 or 273, and below them 0, 1, 1 and 3.
pub fn direct_map_tables() -> Sparse {
    let mut memory = Sparse::default();
    memory.write_entry(0x1000, 273, 0x2000 | P | W | NX);
    memory.write_entry(0x2000, 0, 0x3000 | P | W);
    memory.write_entry(0x3000, 1, 0x4000 | P | W);
    memory.write_entry(0x4000, 1, 0x5000 | P | W);
    memory.write_entry(0x5000, 3, 0x4020_3000 | P | W);
    memory
}

pub const DIRECT_MAP: VirtualAddress = VirtualAddress(0xff11_0000_4020_3004);

/// A page of the model: its virtual base, its size, its physical base and its flags.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub virtual_base: u64,
    pub size: PageSize,
    pub physical_base: u64,
    pub flags: u64,
}

/// Generates a number of levels, and pages to map with them.
pub fn space() -> impl Strategy<Value = (u8, Vec<Page>)> {
    (4..=5_u8).prop_flat_map(|levels| (Just(levels), prop::collection::vec(page(levels), 1..40)))
}

/// Generates pages from few distinct indexes per level, so that pages share tables and neighbours are
/// common.
fn page(levels: u8) -> impl Strategy<Value = Page> {
    let index = || prop_oneof![0..3_u64, 254..258_u64, 509..512_u64];
    let size = prop_oneof![Just(PageSize::Size4K), Just(PageSize::Size2M), Just(PageSize::Size1G)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(w, u, nx)| P + u64::from(w) * W + u64::from(u) * U + u64::from(nx) * NX);
    let indexes = (index(), index(), index(), index(), index());
    (indexes, size, 0..1_u64 << 20, flags).prop_map(
        move |((top, a, b, c, d), size, frame, flags)| {
            let low = top << 48 | a << 39 | b << 30 | c << 21 | d << 12;
            let unused = if levels == 5 { 7 } else { 16 };
            let canonical = ((low << unused) as i64 >> unused) as u64;
            let mask = !(size.bytes() - 1);
            Page {
                virtual_base: canonical & mask,
                size,
                physical_base: (frame << 20) & mask,
                flags,
            }
        },
    )
}

pub fn index(address: u64, shift: u32) -> u64 {
    address >> shift & 511
}

/// Maps a page and returns true, unless another page is in its way.
pub fn map(memory: &mut Sparse, next_table: &mut u64, levels: u8, page: Page) -> bool {
    let leaf_shift = page.size.bytes().trailing_zeros();
    let mut table = 0x1000;
    let shifts = [48, 39, 30, 21, 12];
    for &shift in if levels == 5 { &shifts[..] } else { &shifts[1..] } {
        let at = index(page.virtual_base, shift);
        let entry = memory.entry(table, at);
        if shift == leaf_shift {
            if entry != 0 {
                return false;
            }
            let large = if shift > 12 { PS } else { 0 };
            memory.write_entry(table, at, page.physical_base | page.flags | large);
            return true;
        }
        if entry & PS != 0 {
            return false;
        }
        if entry == 0 {
            *next_table += 0x1000;
            memory.write_entry(table, at, *next_table | P | W | U);
            table = *next_table;
        } else {
            table = entry & 0x000f_ffff_ffff_f000;
        }
    }
    unreachable!("every page size is one of the shifts")
}
