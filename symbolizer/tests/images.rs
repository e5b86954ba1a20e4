//! Hand-made images: every expected value follows from how the fixture was laid out.

#[path = "common/elf.rs"]
mod elf;

use elf::{Compression, DATA, SYMBOLS, TEXT, aranges, debug_sections};
use nmiscope_machine::{ReadError, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{
    DwarfError, ElfError, Image, Missing, ProgramCounter, SourceRoots, TypeError, Types,
};

/// The function, file and line of each frame at `TEXT + offset`.
fn frames(image: &Image<'_>, offset: u64) -> Vec<(String, String, Option<u32>)> {
    let resolved = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT + offset)));
    assert_eq!(resolved.missing, None, "at {offset:#x}");
    let frames = resolved.frames.iter().map(|frame| {
        let location = frame.location.clone().expect("a location");
        (frame.function.clone().expect("a name"), location.file, location.line)
    });
    frames.collect()
}

fn check_inlined_frames(image: &Image<'_>) {
    let file = || "/src/src/lock.rs".to_owned();
    // A label in the middle of the function is nearer than its start from there on.
    let lock = |line| ("inside".to_owned(), file(), line);
    let spin = |line| ("spin".to_owned(), file(), line);
    let pause = ("guest::pause".to_owned(), file(), Some(30));
    assert_eq!(frames(image, 0x100), [("lock.cold".to_owned(), file(), Some(10))]);
    assert_eq!(frames(image, 0x140), [spin(Some(21)), lock(Some(12))]);
    assert_eq!(frames(image, 0x14f), [pause, spin(Some(21)), lock(Some(12))]);
    assert_eq!(frames(image, 0x150), [spin(Some(22)), lock(Some(12))]);
    assert_eq!(frames(image, 0x160), [lock(Some(13))]);
    assert_eq!(frames(image, 0x170), [lock(None)], "code of no line");
    assert_eq!(frames(image, 0x1ff), [lock(Some(14))]);
}

#[test]
fn inlined_calls_come_innermost_first_with_the_lines_of_their_calls() {
    for version in [4, 5] {
        let bytes = elf::elf(&debug_sections(version), &SYMBOLS, Compression::None);
        check_inlined_frames(&Image::parse(&bytes).expect("an image"));
    }
}

#[test]
fn compressed_sections_are_decompressed() {
    for compression in [Compression::Zlib, Compression::Zstd] {
        let bytes = elf::elf(&debug_sections(5), &SYMBOLS, compression);
        check_inlined_frames(&Image::parse(&bytes).expect("an image"));
    }
}

#[test]
fn an_image_lies_at_any_address() {
    let mut bytes = vec![0];
    bytes.extend(elf::elf(&debug_sections(5), &SYMBOLS, Compression::None));
    check_inlined_frames(&Image::parse(&bytes[1..]).expect("an image"));
}

/// The image of [`debug_sections`] with a `.debug_info` that breaks off behind its unit, and with
/// these sections.
fn broken_behind_the_unit(more: impl IntoIterator<Item = elf::Section>) -> Vec<u8> {
    let mut sections = debug_sections(5);
    let info = sections.iter_mut().find(|(name, _)| *name == ".debug_info").expect("a section");
    info.1.extend_from_slice(&[0xff; 3]);
    sections.extend(more);
    elf::elf(&sections, &SYMBOLS, Compression::None)
}

#[test]
fn with_aranges_only_the_units_that_are_needed_are_read() {
    let bytes = broken_behind_the_unit([aranges(&[(0, TEXT + 0x100, 0x100)])]);
    let image = Image::parse(&bytes).expect("an image");
    check_inlined_frames(&image);
    // Another unit may have this one: only all units together show it.
    let elsewhere = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT + 0x300)));
    assert!(matches!(elsewhere.missing, Some(Missing::Malformed(_))), "{elsewhere:?}");
}

#[test]
fn a_broken_unit_is_reported_where_it_may_have_had_the_answer() {
    // The header of a unit whose abbreviation table lies nowhere, and a header that breaks off.
    let without_table = vec![8, 0, 0, 0, 4, 0, 0xff, 0xff, 0xff, 0, 8, 1];
    let with_unit_before = |unit: &[u8]| {
        let mut sections = debug_sections(5);
        let info = sections.iter_mut().find(|(name, _)| *name == ".debug_info").expect("a section");
        info.1 = [unit, &info.1].concat();
        elf::elf(&sections, &SYMBOLS, Compression::None)
    };
    for bytes in [broken_behind_the_unit([]), with_unit_before(&without_table)] {
        let image = Image::parse(&bytes).expect("an image");
        check_inlined_frames(&image);
        let elsewhere = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT + 0x300)));
        assert!(matches!(elsewhere.missing, Some(Missing::Malformed(_))), "{elsewhere:?}");
        assert_eq!(elsewhere.frames[0].function.as_deref(), Some("after"), "by its symbol");
        let types = Types::new(&image).expect("debug information");
        assert_eq!(types.variable("printk::LOG").expect("a variable").address().0, DATA);
        let error = types.variable("nowhere").expect_err("in no unit");
        assert!(matches!(error, TypeError::Malformed(_)), "{error:?}");
    }
}

