//! Tests that registers from the monitor equal the notes of a dump of the same stopped VM.

use nmiscope_qemu::VcpuRegisters;

use crate::common::guardian;
use crate::dump::{Note, notes};
use crate::vm::{Vm, has_kvm};

fn compare(cpu: &VcpuRegisters, note: &Note) {
    let of = &cpu.state.registers;
    let general = [
        of.rax, of.rbx, of.rcx, of.rdx, of.rsi, of.rdi, of.rsp, of.rbp, of.r8, of.r9, of.r10,
        of.r11, of.r12, of.r13, of.r14, of.r15, of.rip, of.rflags,
    ];
    assert_eq!(general, note.general);
    let segments = [of.cs, of.ds, of.es, of.fs, of.gs, of.ss, cpu.ldt, cpu.tr];
    assert_eq!(segments, note.segments[..8]);
    assert_eq!((cpu.gdt_base, of.idt_base), (note.segments[8].base, note.segments[9].base));
    assert_eq!(
        (u32::from(cpu.gdt_limit), u32::from(of.idt_limit)),
        (note.gdt_limit, note.idt_limit)
    );
    let control = [of.cr0, note.control[1], of.cr2, of.cr3, of.cr4];
    assert_eq!(control, note.control, "CR0 to CR4");
}

fn assert_registers_equal_dump(vm: &Vm) {
    let mut qemu = vm.open();
    let vcpus = qemu.vcpus().expect("a number") as usize;
    let mut stopped = qemu.stop(guardian()).expect("a stopped VM");
    let states = stopped.qemu().states().expect("registers");
    let notes = notes(&mut stopped.qemu().qmp(), &vm.path("dump"));
    assert_eq!((states.len(), notes.len()), (vcpus, vcpus));
    for (cpu, note) in states.iter().zip(&notes) {
        compare(cpu, note);
    }
    drop(stopped);
}

fn assert_registers_equal_dump_on_all(accelerator: &str) {
    for (machine, cpus) in [("pc", "1"), ("q35", "4")] {
        let options =
            ["-accel", accelerator, "-cpu", "max", "-m", "64M", "-M", machine, "-smp", cpus];
        for workload in ["idle", "abba-deadlock"] {
            assert_registers_equal_dump(&Vm::guest(workload, &options));
        }
        // Before and during firmware: real and protected mode.
        assert_registers_equal_dump(&Vm::start(&[&options[..], &["-S"]].concat()));
        assert_registers_equal_dump(&Vm::start(&options));
    }
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn registers_under_tcg_equal_those_of_a_dump() {
    assert_registers_equal_dump_on_all("tcg");
}

#[test]
#[ignore = "needs qemu-system-x86_64 and /dev/kvm"]
fn registers_under_kvm_equal_those_of_a_dump() {
    assert!(has_kvm(), "this test needs /dev/kvm");
    assert_registers_equal_dump_on_all("kvm");
}
