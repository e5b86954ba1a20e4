//! Small images whose names or split units would take a lot of memory: what is kept has a budget in bytes, and
//! the answer says when it is spent. Each input needs more than its budget by the counts beside it.

#[path = "common/elf.rs"]
mod elf;

use std::rc::Rc;

use elf::{Compression, GLOBAL_FUNCTION, Symbol, TEXT};
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{
    Companions, DwarfError, Image, Missing, ProgramCounter, SharedBytes, SplitFiles, SplitSearch,
    SplitUnit, TypeError, Types,
};

/// A version 4 unit with a namespace of this name, and in it base types `t000000`, `t000001` and so on.
fn types_in_a_namespace(namespace: &str, types: usize) -> Vec<u8> {
    types_named(namespace, (0..types).map(|number| format!("t{number:06}")))
}

/// A version 4 unit with a namespace of this name, and in it base types of these names.
fn types_named(namespace: &str, types: impl Iterator<Item = String>) -> Vec<u8> {
    // DW_TAG_compile_unit; DW_TAG_namespace and DW_TAG_base_type with DW_AT_name as DW_FORM_string.
    let table = vec![1, 0x11, 1, 0, 0, 2, 0x39, 1, 3, 8, 0, 0, 3, 0x24, 0, 3, 8, 0, 0, 0];
    let mut body = vec![4, 0, 0, 0, 0, 0, 8, 1, 2];
    body.extend(namespace.as_bytes());
    body.push(0);
    for name in types {
        body.extend(format!("\x03{name}\0").as_bytes());
    }
    body.extend([0, 0]);
    let info = [&u32::to_le_bytes(body.len() as u32)[..], &body].concat();
    elf::elf(&[(".debug_abbrev", table), (".debug_info", info)], &[], Compression::None)
}

