//! What a VM cannot be made from, and what it tells its guest.

use nmiscope_vmm::{
    BootError, Config, Error, ImageError, MAX_VCPUS, MemoryError, Outcome, Ports, Vm,
};

use crate::support::asm::Asm;
use crate::support::image::Image;
use crate::support::{CODE, COUNTER, EXIT, LONG, Machine, NMI_DONE, POST};

fn refused(cpus: u32, memory: u64, image: &[u8], cmdline: &str) -> Error {
    Vm::new(Config {
        cpus,
        memory,
        image,
        cmdline: cmdline.to_owned(),
        serial_output: Box::new(std::io::sink()),
        ports: Ports { debug_exit: EXIT, post: POST, nmi_done: NMI_DONE },
        pit: false,
        events: Box::new(|_| {}),
    })
    .expect_err("the configuration should have been refused")
}

fn image() -> Vec<u8> {
    Image::of(&[0xf4]).bytes()
}

#[test]
fn a_vm_has_between_1_and_512_vcpus() {
    assert!(matches!(refused(0, 4 << 20, &image(), ""), Error::NoVcpus));
    let error = refused(513, 4 << 20, &image(), "");
    assert!(matches!(error, Error::TooManyVcpus { asked: 513, max: 512 }), "{error}");
}

#[test]
fn too_little_and_too_much_memory_are_refused() {
    let error = refused(1, 1 << 20, &image(), "");
    assert!(matches!(error, Error::Memory(MemoryError::TooLittle(_))), "{error}");
    let error = refused(1, 1 << 62, &image(), "");
    assert!(matches!(error, Error::Memory(MemoryError::TooMuch { .. })), "{error}");
}

#[test]
fn a_bad_image_and_a_long_command_line_are_refused() {
    let error = refused(1, 4 << 20, b"hello", "");
    assert!(matches!(error, Error::Boot(BootError::Image(ImageError::NotElf))), "{error}");
    let error = refused(1, 4 << 20, &image(), &"x".repeat(4000));
    assert!(matches!(error, Error::Boot(BootError::Pvh(_))), "{error}");
}

#[test]
fn the_boot_cpu_gets_the_start_info_in_ebx() {
    // mov [COUNTER], ebx
    let asm = Asm::at(CODE).raw(&[0x89, 0x1d]).raw(&COUNTER.to_le_bytes()).out8(EXIT, 0);
    let machine = Machine::run(asm);
    machine.outcome();
    assert_eq!(machine.word(machine.word(COUNTER)), 0x336e_c578, "hvm_start_info's magic");
}

#[test]
fn cpuid_tells_the_tsc_frequency() {
    // mov eax, 0x40000010; cpuid; mov edx, EXIT; out dx, eax
    let asm =
        Asm::at(CODE).raw(&[0xb8, 0x10, 0, 0, 0x40, 0x0f, 0xa2, 0xba, EXIT as u8, 0, 0, 0, 0xef]);
    let Outcome::DebugExit { code: khz, .. } = Machine::run(asm).outcome() else {
        panic!("the guest should have left with the TSC's frequency");
    };
    assert!((100_000..20_000_000).contains(&khz), "{khz} kHz");
}

#[test]
fn as_many_vcpus_as_promised_can_be_had() {
    let machine = Machine::boot(MAX_VCPUS, &Image::of(&Asm::at(CODE).out8(EXIT, 3).code()));
    assert_eq!(machine.outcome(), Outcome::DebugExit { cpu: 0, code: 3 });
    machine.vm.shutdown(LONG).unwrap();
}

#[test]
fn a_vm_may_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Vm>();
}
