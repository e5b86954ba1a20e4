//! The serial port, both ways.

use nmiscope_machine::Outcome;

use crate::support::asm::Asm;
use crate::support::{CODE, COM1, EXIT, TestVm};

const LINE_STATUS: u16 = COM1 + 5;
const DATA_READY: u8 = 1;

#[test]
fn serial_output_reaches_the_writer() {
    let asm = b"hello\n".iter().fold(Asm::at(CODE), |asm, byte| asm.out8(COM1, *byte));
    let machine = TestVm::run(asm.out8(EXIT, 0));
    machine.outcome();
    assert_eq!(machine.output(), "hello\n");
}

#[test]
fn a_string_instruction_prints_every_byte() {
    let text = "one instruction, many bytes; ".repeat(100);
    let code = Asm::at(CODE).rep_outsb(COM1, CODE + 0x100, text.len() as u32).out8(EXIT, 0);
    let mut code = code.code();
    code.resize(0x100, 0);
    code.extend(text.as_bytes());
    let machine = TestVm::run(Asm::at(CODE).raw(&code));
    machine.outcome();
    assert_eq!(machine.output(), text);
}

#[test]
fn input_beyond_the_fifo_reaches_the_guest_whole() {
    // Echo every byte; leave at a NUL, with it as the code.
    let asm = Asm::at(CODE);
    let top = asm.here();
    let asm = asm.in_al(LINE_STATUS).test_al_jz(DATA_READY, top).in_al(COM1);
    let after_echo = asm.here() + 8 + 6 + 5;
    let asm = asm.test_al_jz(0xff, after_echo).out_al(COM1).jump(top).out_al(EXIT);
    let machine = TestVm::run(asm);
    let text = "a line longer than any FIFO of 64 bytes, sent at once. ".repeat(10);
    machine.vm.serial_input(text.as_bytes()).unwrap();
    machine.vm.serial_input(&[0]).unwrap();
    assert_eq!(machine.outcome(), Outcome::DebugExit { cpu: 0, code: 0 });
    assert_eq!(machine.output(), text);
}
