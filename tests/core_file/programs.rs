//! Tests of cores with other programs: an ELF parser, readelf and gdb.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use nmiscope::elf_core::{self, CoreContents, CpuRegisters, write};
use nmiscope_machine::UserRegisters;
use nmiscope_symbolizer::Image;
use object::LittleEndian as LE;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use super::support::*;

#[test]
fn another_parser_sees_the_same_notes() {
    let bytes = sample().bytes();
    let header = FileHeader64::<LE>::parse(&bytes[..]).expect("an ELF file");
    let mut seen = Vec::new();
    for segment in header.program_headers(LE, &bytes[..]).expect("program headers") {
        let mut notes = segment.notes(LE, &bytes[..]).expect("notes").into_iter().flatten();
        while let Some(note) = notes.next().transpose().expect("a note") {
            let name = String::from_utf8(note.name().to_vec()).expect("UTF-8");
            seen.push((name, note.n_type(LE).0, note.desc().len()));
        }
    }
    let expected: Vec<(String, u32, usize)> = [
        ("CORE", 1, 336),
        ("CORE", 1, 336),
        ("GNU", 3, 20),
        ("VMCOREINFO", 0, 14),
        ("nmiscope", u32::from_le_bytes(*b"nmis"), 8 + 15),
    ]
    .map(|(name, kind, length)| (name.into(), kind, length))
    .into();
    assert_eq!(seen, expected);
}

/// Returns the output of `readelf`; `None` if it is not installed.
fn readelf(arguments: &[&str], path: &Path) -> Option<String> {
    let output = Command::new("readelf").args(arguments).arg(path).output().ok()?;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn readelf_prints_the_core_without_a_warning() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("core");
    let sample = sample();
    elf_core::write_path(&path, &sample.contents(), &sample.memory).expect("a core");
    let Some(text) = readelf(&["-W", "-h", "-l", "-n"], &path) else { return };
    for wanted in [
        "CORE (Core file)",
        "Advanced Micro Devices X86-64",
        "NT_PRSTATUS (prstatus structure)",
        "Build ID: abababababababababababababababababababab",
        "VMCOREINFO",
        "0xffffc90000002000 0x0000000000002000 0x002000 0x002000",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is to be in {text}");
    }
}

/// Returns the address and size of a function of the bundled guest.
fn function(name: &str) -> (u64, u64) {
    let image = Image::parse(nmiscope::bundled::image()).expect("the bundled image");
    let symbol = image.symbol(name).expect("a function of the bundled guest");
    (symbol.address.0, symbol.size)
}

/// Two vCPUs at the first instruction of `run_on_stack`'s callees, so that the return address is on
/// top of their stacks, in memory that two virtual ranges map.
#[test]
#[ignore = "needs gdb"]
fn gdb_lists_the_vcpus_and_reads_their_stacks() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (image, path) = (folder.path().join("guest.elf"), folder.path().join("hang.core"));
    std::fs::write(&image, nmiscope::bundled::image()).expect("an image");
    let (caller, caller_size) = function("run_on_stack");
    // The function ends in HLT, one byte, and a short JMP, two: the call returns to the HLT.
    let returns_to = caller + caller_size - 3;
    let functions = ["kernel_main", "ap_main"];

    let mut memory = Pages::default();
    let mut cpus = Vec::new();
    for (cpu, name) in (0_u32..).zip(functions) {
        let page = u64::from(cpu) * 2;
        memory.set(16 + page, &[returns_to, 0xfeed_0000 + page].map(u64::to_le_bytes).concat());
        memory.set(17 + page, &[]);
        let rsp = STACK + page * PAGE;
        let registers = UserRegisters {
            rip: function(name).0,
            rsp,
            cs: 8,
            eflags: 2,
            orig_rax: u64::MAX,
            ..UserRegisters::default()
        };
        cpus.push(CpuRegisters { cpu, registers });
    }
    // Memory without a virtual address must not hide any that has one.
    memory.set(64, b"unmapped");
    let contents = CoreContents {
        cpus: &cpus,
        note: b"",
        vmcoreinfo: None,
        build_id: None,
        extents: &extents(&[(16 * PAGE, 4 * PAGE), (64 * PAGE, PAGE)]),
        views: &[view(STACK, 16 * PAGE, 4 * PAGE), view(DIRECT_MAP, 0, 32 * PAGE)],
    };
    let file = File::create(&path).expect("a file");
    write(&file, &contents, &memory).expect("a core");

    let words = format!("x/2gx {:#x}", DIRECT_MAP + 18 * PAGE);
    let zeros = format!("x/1gx {:#x}", STACK + PAGE);
    let none = format!("x/1gx {:#x}", DIRECT_MAP + 64 * PAGE);
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-ex", "set width 0", "-ex", "set debuginfod enabled off"]);
    for command in ["info threads", "thread apply all bt", &words, &zeros, &none] {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg(&image).arg(&path).output().expect("gdb");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    for (cpu, name) in (1..).zip(functions) {
        let thread = format!("(LWP {cpu})");
        let trace = text
            .lines()
            .skip_while(|line| !(line.starts_with("Thread ") && line.contains(&thread)))
            .skip(1)
            .take_while(|line| line.starts_with('#'))
            .collect::<Vec<_>>();
        assert_eq!(trace.len(), 2, "{text}");
        assert!(trace[0].contains(name), "{text}");
        assert!(trace[1].contains("run_on_stack"), "{text}");
    }
    for wanted in [
        format!("{returns_to:#018x}\t0x00000000feed0002"),
        format!("{:#x}:\t0x0000000000000000", STACK + PAGE),
        format!("Cannot access memory at address {:#x}", DIRECT_MAP + 64 * PAGE),
    ] {
        assert!(text.contains(&wanted), "{wanted:?} is to be in {text}");
    }
    for unwanted in ["warning", "Warning"] {
        assert!(!text.contains(unwanted), "{text}");
    }
}
