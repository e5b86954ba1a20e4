//! Comparison of gdb's backtraces of a workload's core with the host stacks in the report, frame by frame
//! and with inlined ones: functions, files and lines. The two unwinders and readers of DWARF share no code.
//! The workload `exit` leaves no core.
//!
//! Needs gdb with Python, and `/dev/kvm`.

use std::process::Command;

use crate::common::*;
use nmiscope_report::Cpu;
use nmiscope_symbolizer::short_name;
use serde::Deserialize;

/// A gdb script that prints each frame as a line of JSON. find_sal is the line of the call in all frames
/// except the innermost. On an overwritten stack gdb finds an unlimited number of frames.
const SCRIPT: &str = r#"
import json
for thread in sorted(gdb.selected_inferior().threads(), key=lambda thread: thread.ptid[1]):
    thread.switch()
    frame = gdb.newest_frame()
    for _ in range(2000):
        if frame is None:
            break
        sal = frame.find_sal()
        print("FRAME " + json.dumps({
            "cpu": thread.ptid[1] - 1,
            "pc": "%016x" % frame.pc(),
            "name": frame.name(),
            "file": sal.symtab.filename if sal.symtab else None,
            "line": sal.line if sal.symtab else None,
            "inlined": frame.type() == gdb.INLINE_FRAME,
        }))
        frame = frame.older()
"#;

/// A function in a backtrace, in a form that both programs can give.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Seen {
    pc: String,
    name: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    inlined: bool,
}

#[derive(Debug, Deserialize)]
struct Line {
    cpu: u32,
    #[serde(flatten)]
    seen: Seen,
}

/// Returns the last part of a path, without generic arguments. gdb numbers closures, symbols do not.
fn base_name(name: &str) -> String {
    let short = short_name(name);
    let bare = match short.find('<') {
        Some(at) if at > 0 => short[..at].trim_end_matches(':'),
        _ => short,
    };
    let last = bare.rsplit("::").next().unwrap_or(bare);
    if last == "{{closure}}" || last.starts_with("{closure#") {
        return "{closure}".into();
    }
    bare.to_owned()
}

/// Returns the last part of a file's path.
fn tail(file: &str) -> String {
    file.rsplit('/').next().unwrap_or(file).to_owned()
}

fn comparable(seen: Seen) -> Seen {
    Seen { name: seen.name.as_deref().map(base_name), file: seen.file.as_deref().map(tail), ..seen }
}

/// Returns gdb's backtrace of each vCPU.
fn gdb_sees(live: &Finished, cpus: u32) -> Vec<Vec<Seen>> {
    let output = Command::new("gdb")
        .args(["-batch", "-nx", "-iex", "set debuginfod enabled off", "-ex", "source frames.py"])
        .args(["guest.elf", "hang.core"])
        .current_dir(&live.directory)
        .output()
        .expect("gdb");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut seen = vec![Vec::new(); cpus as usize];
    for line in text.lines().filter_map(|line| line.strip_prefix("FRAME ")) {
        let line: Line = serde_json::from_str(line).expect("a frame");
        seen[line.cpu as usize].push(comparable(line.seen));
    }
    assert!(seen.iter().all(|frames| !frames.is_empty()), "{text}\n{errors}");
    seen
}

/// Returns the report's host stack of a vCPU; a frame without functions gives its symbol.
fn look_sees(cpu: &Cpu) -> Vec<Seen> {
    let look = cpu.host_stack.as_ref().expect("a look");
    let mut seen = Vec::new();
    for frame in &look.frames {
        let pc = frame.address.clone();
        if frame.functions.is_empty() {
            let name = frame.symbol.as_ref().map(|symbol| symbol.name.clone());
            seen.push(Seen { pc: pc.clone(), name, file: None, line: None, inlined: false });
        }
        seen.extend(frame.functions.iter().map(|function| Seen {
            pc: pc.clone(),
            name: function.name.clone(),
            file: function.file.clone(),
            line: function.line,
            inlined: function.inlined,
        }));
    }
    seen.into_iter().map(comparable).collect()
}

