//! Small images that ask for a lot of work or memory: the answer says that the budget is spent, and has what the
//! symbol table knows. Nothing here is measured by a clock: without the budgets these tests take minutes and
//! gigabytes.

#[path = "common/elf.rs"]
mod elf;

use std::rc::Rc;

use elf::{Compression, GLOBAL_FUNCTION, Symbol, TEXT};
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{
    Companions, DwarfError, Image, Missing, ProgramCounter, Resolved, SharedBytes, SplitFiles,
    SplitSearch, SplitUnit, TypeError, Types,
};

const FUNCTION: Symbol = Symbol { name: "f", address: TEXT, size: 0x100, info: GLOBAL_FUNCTION };
/// Attributes with their forms in an abbreviation (DWARF 4, 7.5).
const LOW_PC: [u8; 2] = [0x11, 0x01];
const HIGH_PC: [u8; 2] = [0x12, 0x07];
const RANGES: [u8; 2] = [0x55, 0x17];
const STMT_LIST: [u8; 2] = [0x10, 0x17];
const EXTERNAL: [u8; 2] = [0x3f, 0x19];
/// The abbreviation codes of the tests: a unit, and an entry below it.
const UNIT: u8 = 1;
const ENTRY: u8 = 2;

/// An abbreviation table with a unit and an entry of a kind, with these attributes.
fn abbreviations(unit: &[[u8; 2]], tag: u8, children: bool, entry: &[[u8; 2]]) -> Vec<u8> {
    let mut table = vec![UNIT, 0x11, 1];
    table.extend(unit.iter().flatten());
    table.extend([0, 0, ENTRY, tag, u8::from(children)]);
    table.extend(entry.iter().flatten());
    table.extend([0, 0, 0]);
    table
}

/// A unit of version 4 that has the first 256 bytes of the code, with more attributes and these entries.
fn unit(attributes: &[u8], entries: &[u8]) -> Vec<u8> {
    let mut body = vec![4, 0, 0, 0, 0, 0, 8, UNIT];
    body.extend(TEXT.to_le_bytes());
    body.extend(0x100_u64.to_le_bytes());
    body.extend(attributes);
    body.extend(entries);
    body.push(0);
    let mut unit = u32::to_le_bytes(body.len() as u32).to_vec();
    unit.extend(body);
    unit
}

fn image(sections: &[elf::Section]) -> Vec<u8> {
    elf::elf(sections, &[FUNCTION], Compression::None)
}

fn look_up<'i>(image: &Image<'i>, offset: u64) -> Resolved<'i> {
    image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT + offset)))
}

/// Checks that a lookup in the image ends with its budget, and still has the symbol's name.
fn assert_spent(bytes: &[u8]) {
    let image = Image::parse(bytes).expect("an image");
    assert!(!image.is_budget_spent());
    for offset in 0..20 {
        let found = look_up(&image, offset);
        assert!(matches!(found.missing, Some(Missing::BudgetSpent(_))), "{:?}", found.missing);
        let names: Vec<_> = found.frames.iter().map(|frame| frame.function.as_deref()).collect();
        assert_eq!(names, [Some("f")], "from the symbol table");
    }
    assert!(image.is_budget_spent());
}

/// 65 KB that took seconds, and four times as long with twice as much of each.
fn shared_abbreviation(attributes: usize, entries: usize) -> Vec<u8> {
    let table = abbreviations(&[LOW_PC, HIGH_PC], 0x2e, false, &vec![EXTERNAL; attributes]);
    let info = unit(&[], &vec![ENTRY; entries]);
    image(&[(".debug_abbrev", table), (".debug_info", info)])
}

#[test]
fn entries_that_share_a_long_abbreviation_spend_the_budget() {
    assert_spent(&shared_abbreviation(20_000, 20_000));
    // The same kind with an abbreviation as compilers write it.
    let bytes = shared_abbreviation(20, 20_000);
    let image = Image::parse(&bytes).expect("an image");
    assert_eq!(look_up(&image, 0).missing, Some(Missing::NotCovered));
}

