//! Images made wrong on purpose or by chance: any answer or error is right, but no panic.

#[path = "common/elf.rs"]
mod elf;
#[path = "common/exercise.rs"]
mod exercise;

use elf::{Compression, SYMBOLS, TEXT, debug_sections};
use nmiscope_machine::{ReadError, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{ElfError, Image, ProgramCounter, Types};
use proptest::prelude::*;

/// Memory in which every read succeeds.
struct Ones;

impl VirtualMemory for Ones {
    fn read(&self, _: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        buffer.fill(0xff);
        Ok(())
    }
}

fn exercise(image: &Image<'_>) {
    let _ = (image.build_id(), image.debuglink(), image.has_symbols());
    let _ = (image.symbol("after"), image.symbol(""));
    for offset in (0..0x400).step_by(8).chain([0x1000, u64::MAX - TEXT]) {
        let address = VirtualAddress(TEXT.wrapping_add(offset));
        let _ = image.frames(ProgramCounter::Interrupted(address));
    }
    for address in [0, 1, u64::MAX] {
        let _ = image.frames(ProgramCounter::Return(VirtualAddress(address)));
    }
    if let Ok(types) = Types::new(image) {
        exercise::types(&types, &Ones);
    }
}

fn fixture(version: u16, compression: Compression) -> Vec<u8> {
    elf::elf(&debug_sections(version), &SYMBOLS, compression)
}

/// Finds the file's own code bytes, which a symbolizer ignores; mutations go everywhere else.
fn interesting(index: prop::sample::Index, length: usize) -> usize {
    let text = 120..120 + elf::TEXT_SIZE as usize;
    let at = index.index(length - text.len());
    if at < text.start { at } else { at + text.len() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn bytes_of_any_kind_are_parsed_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        prop_assert_eq!(Image::parse(&bytes).err(), Some(ElfError::NotElf));
        let mut with_magic = fixture(5, Compression::None);
        with_magic.truncate(24);
        with_magic.extend_from_slice(&bytes);
        if let Ok(image) = Image::parse(&with_magic) {
            exercise(&image);
        }
    }

    #[test]
    fn a_changed_image_is_read_or_refused(
        version in 4..=5_u16,
        compression in prop_oneof![
            6 => Just(Compression::None),
            1 => Just(Compression::Zlib),
            1 => Just(Compression::Zstd),
        ],
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = fixture(version, compression);
        for (index, byte) in edits {
            let at = interesting(index, bytes.len());
            bytes[at] = byte;
        }
        if let Ok(image) = Image::parse(&bytes) {
            exercise(&image);
        }
    }

    #[test]
    fn a_truncated_image_is_refused(version in 4..=5_u16, end in any::<prop::sample::Index>()) {
        let bytes = fixture(version, Compression::None);
        let end = end.index(bytes.len());
        prop_assert!(Image::parse(&bytes[..end]).is_err());
    }

    #[test]
    fn a_cut_debug_section_is_reported_or_ignored(
        version in 4..=5_u16,
        which in any::<prop::sample::Index>(),
        end in any::<prop::sample::Index>(),
    ) {
        let mut sections = debug_sections(version);
        let which = which.index(sections.len());
        let section = &mut sections[which].1;
        section.truncate(end.index(section.len()));
        let bytes = elf::elf(&sections, &SYMBOLS, Compression::None);
        exercise(&Image::parse(&bytes).expect("the container is whole"));
    }
}