/// Returns true if two frames are equal, or differ in a way that is known and explained here.
fn is_explained(ours: &Seen, gdb: &Seen) -> bool {
    // The compiler gives instructions of no line the line 0. The report has no line then; gdb leaves
    // the file out too, or takes the line before.
    let no_line = ours.line.is_none() && ours.file.is_some();
    // gdb names a function as its source does, the report by its symbol. The two are one path except
    // for the panic handler, whose symbol the language prescribes.
    let panic_handler =
        ours.name.as_deref() == Some("rust_begin_unwind") && gdb.name.as_deref() == Some("panic");
    let file_and_line = |seen: &Seen| (!no_line).then(|| (seen.file.clone(), seen.line));
    ours.pc == gdb.pc
        && ours.inlined == gdb.inlined
        && (ours.name == gdb.name || panic_handler)
        && file_and_line(ours) == file_and_line(gdb)
}

/// Arguments for the backtrace of a workload that hangs or crashes.
const HANG: &[&str] = &["--hang-after", "500ms"];
/// Arguments for the backtrace of a workload that neither hangs nor crashes.
const HEALTHY: &[&str] = &["--hang-after", "0", "--nmi-after", "500ms", "--stop-after", "600ms"];

fn agrees(workload: &str, counts: &[u32], arguments: &[&str]) {
    for &cpus in counts {
        let live = run_workload(workload, cpus)
            .args(["--core", "hang.core"])
            .args(arguments)
            .with_file("frames.py", SCRIPT.as_bytes())
            .run();
        let written = Command::new(binary())
            .args(["guest", "guest.elf"])
            .current_dir(&live.directory)
            .status()
            .expect("the program");
        assert!(written.success());
        let report = live.report();
        let [backtrace] = &report.backtraces[..] else { panic!("{}", live.all()) };
        let gdb = gdb_sees(&live, cpus);
        for (cpu, gdb) in backtrace.cpus.iter().zip(&gdb) {
            // A vCPU that KVM has reset has no stack.
            let Some(look) = &cpu.host_stack else { continue };
            let ours = look_sees(cpu);
            // On an overwritten stack the report stops at an address that is not code; gdb continues.
            let gdb = if look.complete { gdb } else { &gdb[..ours.len().min(gdb.len())] };
            let pairs = ours.iter().zip(gdb);
            let differences: Vec<_> =
                pairs.filter(|(ours, gdb)| !is_explained(ours, gdb)).collect();
            assert!(
                differences.is_empty() && ours.len() == gdb.len(),
                "{workload}, cpu{} of {cpus}: {differences:#?}\nours: {ours:#?}\ngdb: {gdb:#?}",
                cpu.cpu
            );
        }
    }
}

macro_rules! workloads {
    ($($test:ident: $name:literal, $cpus:expr, $arguments:expr;)*) => {
        $(
            #[test]
            #[ignore = "needs gdb"]
            fn $test() {
                agrees($name, &$cpus, $arguments);
            }
        )*
    };
}

workloads! {
    gdb_sees_the_same_of_abba_deadlock: "abba-deadlock", [2, 8], HANG;
    gdb_sees_the_same_of_busy: "busy", [1, 2, 8], HEALTHY;
    gdb_sees_the_same_of_corrupt_stack_up_to_the_damage: "corrupt-stack", [1, 2, 8], HANG;
    gdb_sees_the_same_of_deep_stack: "deep-stack", [1, 2, 8], HANG;
    gdb_sees_the_same_of_double_begin: "double-begin", [1, 2, 8], HANG;
    gdb_sees_the_same_of_halt_irqs_off: "halt-irqs-off", [1, 2, 8], HANG;
    gdb_sees_the_same_of_idle: "idle", [1, 2, 8], HEALTHY;
    gdb_sees_the_same_of_nmi_stuck: "nmi-stuck", [1, 2, 8], HANG;
    gdb_sees_the_same_of_null_deref: "null-deref", [1, 2, 8], HANG;
    gdb_sees_the_same_of_panic: "panic", [1, 2, 8], HANG;
    gdb_sees_the_same_of_partial_line: "partial-line", [1, 2, 8], HANG;
    gdb_sees_the_same_of_printk_lock_held: "printk-lock-held", [1, 2, 8], HANG;
    gdb_sees_the_same_of_spin_irqs_off: "spin-irqs-off", [1, 2, 8], HANG;
    gdb_sees_the_same_of_spin_irqs_on: "spin-irqs-on", [1, 2, 8], HANG;
    gdb_sees_the_same_of_sysrq_storm: "sysrq-storm", [1, 2, 8], HEALTHY;
    gdb_sees_the_same_of_triple_fault: "triple-fault", [1, 2, 8], HANG;
}
