//! Bad images, each refused for its own reason.

use proptest::prelude::*;

use super::*;

#[path = "../../tests/live/support/image.rs"]
mod image_file;
use image_file::{EHDR, LoadSegment, PHDR, PvhImage};

const MIB: u64 = 1 << 20;

fn good() -> PvhImage {
    PvhImage::from_code(&[0xf4; 16])
}

fn refused(bytes: &[u8]) -> BootImageError {
    check(bytes, 16 * MIB).expect_err("the image should have been refused")
}

fn refused_segments(segments: Vec<LoadSegment>) -> BootImageError {
    refused(&PvhImage { segments, entry: Some(0x10_0000) }.bytes())
}

fn segment(at: u64, len: u64) -> LoadSegment {
    LoadSegment { at, len, data: vec![0xf4; 16] }
}

/// The good image with `bytes` written over it at `offset`.
fn patched(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = good().bytes();
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
    image
}

/// File offset of a field of the good image's one PT_LOAD, which comes after the PT_NOTE.
fn load_field(offset: usize) -> usize {
    EHDR + PHDR + offset
}

#[test]
fn a_good_image_is_accepted_with_its_entry() {
    let bytes = good().bytes();
    assert_eq!(check(&bytes, 2 * MIB).unwrap().entry(), GuestAddress(0x10_0000));
}

#[test]
fn an_image_need_not_be_aligned_in_host_memory() {
    let bytes = [vec![0], good().bytes()].concat();
    assert!(check(&bytes[1..], 2 * MIB).is_ok());
}

#[test]
fn a_good_image_is_loaded_at_its_physical_address() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
    let bytes = PvhImage::from_code(b"\xf4guest").bytes();
    check(&bytes, 2 * MIB).unwrap().load(&memory).unwrap();
    let mut loaded = [0; 8];
    vm_memory::Bytes::read_slice(&memory, &mut loaded, GuestAddress(0x10_0000)).unwrap();
    assert_eq!(&loaded, b"\xf4guest\0\0");
}

#[test]
fn a_file_without_elf_magic_is_refused_as_no_elf_file() {
    assert!(matches!(refused(b""), BootImageError::Empty));
    assert!(matches!(refused(b"MZ\x90\0"), BootImageError::NotElf));
    assert!(matches!(refused(b"\x7fEL"), BootImageError::NotElf));
    assert!(matches!(refused(&[0; 4096]), BootImageError::NotElf));
}

#[test]
fn elf_files_for_other_machines_get_different_errors() {
    assert!(matches!(refused(&patched(4, &[1])), BootImageError::Class32));
    assert!(matches!(refused(&patched(5, &[2])), BootImageError::BigEndian));
    assert!(matches!(refused(&patched(18, &[183, 0])), BootImageError::Machine(183)));
    assert!(matches!(refused(&patched(4, &[9])), BootImageError::Malformed(_)));
}

#[test]
fn a_short_32_bit_file_is_refused_as_32_bit() {
    assert!(matches!(refused(b"\x7fELF\x01"), BootImageError::Class32));
}

#[test]
fn a_file_cut_off_at_any_byte_is_refused_as_truncated() {
    let image = good().bytes();
    for len in 4..image.len() {
        let error = refused(&image[..len]);
        let expected = match len {
            _ if len < EHDR => matches!(error, BootImageError::TruncatedHeader(_)),
            _ if len < EHDR + 2 * PHDR => {
                matches!(error, BootImageError::TruncatedProgramHeaders(_))
            }
            _ => matches!(error, BootImageError::TruncatedSegment { .. }),
        };
        assert!(expected, "{len} bytes: {error}");
    }
}

#[test]
fn segment_data_past_the_end_of_file_is_refused_as_truncated() {
    let offset_near_the_top = patched(load_field(8), &u64::MAX.to_le_bytes());
    let error = refused(&offset_near_the_top);
    assert!(matches!(error, BootImageError::TruncatedSegment { index: 1, end: u64::MAX, .. }));
}

#[test]
fn impossible_program_headers_are_malformed() {
    assert!(matches!(refused(&patched(54, &[32, 0])), BootImageError::Malformed(_)));
    assert!(matches!(refused(&patched(32, &0u64.to_le_bytes())), BootImageError::Malformed(_)));
    assert!(matches!(refused(&patched(56, &[0xff, 0xff])), BootImageError::Malformed(_)));
}

#[test]
fn an_image_without_segments_is_refused() {
    assert!(matches!(refused_segments(vec![]), BootImageError::NoSegments));
    let empty = LoadSegment { at: MIB, len: 0, data: vec![] };
    assert!(matches!(refused_segments(vec![empty]), BootImageError::NoSegments));
    assert!(matches!(refused(&patched(56, &[0, 0])), BootImageError::NoSegments));
}

