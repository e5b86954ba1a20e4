//! Page walks checked against hand-built tables, and against a plain map from pages to frames.

#[path = "common/paging.rs"]
mod paging;

use nmiscope_machine::{
    GuestVirtual, Level, PageSize, PageTables, PagingError, PhysicalAddress, ReadError,
    VirtualAddress, VirtualMemory, WalkError,
};
use paging::*;
use proptest::prelude::*;

#[test]
fn a_kernel_address_is_found_through_four_levels() {
    let memory = kernel_tables();
    let found = four_levels(0x1000).translate(&memory, KERNEL).expect("mapped");
    assert_eq!(found.physical, PhysicalAddress(0x7234));
    assert_eq!(found.page_size, PageSize::Size4K);
    assert!(!found.writable, "the last level takes it away");
    assert!(!found.user && found.executable);
}

#[test]
fn five_level_tables_start_at_pml5() {
    let mut memory = kernel_tables();
    memory.write_entry(0x9000, 511, 0x1000 | P | W);
    let tables = five_levels(0x9000);
    assert_eq!(tables.levels(), 5);
    assert_eq!(
        tables.translate(&memory, KERNEL).expect("mapped").physical,
        PhysicalAddress(0x7234)
    );
    // Canonical with five levels, not with four.
    let wide = VirtualAddress(0x0012_0000_0000_0000);
    assert!(matches!(
        tables.translate(&memory, wide),
        Err(WalkError::NotPresent { level: Level::Pml5, .. })
    ));
    assert_eq!(
        four_levels(0x1000).translate(&memory, wide),
        Err(WalkError::NotCanonical { address: wide, levels: 4 })
    );
}

#[test]
fn an_address_of_the_direct_map_is_found_through_five_levels() {
    let mut memory = direct_map_tables();
    let tables = five_levels(0x1000);
    let found = tables.translate(&memory, DIRECT_MAP).expect("mapped");
    assert_eq!((found.physical.0, found.page_size), (0x4020_3004, PageSize::Size4K));
    assert!(found.writable && !found.user && !found.executable, "the first level forbids fetches");
    // As Linux maps it, with a page of 1 GiB.
    memory.write_entry(0x3000, 1, 0x4000_0000 | P | W | PS);
    let found = tables.translate(&memory, DIRECT_MAP).expect("mapped");
    assert_eq!((found.physical.0, found.page_size), (0x4020_3004, PageSize::Size1G));
    // Its sign bit is bit 56.
    let not_canonical = VirtualAddress(0x0111_0000_4020_3004);
    assert_eq!(
        tables.translate(&memory, not_canonical),
        Err(WalkError::NotCanonical { address: not_canonical, levels: 5 })
    );
}

#[test]
fn five_levels_name_the_level_that_is_missing_or_reserved() {
    for (table, index, level) in [
        (0x1000, 273, Level::Pml5),
        (0x2000, 0, Level::Pml4),
        (0x3000, 1, Level::Pdpt),
        (0x4000, 1, Level::Pd),
        (0x5000, 3, Level::Pt),
    ] {
        let mut memory = direct_map_tables();
        memory.write_entry(table, index, 0);
        assert_eq!(
            five_levels(0x1000).translate(&memory, DIRECT_MAP),
            Err(WalkError::NotPresent { address: DIRECT_MAP, level, entry: 0 })
        );
    }
    // A page of 256 TiB does not exist.
    let mut memory = direct_map_tables();
    memory.write_entry(0x1000, 273, 0x2000 | P | PS);
    assert!(matches!(
        five_levels(0x1000).translate(&memory, DIRECT_MAP),
        Err(WalkError::ReservedBits { level: Level::Pml5, reserved: PS, .. })
    ));
}

#[test]
fn with_page_table_isolation_kernel_tables_lie_one_page_lower() {
    // With page-table isolation Linux has two top-level tables side by side, the kernel's on an even
    // page (arch/x86/mm/pti.c); bit 11 is the program's PCID.
    let mut memory = kernel_tables();
    memory.write_entry(0x6000, 511, 0x2000 | P | W);
    memory.write_entry(0x7000, 0, 0x5000 | P | U);
    let of_program = four_levels(0x7000 | 1 << 11 | 3);
    assert_eq!(of_program.root(), PhysicalAddress(0x7000));
    assert!(of_program.translate(&memory, KERNEL).is_err());
    let of_kernel = of_program.kernel_half();
    assert_eq!(of_kernel.root(), PhysicalAddress(0x6000));
    assert_eq!(of_kernel.kernel_half(), of_kernel);
    let found = of_kernel.translate(&memory, KERNEL).expect("mapped");
    assert_eq!(found.physical, PhysicalAddress(0x7234));
}

