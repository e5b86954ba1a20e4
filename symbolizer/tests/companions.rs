//! Images whose debug information lies in other files: answers compared with those of llvm-symbolizer for
//! the same code with all of it inside.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use common::{Plain, plain, with_llvm};
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{
    Companions, Image, ProgramCounter, SharedBytes, SplitFiles, SplitUnit, Types,
};

/// A folder with images of the code in `tests/fixtures/shared`.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Self { path }
    }

    /// Runs a program in the folder.
    fn run(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).current_dir(&self.path).status();
        assert!(status.expect(program).success(), "{program} {arguments:?}");
    }

    /// Compiles a source file, with these options too, and links it at a kernel's address.
    fn build(&self, part: &str, output: &str, options: &[&str]) -> Vec<u8> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/shared");
        let source = sources.join(part).with_extension("c");
        let object = format!("{output}.o");
        let mut compile = vec!["-g", "-O2", "-fno-pic", "-mcmodel=kernel", "-fno-pie", "-c"];
        compile.extend([source.to_str().expect("UTF-8"), "-o", &object]);
        compile.extend(options);
        self.run("gcc", &compile);
        let link = ["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0xffffffff80200000,-e,0"];
        self.run("gcc", &[&link[..], &["-Wl,--build-id", "-o", output, &object]].concat());
        self.read(output)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path.join(name)).expect(name)
    }

    /// Answers of llvm-symbolizer for every byte of the code in an image, and of ours for the same code in
    /// another.
    #[track_caller]
    fn compare(&self, whole: &str, image: &Image<'_>) {
        let bytes = self.read(whole);
        let expected = with_llvm(&self.path.join(whole), &addresses(&bytes));
        for (address, expected) in addresses(&bytes).into_iter().zip(expected) {
            assert_eq!(answer(image, address), expected, "at {address:#x}");
        }
    }
}

/// The address of every byte of the code.
fn addresses(image: &[u8]) -> Vec<u64> {
    use object::{Object, ObjectSection};
    let file = object::File::parse(image).expect("an ELF file");
    let text = file.section_by_name(".text").expect("code");
    (text.address()..text.address() + text.size()).collect()
}

fn answer(image: &Image<'_>, address: u64) -> Vec<Plain> {
    plain(&image.frames(ProgramCounter::Interrupted(VirtualAddress(address))))
}

impl SplitFiles for Folder {
    fn open(&self, unit: &SplitUnit) -> Option<SharedBytes> {
        let bytes = std::fs::read(self.path.join(&unit.name)).ok()?;
        unit.matches(&bytes).then(|| Rc::new(bytes) as SharedBytes)
    }
}

/// The size of a structure, and the place of a member in a variable of it.
fn check_types(image: &Image<'_>) {
    let types = Types::new(image).expect("debug information");
    let ty = types.type_named("lock_with_a_long_name").expect("a type");
    // By the System V ABI for x86-64.
    assert_eq!(ty.size(), Some(16));
    let lock = types.variable("lock1").expect("a variable");
    let owner = lock.field("owner_of_the_lock").expect("a member");
    assert_eq!(owner.address().offset_from(lock.address()), Some(4));
    assert_eq!(Some(lock.address()), image.symbol("lock1").map(|symbol| symbol.address));
}

#[test]
#[ignore = "needs gcc and llvm-symbolizer"]
fn split_units_are_read_from_their_files() {
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let folder = Folder::new(&format!("split{version}"));
        folder.build("part1", "whole", &[version]);
        let bytes = folder.build("part1", "image", &[version, "-gsplit-dwarf"]);
        let files = Companions { split: Some(&folder), ..Companions::default() };
        let image = Image::parse_with(&bytes, files).expect("an image");
        folder.compare("whole", &image);
        check_types(&image);
        // Without the file the image's own symbols and lines remain.
        let image = Image::parse(&bytes).expect("an image");
        let first = image.symbol("first1").expect("a symbol").address.0;
        let [(name, _, line)] = &answer(&image, first)[..] else { panic!("one frame") };
        assert_eq!((name.as_str(), *line > 0), ("first1", true));
    }
}

