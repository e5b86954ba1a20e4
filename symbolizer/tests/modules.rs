//! Relocatable objects: the symbols and lines of a module that was not linked equal the ones that the
//! linker would have made.

mod common;
#[path = "common/elf.rs"]
mod made;

use std::path::Path;
use std::process::Command;

use common::{Plain, plain};
use made::{Compression, GLOBAL_FUNCTION, LOCAL_FUNCTION, Symbol, TEXT, elf};
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{ElfError, Image, ProgramCounter, is_relocatable, link_module};

/// Two functions with a call inlined into the first, code in three sections, and a static function
/// of one name in each of two files.
const SOURCES: [(&str, &str); 2] = [
    (
        "a.c",
        "int counter;\n\
         static inline __attribute__((always_inline)) void add(int x) { counter += x; }\n\
         static __attribute__((noinline)) void same(int x) { add(x); add(x + 1); }\n\
         void first(int x) { add(x); same(x); add(2); }\n\
         __attribute__((section(\".init.text\"))) void setup(void) { first(7); }\n\
         __attribute__((cold)) void rare(int x) { add(x); same(3); }\n",
    ),
    (
        "b.c",
        "extern int counter;\n\
         static __attribute__((noinline)) void same(int x) { counter -= x; }\n\
         void second(int x) { same(x); counter--; }\n",
    ),
];

fn run(program: &str, arguments: &[&str], directory: &Path) {
    let output = Command::new(program).args(arguments).current_dir(directory).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The object that `ld -r` makes of the sources, as it does for a kernel module, and the same linked
/// for good.
fn object_and_linked(flags: &[&str]) -> (Vec<u8>, Vec<u8>) {
    let directory = tempfile();
    for (name, source) in SOURCES {
        std::fs::write(directory.join(name), source).expect("a file");
        let object = format!("{name}.o");
        let arguments = [&["-O2", "-g", "-c", name, "-o", &object], flags].concat();
        run("gcc", &arguments, &directory);
    }
    run("ld", &["-r", "a.c.o", "b.c.o", "-o", "module.ko"], &directory);
    run("ld", &["-e", "first", "-Ttext=0x401000", "module.ko", "-o", "linked"], &directory);
    let read = |name: &str| std::fs::read(directory.join(name)).expect("a file");
    let files = (read("module.ko"), read("linked"));
    std::fs::remove_dir_all(directory).expect("the directory was made here");
    files
}

/// Makes a directory of this test's own.
fn tempfile() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("nmiscope-modules-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    directory
}

/// The frames of each byte of each function of that name, by the function's place among its namesakes.
fn frames(image: &Image<'_>, name: &str) -> Vec<Vec<Vec<Plain>>> {
    let named = image.symbols_named(name);
    let of_one = |named: &nmiscope_symbolizer::NamedSymbol<'_>| {
        (0..named.symbol.size)
            .map(|offset| {
                let address = VirtualAddress(named.symbol.address.0 + offset);
                plain(&image.frames(ProgramCounter::Interrupted(address)))
            })
            .collect()
    };
    named.iter().map(of_one).collect()
}

fn expect_equal_frames(flags: &[&str]) {
    let (object, linked) = object_and_linked(flags);
    assert!(is_relocatable(&object) && !is_relocatable(&linked));
    let module = link_module(&object).expect("a module");
    let module = Image::parse(&module).expect("an image");
    let linked = Image::parse(&linked).expect("an image");
    assert!(module.has_debug_info());
    for name in ["first", "setup", "rare", "same", "second"] {
        let ours = frames(&module, name);
        assert_eq!(ours, frames(&linked, name), "{name} {flags:?}");
        assert_eq!(ours.len(), if name == "same" { 2 } else { 1 }, "{name}");
        // The comparison is worth it: there are lines, and calls inlined into them.
        let line = |frame: &Plain| frame.2 > 0 && frame.1.ends_with(".c");
        assert!(ours.iter().flatten().all(|frames| frames.iter().all(line)), "{name}: {ours:?}");
    }
    assert!(frames(&module, "first")[0].iter().any(|frames| frames.len() > 1));
}

#[test]
#[ignore = "needs gcc"]
fn an_object_has_the_lines_that_the_linker_gives_it() {
    expect_equal_frames(&[]);
    expect_equal_frames(&["-gdwarf-4"]);
    expect_equal_frames(&["-ffunction-sections"]);
}