#[test]
fn paths_of_types_have_a_budget_of_memory() {
    let namespace = "n".repeat(1000);
    let bytes = types_in_a_namespace(&namespace, 1000);
    let image = Image::parse(&bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    let path = format!("{namespace}::t000999");
    assert_eq!(types.type_named(&path).expect("a type").name(), "t000999");
    assert_eq!(types.type_named("t000999").expect("a type").name(), "t000999");
    assert!(!image.is_budget_spent());
    // 70,000 paths of 1,009 bytes are 70 MB, in a file of 630 KB.
    let bytes = types_in_a_namespace(&namespace, 70_000);
    assert!(bytes.len() < 700_000, "{} bytes", bytes.len());
    let image = Image::parse(&bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    let spent = DwarfError::BudgetSpent { what: "the names of variables and types" };
    assert_eq!(types.type_named("t000000").err(), Some(TypeError::Malformed(spent)));
    assert!(image.is_budget_spent());
    // As many types without a namespace are those of a large kernel.
    let bytes = types_in_a_namespace("n", 70_000);
    let image = Image::parse(&bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    assert_eq!(types.type_named("n::t069999").expect("a type").name(), "t069999");
}

/// Each unit of a kernel repeats the types of its headers, as these 20 MB of one name do.
#[test]
fn types_that_are_repeated_are_counted_once() {
    let name = "t".repeat(1000);
    let bytes = types_named("n", std::iter::repeat_n(name.clone(), 20_000));
    let image = Image::parse(&bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    assert_eq!(types.type_named(&format!("n::{name}")).expect("a type").name(), name);
    assert!(!image.is_budget_spent());
}

#[test]
fn demangled_names_have_a_budget_of_memory() {
    // A name of some 200 bytes that unfolds, by substitutions, to 4 KiB.
    let mut name = format!("_Z1f1AI100{}S0_E", "B".repeat(100));
    for level in 1..7 {
        let previous = char::from(b"0123456789ABC"[level]);
        name.push_str(&format!("S_IS{previous}_S{previous}_E"));
    }
    let name: &'static str = name.leak();
    let symbol = |name, number| Symbol {
        name,
        address: TEXT + number % 0x1000,
        size: 1,
        info: GLOBAL_FUNCTION,
    };
    let with = |names: u64| {
        let mut symbols: Vec<_> = (0..names).map(|number| symbol(name, number)).collect();
        symbols.push(symbol("_ZN4last4callEv", 0x40));
        elf::elf(&[], &symbols, Compression::None)
    };
    let bytes = with(100);
    let image = Image::parse(&bytes).expect("an image");
    assert_eq!(image.symbols_named("last::call").len(), 1);
    assert!(!image.is_budget_spent());
    // 40,000 names of 4 KiB are 160 MiB, in a file of 8 MB.
    let bytes = with(40_000);
    let image = Image::parse(&bytes).expect("an image");
    assert_eq!(
        image.symbols_named("last::call"),
        [],
        "no name is demangled once the budget is spent"
    );
    assert!(image.is_budget_spent());
    assert_eq!(image.symbols_named("_ZN4last4callEv").len(), 1);
    assert!(!image.symbols_named(name).is_empty());
}

/// An abbreviation table with a unit without children and these attributes, as bytes of name and form.
fn table(unit: &[u8]) -> Vec<u8> {
    [&[1, 0x11, 0][..], unit, &[0, 0, 0]].concat()
}

/// The file of split units with these DWO IDs (DWARF 5, 7.5.1.2), which decompress to so many bytes.
fn split_file(ids: std::ops::Range<u64>, length: usize) -> Vec<u8> {
    let unit = |id: u64| {
        let header = [17, 0, 0, 0, 5, 0, 5, 8, 0, 0, 0, 0];
        [&header[..], &id.to_le_bytes(), &[1]].concat()
    };
    let mut info: Vec<u8> = ids.flat_map(unit).collect();
    info.resize(length, 0);
    let sections = [(".debug_abbrev.dwo", table(&[])), (".debug_info.dwo", info)];
    elf::elf(&sections, &[], Compression::Zstd)
}

/// Skeleton units with these DWO IDs, which all claim the first 256 bytes of the code.
fn skeletons(ids: std::ops::Range<u64>) -> Vec<u8> {
    // DW_AT_low_pc, DW_AT_high_pc and DW_AT_dwo_name.
    let table = table(&[0x11, 1, 0x12, 7, 0x76, 8]);
    let unit = |id: u64| {
        let header = [5, 0, 4, 8, 0, 0, 0, 0];
        let place = [TEXT.to_le_bytes(), 0x100_u64.to_le_bytes()].concat();
        let body = [&header[..], &id.to_le_bytes(), &[1], &place, b"a\0"].concat();
        [&u32::to_le_bytes(body.len() as u32)[..], &body].concat()
    };
    let info = ids.flat_map(unit).collect();
    elf::elf(&[(".debug_abbrev", table), (".debug_info", info)], &[], Compression::None)
}

/// A source of files that gives the same bytes for each unit, as a store of open files does.
struct Same(SharedBytes);

impl SplitFiles for Same {
    fn open(&self, _: &SplitUnit) -> Option<SharedBytes> {
        Some(Rc::clone(&self.0))
    }
}

#[test]
fn a_file_with_many_split_units_is_decompressed_once() {
    let image = skeletons(0..100);
    // Decompressed for each unit it would take 1,600 MiB, and more than the budget of 1 GiB.
    let files = Same(Rc::new(split_file(0..100, 16 << 20)));
    let files = Companions { split: Some(&files), ..Companions::default() };
    let image = Image::parse_with(&image, files).expect("an image");
    let found = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT)));
    assert_eq!(
        found.missing,
        Some(Missing::NoSymbol),
        "each unit was read, and none has a function"
    );
    assert!(!image.is_budget_spent());
}

#[test]
fn a_file_that_matches_many_split_units_spends_the_budget() {
    let file = split_file(0..1000, 8 << 20);
    let search = SplitSearch::default();
    let matches = |id| {
        let unit = SplitUnit { name: format!("{id}.dwo"), directory: None, id };
        search.matches(&unit, &file)
    };
    // The first match gives back what a file of this size usually takes. All take 8 MiB of 64 MiB.
    let matched = (0..1000).take_while(|&id| matches(id)).count();
    assert!((4..=9).contains(&matched) && search.is_spent(), "{matched}");
}