#[test]
#[ignore = "needs gcc, llvm-symbolizer and llvm-dwp"]
fn split_units_are_read_from_a_package() {
    for (version, program) in
        [("-gdwarf-4", "dwp"), ("-gdwarf-4", "llvm-dwp"), ("-gdwarf-5", "llvm-dwp")]
    {
        let folder = Folder::new(&format!("package{version}-{program}"));
        folder.build("part1", "whole", &[version]);
        let bytes = folder.build("part1", "image", &[version, "-gsplit-dwarf"]);
        folder.run(program, &["-e", "image", "-o", "image.dwp"]);
        let package = folder.read("image.dwp");
        let files = Companions { package: Some(&package), ..Companions::default() };
        let image = Image::parse_with(&bytes, files).expect("an image");
        folder.compare("whole", &image);
        check_types(&image);
    }
}

#[test]
#[ignore = "needs gcc"]
fn file_of_another_build_does_not_match_a_split_unit() {
    let folder = Folder::new("split-other");
    let bytes = folder.build("part1", "image", &["-gsplit-dwarf"]);
    folder.build("part2", "other", &["-gsplit-dwarf"]);
    std::fs::rename(folder.path.join("other.dwo"), folder.path.join("image.dwo")).expect("a file");
    let files = Companions { split: Some(&folder), ..Companions::default() };
    let image = Image::parse_with(&bytes, files).expect("an image");
    let first = image.symbol("first1").expect("a symbol").address.0;
    assert_eq!(answer(&image, first).len(), 1);
    // Nor does a file that is none.
    let unit = SplitUnit { name: "image.dwo".into(), directory: None, id: 0 };
    assert!(!unit.matches(b"\x7fELF") && !unit.matches(&bytes));
}

#[test]
#[ignore = "needs gcc, llvm-symbolizer and dwz"]
fn shared_entries_and_strings_are_read_from_the_supplementary_file() {
    // In DWARF 4 the compilation directory, which all units share, is one of the strings.
    for (gcc, version) in
        [("-gdwarf-4", &[][..]), ("-gdwarf-5", &[]), ("-gdwarf-5", &["--dwarf-5"])]
    {
        let folder = Folder::new(&format!("dwz{gcc}{}", version.join("")));
        for (part, whole, image) in [("part1", "whole1", "image1"), ("part2", "whole2", "image2")] {
            folder.build(part, whole, &[gcc]);
            std::fs::copy(folder.path.join(whole), folder.path.join(image)).expect("a copy");
        }
        folder.run("dwz", &[version, &["-m", "common.debug", "image1", "image2"]].concat());
        let (bytes, shared) = (folder.read("image1"), folder.read("common.debug"));
        let files = Companions { supplementary: Some(&shared), ..Companions::default() };
        let image = Image::parse_with(&bytes, files).expect("an image");
        let link = image.supplementary_link().expect("a link");
        assert_eq!(link.name, b"common.debug");
        assert!(link.matches(&shared) && !link.matches(&bytes) && !link.matches(b"\x7fELF"));
        folder.compare("whole1", &image);
        check_types(&image);
    }
}

#[test]
#[ignore = "needs gcc, llvm-symbolizer and objcopy"]
fn sections_of_the_older_compressed_form_are_read() {
    let folder = Folder::new("zdebug");
    folder.build("part1", "whole", &[]);
    folder.run("objcopy", &["--compress-debug-sections=zlib-gnu", "whole", "image"]);
    let bytes = folder.read("image");
    assert!(bytes.windows(12).any(|name| name == b".zdebug_info"), "the older form");
    folder.compare("whole", &Image::parse(&bytes).expect("an image"));
}

#[test]
#[ignore = "needs gcc, llvm-symbolizer, objcopy, llvm-objcopy and elfutils"]
fn debug_file_alone_has_the_answers_of_its_image() {
    let folder = Folder::new("debug-file");
    folder.build("part1", "whole", &["-fasynchronous-unwind-tables"]);
    folder.run("eu-strip", &["-f", "by-eu-strip", "-o", "stripped", "whole"]);
    for program in ["objcopy", "llvm-objcopy"] {
        folder.run(program, &["--only-keep-debug", "whole", &format!("by-{program}")]);
    }
    assert!(!Image::parse(&folder.read("stripped")).expect("an image").is_debug_file());
    for file in ["by-eu-strip", "by-objcopy", "by-llvm-objcopy"] {
        let bytes = folder.read(file);
        let image = Image::parse(&bytes).expect(file);
        assert!(image.is_debug_file(), "{file}");
        folder.compare("whole", &image);
        check_types(&image);
    }
}

