//! Tests of the memory map parsers with the monitor's text of QEMU 7.2, unchanged and damaged.

use nmiscope_machine::PhysicalAddress;
use nmiscope_qemu::memory_map::{FlatRange, MapError, parse_translation, parse_view};
use proptest::prelude::*;

const PC_6G_PRELAUNCH: &str = include_str!("fixtures/mtree-pc-6g-prelaunch.txt");
const PC_VGA: &str = include_str!("fixtures/mtree-pc-vga.txt");
const Q35_6G_MEMFD: &str = include_str!("fixtures/mtree-q35-6g-memfd.txt");
const Q35_KVM: &str = include_str!("fixtures/mtree-q35-kvm.txt");
const Q35_NUMA: &str = include_str!("fixtures/mtree-q35-numa.txt");

fn view(text: &str, backends: &[&str]) -> Result<Vec<FlatRange>, MapError> {
    let backends: Vec<String> = backends.iter().map(|&id| id.to_owned()).collect();
    parse_view(text, &backends)
}

/// First address, length, block and offset of each range.
fn rows<'a>(ranges: &'a [FlatRange]) -> Vec<(u64, u64, &'a str, u64)> {
    let row =
        |range: &'a FlatRange| (range.start.0, range.length, range.block.as_str(), range.offset);
    ranges.iter().map(row).collect()
}

#[test]
fn memory_around_the_hole_below_4_gib_is_one_block() {
    let ranges = view(PC_6G_PRELAUNCH, &["pc.ram"]).expect("a view");
    let expected = [
        (0, 0xa_0000, "pc.ram", 0),
        (0xc_0000, 0x2_0000, "pc.rom", 0),
        (0xe_0000, 0x2_0000, "pc.bios", 0x2_0000),
        (0x10_0000, 0xbff0_0000, "pc.ram", 0x10_0000),
        (0xfffc_0000, 0x4_0000, "pc.bios", 0),
        (0x1_0000_0000, 0xc000_0000, "pc.ram", 0xc000_0000),
    ];
    assert_eq!(rows(&ranges), expected);
}

#[test]
fn memory_of_numa_nodes_is_one_block_per_node() {
    let ranges = view(Q35_NUMA, &["a", "b"]).expect("a view");
    let above: Vec<_> = rows(&ranges).into_iter().filter(|row| row.0 >= 0x10_0000).collect();
    let expected = [
        (0x10_0000, 0x3ff0_0000, "a", 0x10_0000),
        (0x4000_0000, 0x4000_0000, "b", 0),
        (0xfffc_0000, 0x4_0000, "pc.bios", 0),
        (0x1_0000_0000, 0x1_0000_0000, "b", 0x4000_0000),
    ];
    assert_eq!(above, expected);
}

#[test]
fn video_memory_is_omitted() {
    let ranges = view(PC_VGA, &["pc.ram"]).expect("a view");
    assert!(PC_VGA.contains("ram): vga.vram"));
    assert!(ranges.iter().all(|range| range.block.starts_with("pc.")));
    let total: u64 = ranges.iter().map(|range| range.length).sum();
    assert_eq!(total, (512 << 20) - (128 << 10) + (256 << 10));
}

#[test]
fn block_without_a_backend_is_omitted() {
    assert_eq!(view(Q35_6G_MEMFD, &["m"]).expect("a view").len(), 7);
    let firmware = view(Q35_6G_MEMFD, &[]).expect("a view");
    assert_eq!(rows(&firmware), [(0xfffc_0000, 0x4_0000, "pc.bios", 0)]);
}

#[test]
fn nonvolatile_memory_is_included_and_flash_omitted() {
    let nonvolatile = Q35_KVM.replace("(prio 0, ram)", "(prio 0, nv-ram)");
    assert_eq!(view(&nonvolatile, &["pc.ram"]).expect("a view").len(), 2);
    let flash = Q35_KVM.replace("(prio 0, rom)", "(prio 0, romd)");
    assert_eq!(view(&flash, &["pc.ram"]).expect("a view").len(), 1);
}

#[test]
fn accelerator_name_is_not_part_of_the_block_name() {
    let ranges = view(Q35_KVM, &["pc.ram"]).expect("a view");
    let expected = [(0, 0x800_0000, "pc.ram", 0), (0xfffc_0000, 0x4_0000, "pc.bios", 0)];
    assert_eq!(rows(&ranges), expected);
}

#[test]
fn impossible_view_is_refused() {
    let refused = |from: &str, to: &str| {
        view(&Q35_KVM.replacen(from, to, 1), &["pc.ram"]).expect_err("an impossible view")
    };
    assert!(matches!(view("", &[]), Err(MapError::Views(0))));
    let twice = format!("{Q35_KVM}{Q35_KVM}");
    assert!(matches!(view(&twice, &["pc.ram"]), Err(MapError::Views(2))));
    assert!(matches!(refused("pc.ram KVM", "pc.ram @12"), MapError::Line(_)));
    assert!(matches!(refused("-0000000007ffffff", ""), MapError::Line(_)));
    let ends_before = refused("0000000000000000-", "0000000008000000-");
    assert!(matches!(ends_before, MapError::Line(_)));
    let everything = refused("-0000000007ffffff", "-ffffffffffffffff");
    assert!(matches!(everything, MapError::Line(_)));
    let overlap = refused("-0000000007ffffff", "-fffffffffffffffe");
    assert!(matches!(overlap, MapError::Order(PhysicalAddress(0xfffc_0000))));
}

fn range() -> FlatRange {
    FlatRange {
        start: PhysicalAddress(0x10_0000),
        length: 0xbff0_0000,
        block: "pc.ram".into(),
        offset: 0x10_0000,
    }
}

#[test]
fn translation_of_another_address_or_block_is_refused() {
    let answer = "Host virtual address for 0x100000 (pc.ram) is 0x7f3d3bf00000\r\n";
    assert_eq!(parse_translation(answer, &range()).expect("an address"), 0x7f3d_3bf0_0000);
    for wrong in [
        "Memory at address 0xa0000 is not RAM\r\n",
        "No memory is mapped at address 0x80000000\r\n",
        "Host virtual address for 0x100001 (pc.ram) is 0x7f3d3bf00000\r\n",
        "Host virtual address for 0x100000 (pc.rom) is 0x7f3d3bf00000\r\n",
        "Host virtual address for 0x100000 (pc.ram) is 0xffffffffffff0000\r\n",
        "Host virtual address for 0x100000 (pc.ram) is 0x\r\n",
        "",
    ] {
        assert!(parse_translation(wrong, &range()).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn mutated_view_is_parsed_or_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..20),
    ) {
        let mut bytes = Q35_NUMA.as_bytes().to_vec();
        for (at, byte, edit) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        if let Ok(ranges) = view(&String::from_utf8_lossy(&bytes), &["a", "b"]) {
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].start.0 + pair[0].length <= pair[1].start.0);
            }
        }
    }

    #[test]
    fn arbitrary_translation_is_parsed_or_refused(answer in "Host virtual address for 0x100000 \\(pc.ram\\) is .*") {
        let _ = parse_translation(&answer, &range());
    }
}