#[test]
fn large_pages_end_the_walk_early() {
    let mut memory = kernel_tables();
    memory.write_entry(0x3000, 1, 0x0060_0000 | P | W | PS | NX);
    let found = four_levels(0x1000).translate(&memory, KERNEL).expect("mapped");
    assert_eq!((found.physical.0, found.page_size), (0x0060_1234, PageSize::Size2M));
    assert!(found.writable && !found.executable);

    memory.write_entry(0x2000, 510, 0x4000_0000 | P | PS);
    let found = four_levels(0x1000).translate(&memory, KERNEL).expect("mapped");
    assert_eq!((found.physical.0, found.page_size), (0x4020_1234, PageSize::Size1G));
}

#[test]
fn the_bits_of_pcid_and_lam_are_no_part_of_the_root() {
    let tables = four_levels(1 << 63 | 1 << 62 | 0x1fff);
    assert_eq!(tables.root(), PhysicalAddress(0x1000));
}

#[test]
fn a_missing_entry_names_its_level() {
    for (table, index, level) in [
        (0x1000, 511, Level::Pml4),
        (0x2000, 510, Level::Pdpt),
        (0x3000, 1, Level::Pd),
        (0x4000, 1, Level::Pt),
    ] {
        let mut memory = kernel_tables();
        memory.write_entry(table, index, 0xdead_0000);
        assert_eq!(
            four_levels(0x1000).translate(&memory, KERNEL),
            Err(WalkError::NotPresent { address: KERNEL, level, entry: 0xdead_0000 })
        );
    }
}

#[test]
fn reserved_bits_are_reported_and_not_followed() {
    let reserved = |table, index, entry, tables: PageTables| {
        let mut memory = kernel_tables();
        memory.write_entry(table, index, entry);
        match tables.translate(&memory, KERNEL) {
            Err(WalkError::ReservedBits { level, reserved, .. }) => Some((level, reserved)),
            _ => None,
        }
    };
    let tables = four_levels(0x1000);
    assert_eq!(reserved(0x1000, 511, 0x2000 | P | PS, tables), Some((Level::Pml4, PS)));
    assert_eq!(reserved(0x2000, 510, 0x4000_2000 | P | PS, tables), Some((Level::Pdpt, 0x2000)));
    assert_eq!(
        reserved(0x3000, 1, 0x0060_0000 | P | PS | 1 << 13, tables),
        Some((Level::Pd, 1 << 13))
    );
    // Bit 12 of a large page is its PAT bit.
    assert_eq!(reserved(0x3000, 1, 0x0060_0000 | P | PS | 1 << 12, tables), None);
    let narrow = tables.with_physical_address_width(40);
    assert_eq!(reserved(0x4000, 1, 0x7000 | P | 1 << 40, narrow), Some((Level::Pt, 1 << 40)));
    assert_eq!(reserved(0x4000, 1, 0x7000 | P | 1 << 40, tables), None);
    let without_nx =
        PageTables::from_control_registers(CR0, 0x1000, CR4_PAE, 0x500).expect("long mode");
    assert_eq!(reserved(0x4000, 1, 0x7000 | P | NX, without_nx), Some((Level::Pt, NX)));
}

#[test]
fn a_table_outside_memory_is_an_error_with_its_level() {
    let mut memory = kernel_tables();
    memory.write_entry(0x3000, 1, 0x00ff_f000 | P);
    let Err(WalkError::TableUnreadable { level, source, .. }) =
        four_levels(0x1000).translate(&memory, KERNEL)
    else {
        panic!("the page table is not in memory");
    };
    assert_eq!(level, Level::Pt);
    assert_eq!(source, ReadError::Unbacked { address: PhysicalAddress(0x00ff_f008), length: 8 });
}

#[test]
fn registers_without_long_mode_paging_are_refused() {
    let from = PageTables::from_control_registers;
    assert_eq!(from(0x11, 0, CR4_PAE, EFER_LMA_NXE), Err(PagingError::Off { cr0: 0x11 }));
    assert!(matches!(from(CR0, 0, 0, EFER_LMA_NXE), Err(PagingError::NotLongMode { .. })));
    assert!(matches!(from(CR0, 0, CR4_PAE, 0), Err(PagingError::NotLongMode { .. })));
}

