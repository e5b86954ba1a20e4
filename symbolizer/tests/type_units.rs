//! Types that the compiler has put into units of their own (`-fdebug-types-section`): their names, sizes and
//! members equal those that gdb shows.

use std::path::Path;
use std::process::Command;

use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{
    Image, ProgramCounter, Strategy, Types, UnwoundFrame, VariableValue, Variables,
};

const SOURCE: &str = "
struct inner { short a; long b; };
struct outer { char tag; struct inner parts[3]; struct outer *next; };
typedef struct outer outer_t;
enum state { READY, STUCK = 7 };
struct outer chain;
static void touch(struct outer *item, enum state *state) { item->tag = *state; }
int hang(int number) {
    outer_t item = { 1 };
    enum state state = STUCK;
    touch(&item, &state);
    return item.tag + number;
}
int main(void) { return hang(3); }
";

fn run(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(directory).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The value that gdb prints for an expression.
fn gdb(directory: &Path, expression: &str) -> String {
    let print = format!("output {expression}");
    run("gdb", &["-nx", "-batch", "-ex", &print, "types"], directory).trim().to_owned()
}

/// Memory in which each byte is zero.
struct Zeros;

impl VirtualMemory for Zeros {
    fn read(&self, _: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        buffer.fill(0);
        Ok(())
    }
}

fn check(version: &str) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("type_units{version}"));
    std::fs::create_dir_all(&directory).expect("a directory");
    let directory = &*directory;
    std::fs::write(directory.join("types.c"), SOURCE).expect("a file");
    let flags = ["-g", "-O0", "-fdebug-types-section", version, "types.c", "-o", "types"];
    run("gcc", &flags, directory);
    let bytes = std::fs::read(directory.join("types")).expect("a file");
    let image = Image::parse(&bytes).expect("an image");
    let types = Types::new(&image).expect("debug information");
    let number = |expression: &str| gdb(directory, expression).parse::<u64>().expect("a number");

    let outer = types.type_named("outer").expect("a type in a unit of its own");
    assert_eq!(outer.size(), Some(number("sizeof(struct outer)")));
    let parts = outer.member("parts").expect("a member");
    assert_eq!(parts.offset, number("(long)&((struct outer *)0)->parts"));
    let inner = parts.ty.element(2).expect("an element");
    assert_eq!(parts.offset + inner.offset, number("(long)&((struct outer *)0)->parts[2]"));
    let b = inner.ty.member("b").expect("a member of another type unit");
    assert_eq!(b.offset, number("(long)&((struct inner *)0)->b"));
    let next = outer.member("next").expect("a member");
    let pointee = next.ty.pointee().expect("a pointer").expect("a type");
    assert_eq!(pointee.size(), outer.size(), "the type itself");
    assert_eq!(types.variable("chain").expect("a variable").ty().size(), outer.size());

    let hang = image.symbol("hang").expect("a symbol");
    let pc = ProgramCounter::Interrupted(VirtualAddress(hang.address.0 + hang.size - 2));
    let cfa = 0x7000;
    let mut registers = UnwindRegisters::new(pc.address(), VirtualAddress(cfa - 0x100));
    registers.set(Register::Rbp, cfa - 0x10);
    let (strategy, cfa) = (Strategy::Registers, Some(VirtualAddress(cfa)));
    let frame =
        UnwoundFrame { pc, strategy, registers, cfa, is_signal_frame: false, cfi_fault: None };
    let found = Variables::new(&types).in_frame(&frame, &Zeros).expect("a function");
    for variable in &found[0].variables {
        let ty = gdb_type(directory, &variable.name);
        assert_eq!(variable.type_name.as_deref(), Some(ty.trim_start_matches("enum ")));
        let is_shown = !matches!(variable.value, VariableValue::Unavailable(_));
        assert!(is_shown, "{}: {}", variable.name, variable.value);
    }
    let state = found[0].variables.iter().find(|variable| variable.name == "state");
    assert_eq!(state.expect("a local").value.to_string(), gdb(directory, "(enum state)0"));
    assert_eq!(found[0].variables.len(), 3);
}

/// The type of a variable of `hang`, as gdb shows it.
fn gdb_type(directory: &Path, variable: &str) -> String {
    let list = ["-nx", "-batch", "-ex", "list hang", "-ex"];
    let command = format!("whatis hang::{variable}");
    let shown = run("gdb", &[&list[..], &[&command, "types"]].concat(), directory);
    let (_, ty) = shown.trim().rsplit_once("type = ").expect("a type");
    ty.to_owned()
}

#[test]
#[ignore = "needs gcc and gdb"]
fn types_of_debug_types_are_found_by_their_signatures() {
    check("-gdwarf-4");
}

#[test]
#[ignore = "needs gcc and gdb"]
fn types_of_type_units_in_debug_info_are_found_by_their_signatures() {
    check("-gdwarf-5");
}
