//! Tests of a dump's registers against those that QEMU's monitor printed at that moment (`info registers
//! -a`, stored beside the dump), and those that gdb reads in the dump.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use super::support::*;
use crate::offline::directory;
use nmiscope_machine::{Execution, MpState, Registers, Segment, VcpuState};

/// A vCPU as the monitor printed it: each number by its name, and each segment's selector and base.
#[derive(Debug, Default)]
struct Said {
    numbers: BTreeMap<String, u64>,
    segments: BTreeMap<String, (u64, u64)>,
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("{text}"))
}

fn said(name: &str) -> Vec<Said> {
    let text = fs::read_to_string(directory().join(format!("dumps/{name}.registers")));
    let mut cpus = Vec::new();
    for line in text.expect("what the monitor said").lines() {
        if line.starts_with("CPU#") {
            cpus.push(Said::default());
            continue;
        }
        let cpu = cpus.last_mut().expect("a vCPU");
        let (first, rest) = line.split_once('=').expect("a register");
        let words: Vec<&str> = rest.split_whitespace().collect();
        match first.trim() {
            // The tables have no selector.
            name @ ("GDT" | "IDT") => {
                cpu.segments.insert(name.into(), (0, hex(words[0])));
            }
            name if words.len() > 3 && words[0].len() == 4 => {
                cpu.segments.insert(name.into(), (hex(words[0]), hex(words[1])));
            }
            _ => {
                let line = line.replace(" =", "=");
                let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
                cpu.numbers.extend(pairs.map(|(name, value)| (name.into(), hex(value))));
            }
        }
    }
    cpus
}

fn numbers(registers: &Registers) -> [(&'static str, u64); 23] {
    let of = registers;
    [
        ("RAX", of.rax),
        ("RBX", of.rbx),
        ("RCX", of.rcx),
        ("RDX", of.rdx),
        ("RSI", of.rsi),
        ("RDI", of.rdi),
        ("RBP", of.rbp),
        ("RSP", of.rsp),
        ("R8", of.r8),
        ("R9", of.r9),
        ("R10", of.r10),
        ("R11", of.r11),
        ("R12", of.r12),
        ("R13", of.r13),
        ("R14", of.r14),
        ("R15", of.r15),
        ("RIP", of.rip),
        ("RFL", of.rflags),
        ("CPL", of.cpl.into()),
        ("CR0", of.cr0),
        ("CR2", of.cr2),
        ("CR3", of.cr3),
        ("CR4", of.cr4),
    ]
}

fn segments(registers: &Registers) -> [(&'static str, (u64, u64)); 6] {
    let pair = |segment: Segment| (segment.selector.into(), segment.base);
    let of = registers;
    let (cs, ss, ds) = (pair(of.cs), pair(of.ss), pair(of.ds));
    let (es, fs, gs) = (pair(of.es), pair(of.fs), pair(of.gs));
    [("CS", cs), ("SS", ss), ("DS", ds), ("ES", es), ("FS", fs), ("GS", gs)]
}

#[test]
fn registers_of_a_dump_equal_those_of_qemus_monitor() {
    for name in DUMPS {
        let (said, states) = (said(name), states(&dump(name)));
        assert_eq!(states.len(), said.len(), "{name}");
        for (state, said) in states.iter().zip(&said) {
            let what = format!("{name}, cpu{}", state.cpu);
            for (register, value) in numbers(&state.registers) {
                assert_eq!(said.numbers.get(register), Some(&value), "{what}: {register}");
            }
            for (register, value) in segments(&state.registers) {
                assert_eq!(said.segments.get(register), Some(&value), "{what}: {register}");
            }
            assert_eq!(said.segments["IDT"].1, state.registers.idt_base, "{what}");
        }
    }
}

#[test]
fn registers_that_notes_lack_are_derived_as_qemu_has_them() {
    for name in DUMPS {
        for (state, said) in states(&dump(name)).iter().zip(said(name)) {
            let what = format!("{name}, cpu{}", state.cpu);
            assert_eq!(state.registers.efer, said.numbers["EFER"], "{what}");
            let halted = match said.numbers["HLT"] {
                0 => (MpState::Running, Execution::Kernel),
                _ => (MpState::BehindHlt, Execution::Halted),
            };
            assert_eq!((state.mp_state, state.execution()), halted, "{what}");
            assert_eq!(state.nmi, None, "{what}");
        }
    }
}

/// Returns the general registers of each thread, as gdb prints them.
fn gdb_reads(name: &str) -> Vec<Vec<u64>> {
    const NAMES: &str = "$rax,$rbx,$rcx,$rdx,$rsi,$rdi,$rbp,$rsp,$r8,$r9,$r10,$r11,$r12,$r13,$r14,\
                         $r15,$rip,$eflags";
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("dump"), dump(name)).expect("a file");
    let format = vec!["%lx"; NAMES.split(',').count()].join(" ");
    let print = format!("thread apply all -ascending printf \"SEEN {format}\\n\", {NAMES}");
    let output = Command::new("gdb")
        .args(["-batch", "-nx", "-iex", "set debuginfod enabled off", "-ex", &print])
        .args(["-core", "dump"])
        .current_dir(&folder)
        .output()
        .expect("gdb");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| line.strip_prefix("SEEN "));
    lines.map(|line| line.split(' ').map(hex).collect()).collect()
}

#[test]
#[ignore = "needs gdb"]
fn registers_of_a_dump_equal_those_that_gdb_reads() {
    for name in DUMPS {
        let general = |state: &VcpuState| -> Vec<u64> {
            numbers(&state.registers)[..18].iter().map(|(_, value)| *value).collect()
        };
        let states = states(&dump(name));
        assert_eq!(gdb_reads(name), Vec::from_iter(states.iter().map(general)), "{name}");
    }
}