#[test]
fn units_missing_from_aranges_are_found_by_their_own_ranges() {
    let whole = aranges(&[(0, TEXT + 0x100, 0x100)]);
    let another = aranges(&[(0x10_0000, TEXT + 0x800, 0x100)]);
    let cut = (whole.0, whole.1[..40].to_vec());
    for aranges in [None, Some(another), Some(cut), Some((whole.0, Vec::new()))] {
        let mut sections = debug_sections(5);
        sections.extend(aranges);
        let bytes = elf::elf(&sections, &SYMBOLS, Compression::None);
        check_inlined_frames(&Image::parse(&bytes).expect("an image"));
    }
}

/// `ld --emit-relocs` keeps relocations in the file, as Linux is linked, though they have been applied
/// already.
#[test]
fn relocations_of_an_executable_are_not_applied_again() {
    let mut sections = debug_sections(5);
    let info = sections.iter().find(|(name, _)| *name == ".debug_info").expect("a section");
    // Elf64_Rela: every eight bytes become 0xdead, by R_X86_64_64 of the null symbol.
    let relocations = (0..info.1.len() as u64 / 8).flat_map(|word| [word * 8, 1, 0xdead]);
    let bytes = relocations.flat_map(u64::to_le_bytes).collect();
    sections.push((".rela.debug_info", bytes));
    let bytes = elf::elf(&sections, &SYMBOLS, Compression::None);
    check_inlined_frames(&Image::parse(&bytes).expect("an image"));
}

#[test]
fn a_function_inside_another_is_found() {
    for version in [4, 5] {
        let bytes = elf::elf(&debug_sections(version), &SYMBOLS, Compression::None);
        let image = Image::parse(&bytes).expect("an image");
        let resolved = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT + 0x408)));
        let [frame] = &resolved.frames[..] else { panic!("one frame: {resolved:?}") };
        assert_eq!(frame.linkage_name.as_deref(), Some("helper"), "in version {version}");
    }
}

/// The first lookups pass over the table, later ones use an index of it.
#[test]
fn symbol_lookups_agree_before_and_after_the_index_is_built() {
    let labels = [(0x108, 0), (0x108, 8), (0x200, 0), (0x310, 0), (0x318, 0), (0x1000, 0)];
    let labels = labels.map(|(offset, size)| elf::Symbol {
        name: "label",
        address: TEXT + offset,
        size,
        info: elf::GLOBAL_LABEL,
    });
    let symbols = [&SYMBOLS[..], &labels].concat();
    let bytes = elf::elf(&[], &symbols, Compression::None);
    let asked = Image::parse(&bytes).expect("an image");
    for _ in 0..1000 {
        asked.symbol_containing(VirtualAddress(TEXT));
    }
    for address in (TEXT - 1..TEXT + 0x400).chain([TEXT + 0x1000, 0, u64::MAX]) {
        let fresh = Image::parse(&bytes).expect("an image");
        let address = VirtualAddress(address);
        assert_eq!(fresh.symbol_containing(address), asked.symbol_containing(address));
    }
}

#[test]
fn a_debug_file_supplies_what_the_image_lacks() {
    let stripped = elf::elf(&[], &[], Compression::None);
    let debug = elf::elf(&debug_sections(5), &SYMBOLS, Compression::None);
    let image = Image::parse_with_debug(&stripped, Some(&debug)).expect("an image");
    check_inlined_frames(&image);
    assert_eq!(image.symbol("after").expect("a symbol").address.0, TEXT + 0x300);
}

#[test]
fn a_debuglink_names_the_file_and_its_checksum() {
    // CRC-32 of "123456789" is 0xcbf43926, the check value of the IEEE 802.3 polynomial.
    let link = (".gnu_debuglink", b"kernel.debug\0\0\0\0\x26\x39\xf4\xcb".to_vec());
    let bytes = elf::elf(&[link], &[], Compression::None);
    let link = Image::parse(&bytes).expect("an image").debuglink().expect("a link");
    assert_eq!(link.name, b"kernel.debug");
    assert!(link.matches(b"123456789"));
    assert!(!link.matches(b"12345678"));
}

