//! Configurations that are refused, and the data that a guest gets at boot.

use nmiscope_machine::Outcome;
use nmiscope_vmm::{
    BootError, BootImageError, Config, CreateError, MAX_VCPUS, Ports, RamError, Vm,
};

use crate::support::asm::Asm;
use crate::support::image::PvhImage;
use crate::support::{CODE, COM1, COUNTER, EXIT, LONG, NMI_DONE, POST, TestVm};

fn refused(cpus: u32, memory: u64, image: &[u8], cmdline: &str) -> CreateError {
    Vm::new(Config {
        cpus,
        memory,
        image,
        initrd: None,
        cmdline: cmdline.to_owned(),
        serial_output: Box::new(std::io::sink()),
        ports: Ports { debug_exit: EXIT, post: POST, nmi_done: NMI_DONE },
        pit: false,
        events: Box::new(|_| {}),
    })
    .expect_err("the configuration should have been refused")
}

fn image() -> Vec<u8> {
    PvhImage::from_code(&[0xf4]).bytes()
}

/// The guest prints PVH's first module, found through the start info in EBX: `mov esi, [ebx+16]; mov ecx,
/// [esi+8]; mov esi, [esi]; mov edx, COM1; cld; rep outsb`.
#[test]
fn an_initrd_is_where_the_start_info_says() {
    let text = "the initial RAM disk, of more than a page ".repeat(150);
    let code = Asm::at(CODE)
        .raw(&[0x8b, 0x73, 0x10, 0x8b, 0x4e, 0x08, 0x8b, 0x36, 0xba])
        .raw(&u32::from(COM1).to_le_bytes())
        .raw(&[0xfc, 0xf3, 0x6e])
        .out8(EXIT, 0);
    let image = PvhImage::from_code(&code.code());
    let machine = TestVm::boot_with_initrd(1, &image, Some(text.as_bytes()));
    assert_eq!(machine.outcome(), Outcome::DebugExit { cpu: 0, code: 0 });
    assert_eq!(machine.output(), text);
}

#[test]
fn a_vm_has_between_1_and_512_vcpus() {
    assert!(matches!(refused(0, 4 << 20, &image(), ""), CreateError::NoVcpus));
    let error = refused(513, 4 << 20, &image(), "");
    assert!(matches!(error, CreateError::TooManyVcpus { asked: 513, max: 512 }), "{error}");
}

#[test]
fn too_little_and_too_much_memory_are_refused() {
    let error = refused(1, 1 << 20, &image(), "");
    assert!(matches!(error, CreateError::Memory(RamError::TooLittle(_))), "{error}");
    let error = refused(1, 1 << 62, &image(), "");
    assert!(matches!(error, CreateError::Memory(RamError::TooMuch { .. })), "{error}");
}

#[test]
fn a_bad_image_and_a_long_command_line_are_refused() {
    let error = refused(1, 4 << 20, b"hello", "");
    assert!(
        matches!(error, CreateError::Boot(BootError::Image(BootImageError::NotElf))),
        "{error}"
    );
    let error = refused(1, 4 << 20, &image(), &"x".repeat(4000));
    assert!(matches!(error, CreateError::Boot(BootError::Pvh(_))), "{error}");
}

#[test]
fn the_boot_cpu_gets_the_start_info_in_ebx() {
    // mov [COUNTER], ebx
    let asm = Asm::at(CODE).raw(&[0x89, 0x1d]).raw(&COUNTER.to_le_bytes()).out8(EXIT, 0);
    let machine = TestVm::run(asm);
    machine.outcome();
    assert_eq!(machine.word(machine.word(COUNTER)), 0x336e_c578, "hvm_start_info's magic");
}

#[test]
fn cpuid_reports_the_tsc_frequency() {
    // mov eax, 0x40000010; cpuid; mov edx, EXIT; out dx, eax
    let asm =
        Asm::at(CODE).raw(&[0xb8, 0x10, 0, 0, 0x40, 0x0f, 0xa2, 0xba, EXIT as u8, 0, 0, 0, 0xef]);
    let Outcome::DebugExit { code: khz, .. } = TestVm::run(asm).outcome() else {
        panic!("the guest should have left with the TSC's frequency");
    };
    assert!((100_000..20_000_000).contains(&khz), "{khz} kHz");
}

#[test]
fn a_vm_with_the_most_vcpus_boots() {
    let machine =
        TestVm::boot(MAX_VCPUS, &PvhImage::from_code(&Asm::at(CODE).out8(EXIT, 3).code()));
    assert_eq!(machine.outcome(), Outcome::DebugExit { cpu: 0, code: 3 });
    machine.vm.shutdown(LONG).unwrap();
}

#[test]
fn a_vm_may_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Vm>();
}