#[test]
fn a_read_crosses_pages_that_are_not_neighbours() {
    let mut memory = kernel_tables();
    memory.write_entry(0x4000, 2, 0x5000 | P);
    memory.write(0x7ffe, b"ab");
    memory.write(0x5000, b"cd");
    let guest = GuestVirtual::new(&memory, four_levels(0x1000));
    let mut bytes = [0; 4];
    guest.read(VirtualAddress(0xffff_ffff_8020_1ffe), &mut bytes).expect("mapped");
    assert_eq!(&bytes, b"abcd");

    let address = VirtualAddress(0xffff_ffff_8020_2ffe);
    let Err(ReadError::Unmapped { address: of, length: 4, walk }) = guest.read(address, &mut bytes)
    else {
        panic!("the second page is not mapped");
    };
    assert_eq!(of, address);
    assert!(matches!(*walk, WalkError::NotPresent { address, level: Level::Pt, .. }
        if address.0 == 0xffff_ffff_8020_3000));
}

#[test]
fn a_read_past_the_end_of_the_address_space_does_not_wrap() {
    let mut memory = kernel_tables();
    memory.write_entry(0x2000, 511, 0x4000_0000 | P | PS);
    memory.write(0x7fff_f000, &[1; 4096]);
    let guest = GuestVirtual::new(&memory, four_levels(0x1000));
    let address = VirtualAddress(u64::MAX - 1);
    assert_eq!(guest.read(address, &mut [0; 2]), Ok(()));
    assert_eq!(guest.read(address, &mut [0; 3]), Err(ReadError::Wraps { address, length: 3 }));
}

#[test]
fn a_second_read_of_a_page_uses_the_cached_translation() {
    let memory = kernel_tables();
    let guest = GuestVirtual::new(&memory, four_levels(0x1000));
    let mut bytes = [0; 5];
    guest.read(KERNEL, &mut bytes).expect("mapped");
    assert_eq!((&bytes, memory.reads.get()), (b"stack", 5));
    guest.read(KERNEL, &mut bytes).expect("mapped");
    assert_eq!(memory.reads.get(), 6);
}

proptest! {
    #[test]
    fn translations_equal_a_map_of_pages(
        (levels, pages) in space(),
        probes in prop::collection::vec((any::<prop::sample::Index>(), any::<i32>()), 1..40),
    ) {
        let mut memory = Sparse::default();
        memory.write_entry(0x1000, 0, 0);
        let mut next_table = 0x1000;
        let mut is_mapped = |&page: &Page| map(&mut memory, &mut next_table, levels, page);
        let mapped: Vec<_> = pages.into_iter().filter(&mut is_mapped).collect();
        let tables = tables(levels, 0x1000);
        let guest = GuestVirtual::new(&memory, tables);
        for (near, distance) in probes {
            let base = near.get(&mapped).virtual_base;
            let address = VirtualAddress(base.wrapping_add(distance as i64 as u64));
            let expected = mapped
                .iter()
                .find(|page| address.0.wrapping_sub(page.virtual_base) < page.size.bytes());
            let found = tables.translate(&memory, address);
            prop_assert_eq!(found.clone().map(|found| found.physical), guest.physical(address));
            match expected {
                None => prop_assert!(found.is_err(), "{} is not mapped: {:?}", address, found),
                Some(page) => {
                    let found = found.expect("mapped");
                    let offset = address.0 - page.virtual_base;
                    prop_assert_eq!(found.physical.0, page.physical_base + offset);
                    prop_assert_eq!(found.page_size, page.size);
                    prop_assert_eq!(found.writable, page.flags & W != 0);
                    prop_assert_eq!(found.user, page.flags & U != 0);
                    prop_assert_eq!(found.executable, page.flags & NX == 0);
                }
            }
        }
    }

    #[test]
    fn tables_of_garbage_end_in_an_answer(
        bytes in prop::collection::vec(any::<u8>(), 4096 * 3),
        address in any::<u64>(),
        cr3 in 0..0x3000_u64,
        levels in 4..=5_u8,
    ) {
        let mut memory = Sparse::default();
        memory.write(0, &bytes);
        let tables = tables(levels, cr3);
        if let Ok(found) = tables.translate(&memory, VirtualAddress(address)) {
            prop_assert!(found.physical.0 < 1 << 52);
        }
        let _ = GuestVirtual::new(&memory, tables).read(VirtualAddress(address), &mut [0; 9000]);
    }
}