#[test]
#[ignore = "needs gcc and llvm-symbolizer"]
fn symbols_in_sections_beyond_the_numbers_of_the_header_are_found() {
    let folder = Folder::new("sections");
    let functions = (0..66_000).map(|number| {
        format!(
            ".section .s{number},\"ax\"\n.globl f{number}\n.type f{number},@function\nf{number}: ret\n\
             .size f{number},1\n"
        )
    });
    std::fs::write(folder.path.join("many.s"), functions.collect::<String>()).expect("a file");
    folder.run("gcc", &["-c", "many.s", "-o", "many.o"]);
    let link = ["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0xffffffff80200000,-e,f0"];
    folder.run("gcc", &[&link[..], &["-o", "image", "many.o"]].concat());
    let bytes = folder.read("image");
    let image = Image::parse(&bytes).expect("an image");
    for (file, bytes) in [("image", &bytes), ("many.o", &folder.read("many.o"))] {
        let sections =
            u64::from_le_bytes(bytes[0x28..0x30].try_into().expect("eight bytes")) as usize;
        let number = &bytes[sections + 0x20..][..8];
        assert_eq!(bytes[0x3c..0x3e], [0; 2], "{file} has no number of sections in its header");
        assert!(u64::from_le_bytes(number.try_into().expect("eight bytes")) > 66_000, "{file}");
    }
    let numbers = [0, 1, 65_000, 65_270, 65_279, 65_280, 65_535, 65_536, 65_999];
    let symbols = numbers.map(|number| image.symbol(&format!("f{number}")).expect("a symbol"));
    let addresses = symbols.map(|symbol| symbol.address.0);
    let expected = with_llvm(&folder.path.join("image"), &addresses);
    for ((address, expected), number) in addresses.into_iter().zip(expected).zip(numbers) {
        assert_eq!(expected[0].0, format!("f{number}"));
        assert_eq!(answer(&image, address), expected, "f{number}");
        assert_eq!(image.symbols_named(&format!("f{number}")).len(), 1, "f{number}");
    }
    // The same in an object file, as a module is.
    let module = nmiscope_symbolizer::link_module(&folder.read("many.o")).expect("a module");
    let module = Image::parse(&module).expect("an image");
    for number in numbers {
        let name = format!("f{number}");
        let symbol = module.symbol(&name).expect("a symbol");
        let found = module.symbol_containing(symbol.address).expect("a symbol");
        assert_eq!((&*found.symbol.name, found.offset), (&*name, 0));
    }
}

/// The file has the functions that the dynamic symbol table lacks, as gdb's manual describes MiniDebugInfo.
#[test]
#[ignore = "needs gcc, objcopy and strip"]
fn minimal_debug_file_adds_symbols_to_the_dynamic_ones() {
    let folder = Folder::new("minimal");
    let source = "int shown(int x) { return x + 1; }\n\
                  __attribute__((noinline)) static int hidden(int x) { return shown(x) * 3; }\n\
                  int outer(int x) { return hidden(x) + 2; }\n";
    std::fs::write(folder.path.join("code.c"), source).expect("a file");
    let link = ["-g", "-O1", "-fPIC", "-shared", "-nostdlib", "-o", "whole", "code.c"];
    folder.run("gcc", &link);
    folder.run("objcopy", &["--only-keep-debug", "whole", "debug"]);
    folder.run("objcopy", &["-S", "--remove-section=.comment", "-K", "hidden", "debug", "minimal"]);
    folder.run("strip", &["--strip-all", "-o", "image", "whole"]);
    let (bytes, minimal) = (folder.read("image"), folder.read("minimal"));
    let whole = folder.read("whole");
    let whole = Image::parse(&whole).expect("an image");
    let files = Companions { minimal: Some(&minimal), ..Companions::default() };
    let image = Image::parse_with(&bytes, files).expect("an image");
    let without = Image::parse(&bytes).expect("an image");
    assert!(without.symbol("hidden").is_none());
    for name in ["shown", "hidden", "outer"] {
        let symbol = whole.symbol(name).expect("a symbol");
        assert_eq!(image.symbol(name), Some(symbol.clone()), "{name}");
        for offset in 0..symbol.size {
            let address = VirtualAddress(symbol.address.0 + offset);
            let found = image.symbol_containing(address).expect("a symbol");
            assert_eq!((&*found.symbol.name, found.offset), (name, offset));
        }
    }
}