#[test]
#[ignore = "needs gcc"]
fn an_object_with_compressed_debug_sections_has_the_same_lines() {
    expect_equal_frames(&["-gz=zlib"]);
}

#[test]
fn an_image_is_no_module_and_a_module_no_image() {
    let image = elf(&[], &[], Compression::None);
    assert_eq!(link_module(&image), Err(ElfError::NotRelocatable { kind: 2 }));
    assert_eq!(link_module(b"text"), Err(ElfError::NotElf));
    let object = object_of(&image);
    assert!(is_relocatable(&object));
    assert_eq!(Image::parse(&object).err(), Some(ElfError::NotExecutable { kind: 1 }));
    assert!(link_module(&object).is_ok());
}

/// An image whose header says that it has not been linked.
fn object_of(image: &[u8]) -> Vec<u8> {
    let mut object = image.to_vec();
    object[16] = 1;
    object
}

#[test]
fn truncated_or_damaged_objects_give_an_error_or_an_image() {
    let symbol = Symbol { name: "f", address: 0x10, size: 0x20, info: GLOBAL_FUNCTION };
    let sections = made::debug_sections(5);
    let object = object_of(&elf(&sections, &[symbol], Compression::Zlib));
    for length in (0..object.len()).step_by(7) {
        if let Ok(module) = link_module(&object[..length]) {
            let _ = Image::parse(&module);
        }
    }
    for at in (0..object.len()).step_by(3) {
        let mut object = object.clone();
        object[at] ^= 0xff;
        if let Ok(module) = link_module(&object)
            && let Ok(image) = Image::parse(&module)
        {
            for named in image.symbols_named("f") {
                let _ = image.frames(ProgramCounter::Interrupted(named.symbol.address));
            }
        }
    }
}

#[test]
fn a_module_larger_than_the_area_for_modules_is_refused() {
    let mut object = object_of(&elf(&[], &[], Compression::None));
    // sh_size of .text, the first section behind the null one.
    let table = u64::from_le_bytes(object[40..48].try_into().expect("8 bytes")) as usize;
    object[table + 64 + 32..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(link_module(&object), Err(ElfError::TooLarge { .. })));
}

fn named(symbols: &[Symbol], name: &str) -> Vec<(u64, u64, Option<u64>)> {
    let image = elf(&[], symbols, Compression::None);
    let image = Image::parse(&image).expect("an image");
    let found = image.symbols_named(name);
    found
        .iter()
        .map(|named| (named.symbol.address.0 - TEXT, named.symbol.size, named.extent))
        .collect()
}

fn function(name: &'static str, at: u64, size: u64) -> Symbol {
    Symbol { name, address: TEXT + at, size, info: LOCAL_FUNCTION }
}

#[test]
fn all_namesakes_are_found_with_the_size_a_kernel_prints() {
    let symbols = [
        function("helper", 0x100, 0x1d),
        function("other", 0x120, 0x10),
        function("helper", 0x200, 0x20),
        // Left out of kallsyms, so it ends nothing.
        function("__crc_helper", 0x210, 0),
        function("last", 0x240, 0x8),
    ];
    let expected = [(0x100, 0x1d, Some(0x20)), (0x200, 0x20, Some(0x40))];
    assert_eq!(named(&symbols, "helper"), expected);
    // The extent of the last symbol of a section is not known.
    assert_eq!(named(&symbols, "last"), [(0x240, 0x8, None)]);
    assert_eq!(named(&symbols, "nobody"), []);
}

#[test]
fn a_symbol_is_found_by_its_demangled_and_short_names() {
    let symbols = [
        function("_ZN3lib4lock4spin17h0123456789abcdefE", 0x100, 0x10),
        function("tick.llvm.1234567890", 0x200, 0x10),
        function("work", 0x300, 0x10),
        function("work.llvm.42", 0x400, 0x10),
    ];
    for name in ["_ZN3lib4lock4spin17h0123456789abcdefE", "lib::lock::spin", "spin"] {
        assert_eq!(named(&symbols, name).len(), 1, "{name}");
    }
    assert_eq!(named(&symbols, "tick")[0].0, 0x200);
    // A symbol of exactly this name wins.
    assert_eq!(named(&symbols, "work").len(), 1);
    assert_eq!(named(&symbols, "work")[0].0, 0x300);
}

#[test]
fn aliases_at_one_address_give_one_symbol() {
    let symbols = [function("f", 0x100, 0x10), function("f", 0x100, 0x10)];
    assert_eq!(named(&symbols, "f").len(), 1);
}