#[test]
fn a_search_for_types_among_such_entries_spends_the_budget_too() {
    let bytes = shared_abbreviation(30_000, 30_000);
    let image = Image::parse(&bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    let spent = TypeError::Malformed(DwarfError::BudgetSpent { what: "a unit" });
    assert_eq!(types.variable("x").err(), Some(spent));
}

#[test]
fn functions_that_share_a_long_range_list_spend_the_budget() {
    let table = abbreviations(&[LOW_PC, HIGH_PC], 0x2e, false, &[RANGES]);
    let info = unit(&[], &[ENTRY, 0, 0, 0, 0].repeat(10_000));
    // Ranges that are left out, ranges outside the code, and base addresses, which are none.
    for pair in [[9_u64, 9], [0x10_0000, 0x10_0001], [u64::MAX, TEXT]] {
        let entry = [pair[0].to_le_bytes(), pair[1].to_le_bytes()].concat();
        let mut list = entry.repeat(10_000);
        list.extend([0; 16]);
        let sections = [
            (".debug_abbrev", table.clone()),
            (".debug_info", info.clone()),
            (".debug_ranges", list),
        ];
        let bytes = image(&sections);
        let image = Image::parse(&bytes).expect("an image");
        let missing = look_up(&image, 0).missing;
        // The bound on a unit's ranges comes first for the kinds that are kept.
        let large = DwarfError::TooLarge { what: "the address ranges of a unit's functions" };
        let is_bounded = matches!(missing, Some(Missing::BudgetSpent(_)))
            || missing == Some(Missing::Malformed(large));
        assert!(is_bounded, "{missing:?}");
    }
}

/// A line program of version 4 with one file and so many rows from an address on, each of one byte.
fn line_program(address: u64, rows: usize) -> Vec<u8> {
    let header =
        [1, 1, 1, 0xfb, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, b'a', 0, 0, 0, 0, 0];
    let mut program = vec![0, 9, 2];
    program.extend(address.to_le_bytes());
    program.resize(program.len() + rows, 32);
    program.extend([2, 2, 0, 1, 1]);
    let mut section = u32::to_le_bytes((6 + header.len() + program.len()) as u32).to_vec();
    section.extend([4, 0]);
    section.extend(u32::to_le_bytes(header.len() as u32));
    section.extend(header);
    section.extend(program);
    section
}

#[test]
fn line_program_with_millions_of_rows_spends_the_budget() {
    let table = abbreviations(&[LOW_PC, HIGH_PC, STMT_LIST], 0x2e, false, &[]);
    let info = unit(&[0; 4], &[]);
    let with_rows = |rows| {
        image(&[
            (".debug_abbrev", table.clone()),
            (".debug_info", info.clone()),
            (".debug_line", line_program(TEXT, rows)),
        ])
    };
    assert_spent(&with_rows(5 << 20));
    let bytes = with_rows(1000);
    let image = Image::parse(&bytes).expect("an image");
    let found = look_up(&image, 5);
    let place = found.frames[0].location.as_ref().expect("a place");
    // Each special opcode 32 adds 1 to the address and 0 to the line (DWARF 4, 6.2.5.1).
    assert_eq!((place.file.as_str(), place.line), ("a", Some(1)));
}

#[test]
fn units_that_share_a_long_line_program_spend_one_budget() {
    let table = abbreviations(&[LOW_PC, HIGH_PC, STMT_LIST], 0x2e, false, &[]);
    let info = unit(&[0; 4], &[]).repeat(1000);
    // Each unit claims the address, and none has it: all are asked.
    let lines = line_program(0x1000, 1 << 20);
    assert_spent(&image(&[
        (".debug_abbrev", table),
        (".debug_info", info),
        (".debug_line", lines),
    ]));
}

#[test]
fn names_and_paths_without_an_end_are_cut_visibly() {
    // DW_AT_name of the function as an inline string of a megabyte (DW_FORM_string).
    let table = abbreviations(&[LOW_PC, HIGH_PC], 0x2e, false, &[LOW_PC, HIGH_PC, [0x03, 0x08]]);
    let mut entry = vec![ENTRY];
    entry.extend(TEXT.to_le_bytes());
    entry.extend(0x100_u64.to_le_bytes());
    entry.extend(vec![b'x'; 1 << 20]);
    entry.push(0);
    let sections = [(".debug_abbrev", table), (".debug_info", unit(&[], &entry))];
    let bytes = elf::elf(&sections, &[], Compression::None);
    let image = Image::parse(&bytes).expect("an image");
    let found = look_up(&image, 0);
    let name = found.frames[0].function.as_deref().expect("a name");
    assert!(name.ends_with('…') && name.len() < 5000, "{} bytes", name.len());
}

#[test]
fn a_deep_chain_of_inlined_calls_is_refused() {
    let table = abbreviations(&[LOW_PC, HIGH_PC], 0x2e, true, &[LOW_PC, HIGH_PC]);
    let mut table = table[..table.len() - 1].to_vec();
    table.extend([3, 0x1d, 1, 0x11, 1, 0x12, 7, 0, 0, 0]);
    let place = [TEXT.to_le_bytes(), 0x100_u64.to_le_bytes()].concat();
    let mut entries = [&[ENTRY][..], &place].concat();
    for _ in 0..100_000 {
        entries.push(3);
        entries.extend(&place);
    }
    entries.resize(entries.len() + 100_001, 0);
    let bytes = image(&[(".debug_abbrev", table), (".debug_info", unit(&[], &entries))]);
    let image = Image::parse(&bytes).expect("an image");
    let deep = DwarfError::TooLarge { what: "a chain of inlined calls" };
    assert_eq!(look_up(&image, 0).missing, Some(Missing::Malformed(deep)));
}

/// A function with so many calls inlined into each other, which all have this name, inline (DW_FORM_string)
/// in an entry of their own.
fn inlined_calls(calls: usize, name: &str) -> Vec<u8> {
    let mut table = abbreviations(&[LOW_PC, HIGH_PC], 0x2e, true, &[LOW_PC, HIGH_PC]);
    table.pop();
    // An inlined call with its origin (DW_FORM_ref4), and the origin, with a linkage name.
    table.extend([3, 0x1d, 1, 0x11, 1, 0x12, 7, 0x31, 0x13, 0, 0]);
    table.extend([4, 0x2e, 0, 0x6e, 0x08, 0, 0, 0]);
    let place = [TEXT.to_le_bytes(), 0x100_u64.to_le_bytes()].concat();
    // The entries begin behind the header of 11 bytes and the unit's entry of 17.
    let mut entries = [&[4][..], name.as_bytes(), &[0, ENTRY], &place].concat();
    for _ in 0..calls {
        entries.extend([&[3][..], &place, &28_u32.to_le_bytes()].concat());
    }
    entries.resize(entries.len() + calls + 1, 0);
    image(&[(".debug_abbrev", table), (".debug_info", unit(&[], &entries))])
}

#[test]
fn names_of_inlined_calls_have_a_budget_of_text() {
    // A name of 113 bytes that unfolds, by substitutions, to 4 KiB.
    let mut name = String::from("_Z1f1AI1BS0_E");
    for level in 1..11 {
        let previous = char::from(b"0123456789ABC"[level]);
        name.push_str(&format!("S_IS{previous}_S{previous}_E"));
    }
    let bytes = inlined_calls(200, &name);
    let image = Image::parse(&bytes).expect("an image");
    let found = look_up(&image, 0);
    let spent = DwarfError::BudgetSpent { what: "the names of inlined calls" };
    assert_eq!(found.missing, Some(Missing::BudgetSpent(spent)));
    assert!(image.is_budget_spent());
    assert_eq!(found.frames.len(), 201);
    let innermost = found.frames[0].function.as_deref().expect("a name");
    assert!(innermost.starts_with("f(A<B, B>"), "{innermost}");
    // Beyond the budget the names are the linkage names, and the function keeps its own.
    for (frame, inlined) in [(&found.frames[199], true), (&found.frames[200], false)] {
        let name = if inlined { &name } else { "f" };
        assert_eq!((frame.function.as_deref(), frame.inlined), (Some(name), inlined));
    }
    let text: usize =
        found.frames.iter().filter_map(|frame| frame.function.as_ref()).map(String::len).sum();
    assert!(text < 100 << 10, "{text} bytes");
}

#[test]
fn long_names_of_inlined_calls_beyond_the_budget_are_cut() {
    let bytes = inlined_calls(256, &"é".repeat(2000));
    let image = Image::parse(&bytes).expect("an image");
    let found = look_up(&image, 0);
    assert!(matches!(found.missing, Some(Missing::BudgetSpent(_))), "{:?}", found.missing);
    let expected = format!("{}…", "é".repeat(64));
    let frame = &found.frames[255];
    assert_eq!(frame.function.as_ref(), Some(&expected));
    assert_eq!(frame.linkage_name.as_deref(), Some(&*expected));
    // Two such calls are within it.
    let bytes = inlined_calls(2, &"é".repeat(2000));
    let image = Image::parse(&bytes).expect("an image");
    let found = look_up(&image, 0);
    assert_eq!((found.missing, found.frames.len()), (None, 3));
    assert_eq!(found.frames[0].function.as_ref().map(String::len), Some(4000));
}

#[test]
fn sections_that_expand_a_thousandfold_spend_the_budget_of_memory() {
    let table = abbreviations(&[LOW_PC, HIGH_PC], 0x2e, false, &[]);
    let mut info = unit(&[], &[]);
    // 48 MB of zeros behind the unit, in some 140 KB of the file.
    info.resize(48 << 20, 0);
    let sections = [(".debug_abbrev", table), (".debug_info", info)];
    let bytes = elf::elf(&sections, &[FUNCTION], Compression::Zstd);
    assert!(bytes.len() < 160 << 10, "{} bytes", bytes.len());
    let image = Image::parse(&bytes).expect("an image");
    let found = look_up(&image, 0);
    let spent = DwarfError::BudgetSpent { what: ".debug_info" };
    assert_eq!(found.missing, Some(Missing::BudgetSpent(spent)));
    assert!(image.is_budget_spent());
}

#[test]
fn locations_of_variables_are_not_decompressed_for_lines() {
    let mut sections = elf::debug_sections(5);
    sections.push((".debug_loclists", vec![0; 48 << 20]));
    let bytes = elf::elf(&sections, &elf::SYMBOLS, Compression::Zstd);
    let image = Image::parse(&bytes).expect("an image");
    let found = look_up(&image, 0x140);
    assert_eq!(found.missing, None);
    assert!(Types::new(&image).is_err(), "variables need them");
}

#[test]
fn the_same_questions_get_the_same_answers() {
    let bytes = shared_abbreviation(3_000, 4_000);
    let answers = |bytes| {
        let image = Image::parse(bytes).expect("an image");
        (0..40).map(|offset| look_up(&image, offset).missing).collect::<Vec<_>>()
    };
    assert_eq!(answers(&bytes), answers(&bytes));
}

/// The `.debug_info.dwo` of split units with these DWO IDs (DWARF 5, 7.5.1.2).
fn split_units(ids: std::ops::Range<u64>) -> Vec<u8> {
    let unit = |id: u64| {
        let header = [17, 0, 0, 0, 5, 0, 5, 8, 0, 0, 0, 0];
        [&header[..], &id.to_le_bytes(), &[UNIT]].concat()
    };
    ids.flat_map(unit).collect()
}

fn split_file(attributes: usize, info: Vec<u8>, strings: usize) -> Vec<u8> {
    let table = abbreviations(&vec![EXTERNAL; attributes], 0x2e, false, &[]);
    let sections = [
        (".debug_abbrev.dwo", table),
        (".debug_info.dwo", info),
        (".debug_str.dwo", vec![0; strings]),
    ];
    elf::elf(&sections, &[], Compression::Zstd)
}

fn split_unit(id: u64) -> SplitUnit {
    SplitUnit { name: "a.dwo".into(), directory: None, id }
}

#[test]
fn searches_for_split_units_spend_one_budget_of_work() {
    let (sound, other) =
        (split_file(20, split_units(7..8), 0), split_file(4000, split_units(0..4000), 0));
    let search = SplitSearch::default();
    // Sound files do not spend it, however many there are.
    let mut another = sound.clone();
    for _ in 0..20_000 {
        another.push(0);
        assert!(search.matches(&split_unit(7), &another));
    }
    assert!(!search.matches(&split_unit(8), &sound));
    assert!(search.matches(&split_unit(1), &other) && !search.is_spent());
    assert!(!search.matches(&split_unit(3999), &other) && search.is_spent());
    assert!(!search.matches(&split_unit(7), &sound), "nothing is left for a sound file");
    assert!(SplitSearch::default().matches(&split_unit(7), &sound));
}

#[test]
fn searches_for_split_units_decompress_only_what_shows_their_ids() {
    let sound = split_file(20, split_units(7..8), 48 << 20);
    let search = SplitSearch::default();
    for _ in 0..10 {
        assert!(search.matches(&split_unit(7), &sound), "without the 48 MiB of its strings");
    }
    let mut info = split_units(7..8);
    info.resize(48 << 20, 0);
    let large = split_file(20, info, 0);
    assert!(!search.matches(&split_unit(8), &large) && !search.is_spent());
    assert!(!search.matches(&split_unit(8), &large) && search.is_spent());
}

/// A file with split units that is opened whatever its DWO ID.
struct Always(Vec<u8>);

impl SplitFiles for Always {
    fn open(&self, _: &SplitUnit) -> Option<SharedBytes> {
        Some(Rc::new(self.0.clone()))
    }
}

#[test]
fn budget_spent_in_a_split_file_is_reported() {
    // A skeleton with a name for its file (DW_AT_dwo_name as DW_FORM_string) and the DWO ID 7.
    let table = abbreviations(&[LOW_PC, HIGH_PC, [0x76, 0x08]], 0x2e, false, &[]);
    let body = [
        &[5, 0, 4, 8, 0, 0, 0, 0][..],
        &7_u64.to_le_bytes(),
        &[UNIT],
        &TEXT.to_le_bytes(),
        &0x100_u64.to_le_bytes(),
        b"a\0",
    ];
    let body = body.concat();
    let info = [&u32::to_le_bytes(body.len() as u32)[..], &body].concat();
    let bytes = image(&[(".debug_abbrev", table), (".debug_info", info)]);
    let look_up_with = |file: &Always| {
        let files = Companions { split: Some(file), ..Companions::default() };
        let image = Image::parse_with(&bytes, files).expect("an image");
        (look_up(&image, 0).missing, image.is_budget_spent())
    };
    let costly = Always(split_file(40_000, split_units(8..4000), 0));
    let (missing, is_spent) = look_up_with(&costly);
    assert!(matches!(missing, Some(Missing::BudgetSpent(_))) && is_spent, "{missing:?}");
    let strings = Always(split_file(20, split_units(7..8), 1100 << 20));
    let spent = DwarfError::BudgetSpent { what: ".debug_str.dwo" };
    assert_eq!(look_up_with(&strings), (Some(Missing::BudgetSpent(spent)), true));
    let sound = Always(split_file(20, split_units(7..8), 0));
    assert_eq!(look_up_with(&sound), (Some(Missing::NotCovered), false));
}
