//! Mappings of whole address spaces, checked against hand-built tables and single translations, and made of
//! random entries.

#[path = "common/paging.rs"]
mod paging;

use nmiscope_machine::{
    Mapping, MappingLimits, Mappings, Overrun, PageTables, PhysicalAddress, PhysicalMemory,
    VirtualAddress,
};
use paging::*;
use proptest::prelude::*;

const LIMITS: MappingLimits = MappingLimits { tables: 64, ranges: 64 };

fn range(virtual_start: u64, physical_start: u64, length: u64) -> Mapping {
    Mapping {
        virtual_start: VirtualAddress(virtual_start),
        physical_start: PhysicalAddress(physical_start),
        length,
    }
}

fn pages(found: &Mappings) -> Vec<u64> {
    found.tables.iter().map(|table| table.0).collect()
}

#[test]
fn pages_adjacent_in_both_address_spaces_form_one_range() {
    let mut memory = kernel_tables();
    // 4 KiB pages up to the end of their table, a 2 MiB page, and the next gigabyte.
    for index in 1..512 {
        memory.write_entry(0x4000, index, (0x4020_0000 + index * 0x1000) | P);
    }
    for index in 2..512 {
        memory.write_entry(0x3000, index, (0x4000_0000 + index * 0x20_0000) | P | PS);
    }
    memory.write_entry(0x2000, 511, 0x8000_0000 | P | PS);
    let found = four_levels(0x1000).mappings(&memory, LIMITS);
    let length = (1 << 31) - 0x20_1000;
    assert_eq!(found.ranges, [range(0xffff_ffff_8020_1000, 0x4020_1000, length)]);
    assert_eq!(pages(&found), [0x1000, 0x2000, 0x3000, 0x4000]);
    assert_eq!((found.unreadable, found.overrun), (0, None));
}

#[test]
fn ranges_are_sorted_and_split_where_physical_addresses_are_not_adjacent() {
    let mut memory = kernel_tables();
    memory.write_entry(0x4000, 2, 0x9000 | P);
    memory.write_entry(0x4000, 4, 0xa000 | P);
    memory.write_entry(0x1000, 0, 0x2000 | P);
    let low = 510 << 30;
    let high = 0xffff_ffff_8000_0000;
    let found = four_levels(0x1000).mappings(&memory, LIMITS);
    let of = |base: u64| {
        [(0x20_1000, 0x7000), (0x20_2000, 0x9000), (0x20_4000, 0xa000)]
            .map(|(at, physical)| range(base + at, physical, 0x1000))
    };
    assert_eq!(found.ranges, [of(low), of(high)].concat());
    assert_eq!(pages(&found), [0x1000, 0x2000, 0x3000, 0x4000], "each of them once");
}

#[test]
fn no_range_wraps_past_the_end_of_the_address_space() {
    let mut memory = Sparse::default();
    memory.write_entry(0x1000, 511, 0x2000 | P);
    memory.write_entry(0x1000, 0, 0x3000 | P);
    memory.write_entry(0x2000, 511, 0x4000_0000 | P | PS);
    memory.write_entry(0x3000, 0, 0x8000_0000 | P | PS);
    let found = four_levels(0x1000).mappings(&memory, LIMITS);
    let gigabyte = 1 << 30;
    assert_eq!(
        found.ranges,
        [range(0, 0x8000_0000, gigabyte), range(0xffff_ffff_c000_0000, 0x4000_0000, gigabyte)]
    );
}

#[test]
fn five_level_tables_start_at_pml5() {
    let mut memory = kernel_tables();
    memory.write_entry(0x9000, 511, 0x1000 | P);
    memory.write_entry(0x9000, 256, 0x1000 | P);
    let found = five_levels(0x9000).mappings(&memory, LIMITS);
    assert_eq!(
        found.ranges,
        [
            range(0xff00_ffff_8020_1000, 0x7000, 0x1000),
            range(0xffff_ffff_8020_1000, 0x7000, 0x1000)
        ]
    );
}

#[test]
fn entries_that_the_cpu_would_refuse_map_nothing() {
    let mut memory = kernel_tables();
    memory.write_entry(0x1000, 0, 0x2000 | P | PS);
    memory.write_entry(0x3000, 2, 0x0060_0000 | P | PS | 1 << 13);
    memory.write_entry(0x4000, 0, 0x7000);
    let found = four_levels(0x1000).mappings(&memory, LIMITS);
    assert_eq!(found.ranges, [range(0xffff_ffff_8020_1000, 0x7000, 0x1000)]);
}

#[test]
fn tables_outside_memory_are_counted_and_the_rest_is_found() {
    let mut memory = kernel_tables();
    memory.write_entry(0x3000, 7, 0x00ff_f000 | P);
    memory.write_entry(0x1000, 3, 0x000f_ffff_ffff_f000 | P);
    let found = four_levels(0x1000).mappings(&memory, LIMITS);
    assert_eq!(found.ranges.len(), 1);
    assert_eq!((found.unreadable, found.overrun), (2, None));

    let found = four_levels(0x00ff_f000).mappings(&memory, LIMITS);
    assert_eq!((found.ranges.len(), found.unreadable), (0, 1));
}