#[test]
fn without_debug_information_there_is_still_a_name() {
    let bytes = elf::elf(&[], &SYMBOLS, Compression::None);
    let image = Image::parse(&bytes).expect("an image");
    let at = |offset| image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT + offset)));
    let resolved = at(0x110);
    assert_eq!(resolved.missing, Some(Missing::NoDebugInfo));
    assert_eq!(resolved.frames[0].function.as_deref(), Some("lock.cold"), "global before local");
    assert_eq!(resolved.symbol.map(|found| found.offset), Some(0x10));
    let resolved = at(0x140);
    assert_eq!(resolved.frames[0].function.as_deref(), Some("inside"), "nearest before enclosing");
    assert_eq!(resolved.symbol.map(|found| found.offset), Some(0x20));
    assert_eq!(at(0x10).frames[0].function.as_deref(), Some("entry_label"));
    assert_eq!(at(0x310).missing, Some(Missing::NoSymbol));
    assert!(at(0x310).frames.is_empty());
    assert_eq!(at(0x1000).missing, Some(Missing::OutsideImage));
    let bytes = elf::elf(&debug_sections(5), &SYMBOLS, Compression::None);
    let image = Image::parse(&bytes).expect("an image");
    let resolved = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT + 0x300)));
    assert_eq!(resolved.missing, Some(Missing::NotCovered));
    assert_eq!(resolved.frames[0].function.as_deref(), Some("after"));
}

#[test]
fn bytes_that_are_no_image_are_refused_with_a_reason() {
    let good = elf::elf(&[], &[], Compression::None);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let error = |bytes: &[u8]| Image::parse(bytes).expect_err("no image");
    assert_eq!(error(b""), ElfError::NotElf);
    assert_eq!(error(b"#!/bin/sh\n"), ElfError::NotElf);
    assert_eq!(error(&with(4, 1)), ElfError::Not64Bit);
    assert_eq!(error(&with(5, 2)), ElfError::BigEndian);
    assert_eq!(error(&with(18, 183)), ElfError::NotX86_64 { machine: 183 });
    assert_eq!(error(&with(16, 4)), ElfError::NotExecutable { kind: 4 });
    for length in [4, 5, 6, 63, 64, 100, 120, good.len() - 1] {
        let error = error(&good[..length]);
        assert!(
            matches!(error, ElfError::Truncated { .. } | ElfError::Malformed { .. }),
            "{length}: {error}"
        );
    }
    let message = error(&good[..64]).to_string();
    assert!(message.contains("truncated") && message.contains("of 64"), "{message}");
}

/// Guest memory from [`DATA`] on.
struct Data([u8; 24]);

impl VirtualMemory for Data {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let at = address.0.checked_sub(DATA).and_then(|at| usize::try_from(at).ok());
        let bytes = at.and_then(|at| self.0.get(at..at.checked_add(length)?));
        buffer.copy_from_slice(bytes.ok_or(ReadError::Wraps { address, length })?);
        Ok(())
    }
}

#[test]
fn a_variable_is_read_member_by_member() {
    for version in [4, 5] {
        let bytes = elf::elf(&debug_sections(version), &SYMBOLS, Compression::None);
        let image = Image::parse(&bytes).expect("an image");
        let types = Types::new(&image).expect("debug information");
        let memory = Data(std::array::from_fn(|at| at as u8));
        let log = types.variable("printk::LOG").expect("a variable");
        assert_eq!(log.address().0, DATA);
        let number = |path| log.field(path).and_then(|place| place.read_unsigned(&memory));
        assert_eq!(number("len"), Ok(0x0706_0504_0302_0100));
        let third = log.field("cpus").and_then(|cpus| cpus.index(3)).expect("an element");
        assert_eq!(third.read_unsigned(&memory), Ok(0x1716_1514));
        assert_eq!(log.field("cpus").expect("a member").ty().name(), "[u32; 4]");
        assert_eq!(types.type_named("Ring").expect("a type").size(), Some(24));
        assert_eq!(types.type_named("printk::Ring").expect("a type").size(), Some(24));
    }
}

