//! Answers compared with those of llvm-symbolizer, for Rust and for C.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use common::{Plain, plain, text_addresses, with_llvm};
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{Image, Missing, ProgramCounter, Resolved, TypeError, TypeKind, Types};

/// Removes the two things from an answer of llvm-symbolizer that it guesses from the symbol table.
fn without_guesses(mut answer: Vec<Plain>, found: &Resolved<'_>, image: &Image<'_>) -> Vec<Plain> {
    let ours = plain(found);
    let Some((name, file, line)) = answer.last_mut() else { return answer };
    let (our_name, our_file) = ours.last().map_or(("??", "??"), |(name, file, _)| (name, file));
    // A symbol without a size goes on through other sections: the code after a table then has the
    // name of that table's end.
    if found.symbol.is_none() && image.symbol(name).is_some_and(|symbol| symbol.size == 0) {
        our_name.clone_into(name);
    }
    // Code without a line has the file of the last entry of kind FILE before its local symbol. That
    // is a name without a directory, and of another unit where an assembler makes no such entry.
    if our_file == "??" && *line == 0 && !file.contains('/') {
        our_file.clone_into(file);
    }
    answer
}

/// Compares the answers for all addresses; returns how many had a line.
fn compare(file: &Path, bytes: &[u8], addresses: &[u64]) -> usize {
    let image = Image::parse(bytes).expect("an image");
    let mut with_lines = 0;
    for (&address, expected) in addresses.iter().zip(with_llvm(file, addresses)) {
        let resolved = image.frames(ProgramCounter::Interrupted(VirtualAddress(address)));
        let expected = without_guesses(expected, &resolved, &image);
        let mut found = plain(&resolved);
        match resolved.missing {
            None => with_lines += 1,
            Some(Missing::NotCovered) => {}
            Some(Missing::NoSymbol) => found.push(("??".into(), "??".into(), 0)),
            Some(other) => panic!("at {address:#x}: {other}"),
        }
        assert_eq!(found, expected, "at {address:#x} of {}", file.display());
    }
    with_lines
}

#[test]
#[ignore = "needs llvm-symbolizer"]
fn ten_thousand_addresses_are_what_llvm_says() {
    let file = std::env::var_os("NMISCOPE_TEST_IMAGE")
        .map_or_else(|| std::env::current_exe().expect("a path"), PathBuf::from);
    let bytes = std::fs::read(&file).expect("a readable image");
    let addresses = text_addresses(&bytes, 10_000);
    let with_lines = compare(&file, &bytes, &addresses);
    assert!(with_lines > addresses.len() / 2, "only {with_lines} of {}", addresses.len());
}

/// Compiles `tests/fixtures/task.c` with these options.
fn build(options: &[&str]) -> PathBuf {
    // Tests run at once, and two of them want the same options.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("task{}-{}", options.join(""), COUNT.fetch_add(1, Relaxed));
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let status = Command::new("gcc")
        .arg("-g")
        .args(options)
        .arg("-o")
        .arg(&output)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/task.c"))
        .status();
    assert!(status.expect("gcc").success());
    output
}

#[test]
#[ignore = "needs gcc and llvm-symbolizer"]
fn addresses_of_c_resolve_as_in_llvm() {
    for options in [
        &["-O2"][..],
        &["-O0"],
        &["-O2", "-gdwarf-4"],
        &["-O2", "-gz"],
        &["-O2", "-flto"],
        &["-O2", "-ffunction-sections", "-Wl,--gc-sections", "-no-pie"],
    ] {
        let file = build(options);
        let bytes = std::fs::read(&file).expect("a file");
        let with_lines = compare(&file, &bytes, &text_addresses(&bytes, 500));
        assert!(with_lines > 50, "only {with_lines} with {options:?}");
    }
}

#[test]
#[ignore = "needs gcc"]
fn structures_of_c_are_understood() {
    for options in [&["-O2"][..], &["-O2", "-gdwarf-4"], &["-O2", "-gz"]] {
        let bytes = std::fs::read(build(options)).expect("a file");
        let image = Image::parse(&bytes).expect("an image");
        let types = Types::new(&image).expect("debug information");
        let task = types.variable("the_task").expect("a variable");
        assert_eq!(Some(task.address()), image.symbol("the_task").map(|symbol| symbol.address));
        // By the System V ABI for x86-64.
        for (path, offset) in [
            ("state", 0),
            ("usage", 8),
            ("usage.counter", 8),
            ("a", 16),
            ("b", 20),
            ("ab", 16),
            ("grid", 24),
            ("run.prev", 80),
            ("name", 96),
            ("st", 104),
            ("stack", 112),
            ("comm", 120),
        ] {
            let found = task.field(path).expect(path).address();
            assert_eq!(found.offset_from(task.address()), Some(offset), "{path}");
        }
        let grid = task.field("grid").expect("a member");
        let element = grid.index(2).and_then(|row| row.index(3)).expect("an element");
        assert_eq!(element.address().offset_from(grid.address()), Some(44));
        assert!(grid.index(3).is_err() && grid.index(2).is_ok_and(|row| row.index(4).is_err()));
        assert_eq!(grid.ty().name(), "[[int; 4]; 3]");
        let st = task.field("st").expect("a member");
        assert_eq!(st.ty().enumerator(5).expect("an enumeration").as_deref(), Some("BUSY"));
        assert_eq!(task.field("stack").expect("a member").ty().name(), "*void");
        assert!(matches!(task.field("in_io"), Err(TypeError::Unsuitable { .. })));
        assert_eq!(task.field("usage").expect("a member").ty().name(), "atomic_t");
        let task = types.type_named("task").expect("a type");
        assert_eq!((task.kind(), task.size()), (TypeKind::Structure, Some(136)));
    }
}
