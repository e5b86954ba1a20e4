//! Outcomes: the ways in which VMs end.

use nmiscope_machine::Outcome;
use nmiscope_vmm::VmEvent;

use crate::support::asm::Asm;
use crate::support::image::PvhImage;
use crate::support::{CODE, COM1, EXIT, LONG, POST, TestVm};

#[test]
fn a_debug_exit_write_ends_the_vm_with_its_code() {
    let byte = TestVm::run(Asm::at(CODE).out8(EXIT, 42));
    assert_eq!(byte.outcome(), Outcome::DebugExit { cpu: 0, code: 42 });
    let word = TestVm::run(Asm::at(CODE).out32(EXIT, 0x8000_0001));
    assert_eq!(word.outcome(), Outcome::DebugExit { cpu: 0, code: 0x8000_0001 });
}

#[test]
fn a_vcpu_is_stopped_after_the_instruction_that_ended_it() {
    let asm = Asm::at(CODE).out8(EXIT, 0);
    let end = asm.here();
    let machine = TestVm::run(asm.ud2());
    machine.outcome();
    assert_eq!(machine.rip(), u64::from(end));
}

#[test]
fn an_ended_vm_can_be_paused_resumed_and_shut_down() {
    let mut machine = TestVm::run(Asm::at(CODE).out8(EXIT, 1));
    machine.outcome();
    machine.pause();
    machine.vm.resume();
    machine.pause();
    assert!(machine.events.try_recv().is_err(), "a VM ends once");
    machine.vm.shutdown(LONG).unwrap();
}

#[test]
fn post_codes_arrive_in_order() {
    let machine = TestVm::run(Asm::at(CODE).out8(POST, 1).out8(POST, 0xff).out8(EXIT, 0));
    let codes = [machine.event(), machine.event()].map(|event| match event {
        VmEvent::Post { cpu: 0, code, .. } => code,
        other => panic!("not a POST code: {other:?}"),
    });
    assert_eq!(codes, [1, 0xff]);
}

#[test]
fn an_exception_without_an_idt_is_a_triple_fault() {
    // An IDT of limit 0, from the zeroes behind the code.
    let asm = Asm::at(CODE).lidt(CODE + 0x800).ud2();
    assert_eq!(TestVm::run(asm).outcome(), Outcome::TripleFault { cpu: 0 });
}

#[test]
fn the_keyboard_controller_resets_the_machine() {
    let machine = TestVm::run(Asm::at(CODE).out8(0x64, 0xfe));
    assert_eq!(machine.outcome(), Outcome::Reset { cpu: 0 });
}

/// A PXOR whose operand is not RAM must be emulated, and KVM's emulator does not support PXOR: emulation
/// fails on hardware as well as on a KVM that emulates everything.
#[test]
fn an_emulation_failure_has_the_instructions_address_and_bytes() {
    const PXOR: [u8; 8] = [0x66, 0x0f, 0xef, 0x05, 0, 0, 0, 0xd0]; // pxor xmm0, [0xd0000000]
    // CR4.OSFXSR, or it would be an invalid opcode: mov eax, 0x200; mov cr4, eax.
    let asm = Asm::at(CODE).raw(&[0xb8, 0, 2, 0, 0, 0x0f, 0x22, 0xe0]);
    let at = asm.here();
    let outcome = TestVm::run(asm.raw(&PXOR)).outcome();
    let Outcome::InternalError { cpu: 0, suberror: 1, rip, instruction } = outcome else {
        panic!("not an emulation failure: {outcome}");
    };
    assert_eq!(rip, Some(at.into()));
    assert!(instruction.starts_with(&PXOR), "{instruction:02x?}");
}

#[test]
fn unknown_ports_and_addresses_read_as_all_ones() {
    // in al, 0x1234; print it; mov al, [0xd0000000]; print it
    let asm = Asm::at(CODE)
        .in_al(0x1234)
        .out_al(POST)
        .raw(&[0xb0, 0])
        .raw(&[0xa0, 0, 0, 0, 0xd0])
        .out_al(POST)
        .store(0xd000_0000, 1)
        .out8(EXIT, 0);
    let machine = TestVm::run(asm);
    machine.wait_for_post(0xff);
    machine.wait_for_post(0xff);
    machine.outcome();
}

#[test]
fn system_control_port_b_shows_no_parity_error_with_any_pit() {
    let image = PvhImage::from_code(&Asm::at(CODE).in_al(0x61).out_al(POST).out8(EXIT, 0).code());
    for pit in [false, true] {
        let machine = TestVm::boot_with(1, &image, None, pit, Box::new(std::io::sink()));
        let VmEvent::Post { code, .. } = machine.event() else { panic!("no POST code") };
        assert_eq!(code & 0xc0, 0, "{code:#x}");
    }
}

#[test]
fn exits_are_counted_by_kind() {
    let machine =
        TestVm::boot(1, &PvhImage::from_code(&Asm::at(CODE).in_al(COM1).out8(EXIT, 0).code()));
    machine.outcome();
    let counts = machine.vm.exit_counts();
    assert_eq!((counts.port_reads, counts.port_writes, counts.mmio), (1, 1, 0));
}