/// A type's name once needed its element's type, whose error needed the name.
#[test]
fn an_array_without_a_type_is_an_error() {
    let bytes = elf::elf(&debug_sections(5), &SYMBOLS, Compression::None);
    let image = Image::parse(&bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    let array = types.variable("BROKEN").expect("a variable");
    assert_eq!(array.ty().name(), "[void; ?]");
    assert!(matches!(array.index(0), Err(TypeError::Unsuitable { .. })));
    assert_eq!(array.ty().size(), None);
}

#[test]
fn paths_are_shown_relative_to_a_root() {
    let roots = SourceRoots::new(["/src"]);
    assert_eq!(roots.strip_root("/src/src/lock.rs"), "src/lock.rs");
}

/// `.debug_info` of one version 4 unit with `entries` as its tree, abbreviations: 1 unit, 2
/// function with low_pc and high_pc (data8), 3 inlined call without attributes, 4 the same with
/// low_pc and high_pc, 5 inlined call with sibling (ref4), low_pc and high_pc.
fn raw_debug_info(entries: &[u8]) -> Vec<elf::Section> {
    let mut info = Vec::new();
    info.extend_from_slice(&(entries.len() as u32 + 7).to_le_bytes());
    info.extend_from_slice(&[4, 0, 0, 0, 0, 0, 8]);
    info.extend_from_slice(entries);
    let ranged = [0x11, 0x01, 0x12, 0x07, 0, 0];
    let mut abbreviations = vec![1, 0x11, 1];
    abbreviations.extend_from_slice(&ranged);
    abbreviations.extend_from_slice(&[2, 0x2e, 1]);
    abbreviations.extend_from_slice(&ranged);
    abbreviations.extend_from_slice(&[3, 0x1d, 1, 0, 0]);
    abbreviations.extend_from_slice(&[4, 0x1d, 1]);
    abbreviations.extend_from_slice(&ranged);
    abbreviations.extend_from_slice(&[5, 0x1d, 1, 0x01, 0x13]);
    abbreviations.extend_from_slice(&ranged);
    abbreviations.push(0);
    vec![(".debug_info", info), (".debug_abbrev", abbreviations)]
}

fn ranged(code: u8) -> Vec<u8> {
    [&[code][..], &TEXT.to_le_bytes(), &0x1000_u64.to_le_bytes()].concat()
}

#[test]
fn calls_nested_a_million_deep_do_not_overflow_the_stack() {
    let mut entries = [ranged(1), ranged(2)].concat();
    entries.resize(entries.len() + 1_000_000, 3);
    let bytes = elf::elf(&raw_debug_info(&entries), &SYMBOLS, Compression::None);
    let image = Image::parse(&bytes).expect("an image");
    let resolved = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT)));
    assert_eq!(resolved.frames[0].function.as_deref(), Some("entry_label"));

    let mut entries = [ranged(1), ranged(2)].concat();
    entries.extend(ranged(4).repeat(100_000));
    let bytes = elf::elf(&raw_debug_info(&entries), &SYMBOLS, Compression::None);
    let image = Image::parse(&bytes).expect("an image");
    let resolved = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT)));
    assert!(matches!(resolved.missing, Some(Missing::Malformed(DwarfError::TooLarge { .. }))));
    assert_eq!(resolved.frames[0].function.as_deref(), Some("entry_label"));
}

#[test]
fn siblings_that_lead_nowhere_are_not_followed() {
    // The unit's header takes 11 bytes, its entry and the function's 17 each, then comes the call.
    for sibling in [0, 11, 28, 45, 46, 65, 66, 1000, u32::MAX] {
        let elsewhere = [TEXT + 0x800, 0x100].map(u64::to_le_bytes).concat();
        let call = [&[5][..], &sibling.to_le_bytes(), &elsewhere].concat();
        let entries = [ranged(1), ranged(2), call, vec![0], ranged(4), vec![0; 3]].concat();
        let bytes = elf::elf(&raw_debug_info(&entries), &SYMBOLS, Compression::None);
        let image = Image::parse(&bytes).expect("an image");
        let resolved = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT)));
        // Only a sibling that leads forward, to no entry, loses the rest.
        let depths: &[usize] = if sibling == 66 { &[1, 2] } else { &[2] };
        assert!(depths.contains(&resolved.frames.len()), "{sibling}: {resolved:?}");
    }
}

#[test]
fn units_with_overlapping_abbreviation_tables_spend_the_budget() {
    // 20,000 units, each with a table that starts one declaration later and runs to the end of the
    // section: to read them all is to read the square of it.
    let mut info = Vec::new();
    let mut abbreviations = Vec::new();
    for unit in 0..20_000_u32 {
        let code = unit + 1;
        let leb = [code as u8 | 0x80, (code >> 7) as u8 | 0x80, (code >> 14) as u8];
        info.extend_from_slice(&[10, 0, 0, 0, 4, 0]);
        info.extend_from_slice(&(unit * 7).to_le_bytes());
        info.push(8);
        info.extend_from_slice(&leb);
        abbreviations.extend_from_slice(&leb);
        abbreviations.extend_from_slice(&[0x11, 0, 0, 0]);
    }
    abbreviations.push(0);
    let sections = [(".debug_info", info), (".debug_abbrev", abbreviations)];
    let bytes = elf::elf(&sections, &SYMBOLS, Compression::None);
    let image = Image::parse(&bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    let error = types.variable("x").expect_err("broken");
    assert!(matches!(error, TypeError::Malformed(DwarfError::BudgetSpent { .. })), "{error:?}");
    let resolved = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT)));
    assert!(matches!(resolved.missing, Some(Missing::BudgetSpent(_))), "{resolved:?}");
    assert_eq!(resolved.frames[0].function.as_deref(), Some("entry_label"));
}