#[test]
fn an_image_without_a_pvh_note_says_how_to_get_one() {
    let error = refused(&PvhImage { entry: None, ..good() }.bytes());
    assert!(matches!(error, BootImageError::NoPvhNote));
    assert!(error.to_string().contains("CONFIG_PVH=y"), "{error}");
}

#[test]
fn another_xen_note_is_no_pvh_note() {
    let note_type = EHDR + 2 * PHDR + 8;
    assert!(matches!(refused(&patched(note_type, &[17])), BootImageError::NoPvhNote));
}

#[test]
fn a_note_longer_than_its_segment_is_malformed() {
    let name_len = EHDR + 2 * PHDR;
    let error = refused(&patched(name_len, &u32::MAX.to_le_bytes()));
    assert!(matches!(error, BootImageError::BadSegment { index: 0, .. }), "{error}");
}

#[test]
fn overlapping_segments_are_refused_by_number() {
    let segments = vec![segment(0x20_0000, 0x1000), segment(0x1f_f001, 0x1000)];
    let error = refused_segments(segments);
    assert!(
        matches!(error, BootImageError::Overlap { first: 2, second: 1, at: 0x20_0000 }),
        "{error}"
    );
}

#[test]
fn segments_that_touch_do_not_overlap() {
    let segments = vec![segment(0x10_1000, 0x1000), segment(0x10_0000, 0x1000)];
    assert!(check(&PvhImage { segments, entry: Some(0x10_0000) }.bytes(), 2 * MIB).is_ok());
}

#[test]
fn a_segment_in_the_boot_data_area_is_refused() {
    for (at, len) in [(0xe_0000, 0x1000), (0x9_f000, 0xc01), (0xf_f000, 0x1001), (0, 2 * MIB)] {
        let error = refused_segments(vec![segment(at, len)]);
        assert!(matches!(error, BootImageError::OverBootData { index: 1, .. }), "{at:#x}: {error}");
    }
    let low = PvhImage { segments: vec![segment(0x9_f000, 0xc00)], entry: Some(0x9_f000) };
    assert!(check(&low.bytes(), 2 * MIB).is_ok());
}

#[test]
fn an_image_too_large_says_how_much_memory_it_needs() {
    let error = refused_segments(vec![segment(0x10_0000, 64 * MIB)]);
    assert!(matches!(error, BootImageError::DoesNotFit { needed, memory }
            if needed == 65 * MIB && memory == 16 * MIB));
    assert!(error.to_string().contains("(65 MiB)"), "{error}");
}

#[test]
fn a_segment_above_the_hole_needs_all_memory_below_it() {
    let error = refused_segments(vec![segment(4 << 30, 0x1000)]);
    assert!(
        matches!(error, BootImageError::DoesNotFit { needed, .. } if needed == (3 << 30) + 0x1000),
        "{error}"
    );
}

#[test]
fn a_segment_in_the_device_area_is_refused_with_any_memory_size() {
    let segments = vec![segment(0xbfff_f000, 0x1001)];
    let image = PvhImage { segments, entry: Some(0xbfff_f000) }.bytes();
    assert!(matches!(check(&image, 8 << 30).unwrap_err(), BootImageError::InHole { index: 1, .. }));
}

#[test]
fn a_segment_with_impossible_sizes_is_malformed() {
    let wraps = refused_segments(vec![segment(u64::MAX - 8, 32)]);
    assert!(matches!(wraps, BootImageError::BadSegment { index: 1, .. }));
    let shrinks = refused_segments(vec![segment(0x10_0000, 8)]);
    assert!(matches!(shrinks, BootImageError::BadSegment { index: 1, .. }));
}

#[test]
fn an_entry_outside_of_the_code_is_refused() {
    for entry in [0x10_0010, 0xf_ffff, 0, u32::MAX] {
        let error = refused(&PvhImage { entry: Some(entry), ..good() }.bytes());
        assert!(matches!(error, BootImageError::EntryOutside(at) if at == u64::from(entry)));
    }
}

proptest! {
    /// Checking and loading a good image with random edits neither panics nor writes outside of guest
    /// memory, which `vm-memory` would report as an error.
    #[test]
    fn a_mangled_image_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        len in any::<prop::sample::Index>(),
    ) {
        let mut bytes = good().bytes();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(len.index(bytes.len() + 1));
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        if let Ok(image) = check(&bytes, 2 << 20) {
            let _ = image.load(&memory);
        }
    }
}
