//! Tests of the bundled guest under another VMM: QEMU boots the same file by PVH, on both of its PC machines,
//! with and without KVM, with its most and least capable CPU models, and the guest's own backtraces work.
//!
//! QEMU's isa-debug-exit device ends it with `(code << 1) | 1` (hw/misc/debugexit.c).

use std::io::Write as _;
use std::process::{ChildStdin, Command, Stdio};

use crate::common::*;

const IMAGE: &str = "guest.elf";

/// Starts QEMU with the guest on four CPUs, and its serial line on standard input and output.
fn qemu(machine: &str, accelerator: &str, cpu: Option<&str>, parameters: &str) -> Running {
    let machine = match machine {
        // microvm has no ISA serial port or 8259 by default; the guest uses COM1 and its IRQ 4.
        "microvm" => "microvm,isa-serial=on,pic=on,pit=on,rtc=on",
        other => other,
    };
    let mut invocation = program(Command::new("qemu-system-x86_64"), ["-M", machine])
        .args(["-accel", accelerator, "-smp", "4", "-m", "64M", "-kernel", IMAGE])
        .args(["-append", parameters, "-display", "none", "-serial", "stdio", "-monitor", "none"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .with_file(IMAGE, nmiscope::bundled::image());
    if accelerator == "kvm" {
        require_kvm();
    }
    if let Some(cpu) = cpu {
        invocation.command.args(["-cpu", cpu]);
    }
    invocation.command.stdin(Stdio::piped());
    invocation.start()
}

fn key(stdin: &mut ChildStdin, key: &[u8]) {
    stdin.write_all(key).expect("QEMU reads its standard input");
    stdin.flush().expect("QEMU reads its standard input");
}

/// Boots the guest to its ready line, and sends the keys that it knows and one that it does not.
fn boots_and_answers_keys(machine: &str, accelerator: &str, cpu: Option<&str>) {
    let mut running = qemu(machine, accelerator, cpu, "workload=idle loglevel=8");
    let mut stdin = running.child.stdin.take().expect("a pipe");
    running.wait_for("ready: 4 CPUs, workload idle", 1);
    key(&mut stdin, b"h");
    running.wait_for("sysrq: l shows the call traces of all CPUs", 1);
    key(&mut stdin, b"?");
    running.wait_for("sysrq: no such key '?'", 1);
    key(&mut stdin, b"l");
    for cpu in 0..4 {
        running.wait_for(&format!("cpu{cpu}: NMI backtrace for cpu {cpu}"), 1);
    }
    running.wait_for("Call Trace:", 4);
    // A second time, which works only if the buffers were released.
    key(&mut stdin, b"l");
    running.wait_for("NMI backtrace for cpu", 8);
    running.wait_for("Call Trace:", 8);
    running.kill();
    let output = running.wait();
    for wrong in ["did not answer", "BUG", "panic", "messages lost", "another client"] {
        assert!(!output.stdout.contains(wrong), "{wrong}: {}", output.all());
    }
}

/// Asserts that the guest exits by the debug-exit port with the code in its kernel parameters.
fn leaves_with_its_code(machine: &str, accelerator: &str, cpu: Option<&str>) {
    let finished = qemu(machine, accelerator, cpu, "workload=exit exit_code=3").wait();
    assert_eq!(finished.status.code(), Some(3 << 1 | 1), "{}", finished.all());
}

macro_rules! under {
    ($($boots:ident, $leaves:ident: $machine:literal, $accelerator:literal, $cpu:expr;)*) => {
        $(
            #[test]
            #[ignore = "needs qemu-system-x86_64"]
            fn $boots() {
                boots_and_answers_keys($machine, $accelerator, $cpu);
            }

            #[test]
            #[ignore = "needs qemu-system-x86_64"]
            fn $leaves() {
                leaves_with_its_code($machine, $accelerator, $cpu);
            }
        )*
    };
}

under! {
    the_guest_boots_on_microvm_and_answers_keys, the_guest_leaves_microvm_with_its_code:
        "microvm", "tcg", Some("max");
    the_guest_boots_on_a_pc_and_answers_keys, the_guest_leaves_a_pc_with_its_code:
        "pc", "tcg", Some("max");
    the_guest_boots_on_microvm_with_qemus_default_cpu, the_guest_leaves_microvm_with_qemus_default_cpu:
        "microvm", "tcg", Some("qemu64");
    the_guest_boots_on_a_pc_with_qemus_default_cpu, the_guest_leaves_a_pc_with_qemus_default_cpu:
        "pc", "tcg", Some("qemu64");
    the_guest_boots_on_microvm_with_kvm_and_answers_keys,
        the_guest_leaves_microvm_with_kvm_with_its_code: "microvm", "kvm", None;
    the_guest_boots_on_a_pc_with_kvm_and_answers_keys,
        the_guest_leaves_a_pc_with_kvm_with_its_code: "pc", "kvm", None;
}

/// SeaBIOS leaves the timer's line of the 8259 unmasked. With QEMU's instruction counter at its slowest, a
/// tick always comes between the firmware's last instruction and the guest's own interrupt table.
#[test]
#[ignore = "needs qemu-system-x86_64"]
fn a_pending_tick_of_the_firmware_is_no_guest_exception() {
    for cpu in ["qemu64", "max"] {
        let finished = program(Command::new("qemu-system-x86_64"), ["-M", "pc", "-accel", "tcg"])
            .args(["-cpu", cpu, "-smp", "2", "-m", "64M", "-icount", "shift=10,sleep=off"])
            .args(["-kernel", IMAGE, "-append", "workload=exit exit_code=3", "-display", "none"])
            .args(["-serial", "stdio", "-monitor", "none", "-no-reboot"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .with_file(IMAGE, nmiscope::bundled::image())
            .run();
        assert_eq!(finished.status.code(), Some(3 << 1 | 1), "{cpu}: {}", finished.all());
    }
}