#[test]
fn a_table_that_names_itself_everywhere_ends_at_the_limit() {
    let mut memory = Sparse::default();
    for index in 0..512 {
        memory.write_entry(0x1000, index, 0x1000 | P);
    }
    let tables = four_levels(0x1000);
    let found = tables.mappings(&memory, MappingLimits { tables: 1000, ranges: 1 << 20 });
    assert_eq!(found.overrun, Some(Overrun::Tables));
    assert_eq!(memory.reads.get(), 1000);
    assert_eq!(pages(&found), [0x1000]);

    let found = tables.mappings(&memory, MappingLimits { tables: 1000, ranges: 100 });
    assert_eq!((found.overrun, found.ranges.len()), (Some(Overrun::Ranges), 100));
}

#[test]
fn limits_are_spent_on_the_kernel_half_first() {
    let mut memory = kernel_tables();
    // The lower half: scattered pages, more than there may be ranges.
    memory.write_entry(0x1000, 0, 0x5000 | P | U);
    memory.write_entry(0x5000, 0, 0x6000 | P | U);
    memory.write_entry(0x6000, 0, 0x8000 | P | U);
    for index in 0..512 {
        memory.write_entry(0x8000, index, (0x10_0000 + index * 0x2000) | P | U);
    }
    let limits = MappingLimits { ranges: 10, ..LIMITS };
    let found = four_levels(0x1000).mappings(&memory, limits);
    assert_eq!((found.overrun, found.ranges.len()), (Some(Overrun::Ranges), 10));
    assert_eq!(found.ranges[0], range(0, 0x10_0000, 0x1000));
    assert_eq!(found.ranges[9], range(0xffff_ffff_8020_1000, 0x7000, 0x1000));
}

/// Checks that ranges are sorted and apart, and that single translations agree at both ends and in the
/// middle.
fn agrees_with_translations(
    tables: &PageTables,
    memory: &impl PhysicalMemory,
    found: &Mappings,
) -> Result<(), TestCaseError> {
    let mut end = Some(0);
    for range in &found.ranges {
        let start = range.virtual_start.0;
        prop_assert!(end.is_some_and(|end| end <= start), "{range:?} overlaps the one before");
        end = start.checked_add(range.length);
        for offset in [0, range.length / 2, range.length - 1] {
            let address = VirtualAddress(start + offset);
            let translated = tables.translate(memory, address).expect("mapped");
            prop_assert_eq!(translated.physical.0, range.physical_start.0 + offset);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn mappings_equal_a_map_of_pages((levels, pages) in space()) {
        let mut memory = Sparse::default();
        memory.write_entry(0x1000, 0, 0);
        let mut next_table = 0x1000;
        let mut is_mapped = |&page: &Page| map(&mut memory, &mut next_table, levels, page);
        let mut mapped: Vec<_> = pages.into_iter().filter(&mut is_mapped).collect();
        mapped.sort_by_key(|page| page.virtual_base);
        // Merged by hand: page by page, in order.
        let mut expected: Vec<Mapping> = Vec::new();
        for page in mapped {
            let next = range(page.virtual_base, page.physical_base, page.size.bytes());
            match expected.last_mut() {
                Some(last)
                    if last.virtual_start.0.checked_add(last.length) == Some(page.virtual_base)
                        && last.physical_start.0 + last.length == page.physical_base =>
                {
                    last.length += next.length;
                }
                _ => expected.push(next),
            }
        }
        let tables = tables(levels, 0x1000);
        let limits = MappingLimits { tables: 1000, ranges: 1000 };
        let found = tables.mappings(&memory, limits);
        prop_assert_eq!(&found.ranges, &expected);
        prop_assert_eq!((found.unreadable, found.overrun), (0, None));
        let all: Vec<u64> = (0x1000..=next_table).step_by(0x1000).collect();
        prop_assert_eq!(found.tables.iter().map(|table| table.0).collect::<Vec<_>>(), all);
        agrees_with_translations(&tables, &memory, &found)?;
    }

    /// Maps three pages of entries, most of which name one of the three: tables that share and cycle.
    #[test]
    fn tables_of_garbage_end_in_a_bounded_answer(
        entries in prop::collection::vec((0..3 * 512_u64, any::<u64>(), 0..6_u64), 1..60),
        cr3 in 0..3_u64,
        levels in 4..=5_u8,
        limits in (0..300_usize, 0..300_usize),
    ) {
        let mut memory = Sparse::default();
        memory.write(0, &[0; 3 * 4096]);
        for (index, noise, table) in entries {
            let entry = if table < 4 { table << 12 | P | noise & 0xff } else { noise };
            memory.write_entry(0, index, entry);
        }
        let tables = tables(levels, cr3 << 12);
        let limits = MappingLimits { tables: limits.0, ranges: limits.1 };
        let found = tables.mappings(&memory, limits);
        prop_assert!(memory.reads.get() <= limits.tables);
        prop_assert!(found.ranges.len() <= limits.ranges);
        prop_assert!(found.tables.len() <= 3);
        agrees_with_translations(&tables, &memory, &found)?;
    }
}
