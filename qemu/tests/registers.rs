//! Tests of the register parser with the monitor's text of QEMU 7.2, unchanged and damaged.

use nmiscope_machine::{Execution, MpState};
use nmiscope_qemu::VcpuRegisters;
use nmiscope_qemu::registers::{RegistersError, parse};
use proptest::prelude::*;

const PC_1_PRELAUNCH: &str = include_str!("fixtures/registers-pc-1-prelaunch.txt");
const PC_1_LONG: &str = include_str!("fixtures/registers-pc-1-long.txt");
const PC_4_FIRMWARE: &str = include_str!("fixtures/registers-pc-4-firmware.txt");
const Q35_4_PRELAUNCH: &str = include_str!("fixtures/registers-q35-4-prelaunch.txt");
const Q35_4_LONG: &str = include_str!("fixtures/registers-q35-4-long.txt");
const KVM_PRELAUNCH: &str = include_str!("fixtures/registers-pc-2-kvm-prelaunch.txt");
const KVM_LONG: &str = include_str!("fixtures/registers-pc-2-kvm-long.txt");
/// Debian's Linux 6.1 with AVX and five levels of page tables, in a panic.
const LINUX: &str = include_str!("fixtures/registers-q35-2-linux.txt");
const ALL: [&str; 8] = [
    LINUX,
    PC_1_PRELAUNCH,
    PC_1_LONG,
    PC_4_FIRMWARE,
    Q35_4_PRELAUNCH,
    Q35_4_LONG,
    KVM_PRELAUNCH,
    KVM_LONG,
];

/// A 32-bit program under a 64-bit kernel (HF_LMA without HF_CS64), written by hand from the source of
/// `x86_cpu_dump_state`.
const COMPATIBILITY: &str = "\r
CPU#3\r
EAX=00000001 EBX=f7fb0ff4 ECX=00000000 EDX=00000004\r
ESI=00000000 EDI=00000000 EBP=ffffd6a8 ESP=ffffd690\r
EIP=08049162 EFL=00000246 [---Z-P-] CPL=3 II=1 A20=1 SMM=0 HLT=0\r
ES =002b 00000000 ffffffff 00c0f300 DPL=3 DS   [-WA]\r
CS =0023 00000000 ffffffff 00c0fb00 DPL=3 CS32 [-RA]\r
SS =002b 00000000 ffffffff 00c0f300 DPL=3 DS   [-WA]\r
DS =002b 00000000 ffffffff 00c0f300 DPL=3 DS   [-WA]\r
FS =0000 00000000 00000000 00000000\r
GS =0063 f7fc2540 ffffffff 00d0f300 DPL=3 DS   [-WA]\r
LDT=0000 00000000 00000000 00000000\r
TR =0040 00003000 00004087 00008b00 DPL=0 TSS64-busy\r
GDT=     fffffe0000001000 0000007f\r
IDT=     fffffe0000000000 00000fff\r
CR0=80050033 CR2=00000000f7fb1000 CR3=000000010a2e4001 CR4=007506f0\r
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000 \r
DR6=00000000ffff0ff0 DR7=0000000000000400\r
EFER=0000000000000d01\r
FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80\r
FPR0=0000000000000000 0000 FPR1=0000000000000000 0000\r
YMM00=0000000000000000 0000000000000000 0000000000000000 0000000000000000\r
";

fn executions(text: &str) -> Vec<Execution> {
    cpus(text).iter().map(|cpu| cpu.state.execution()).collect()
}

fn cpus(text: &str) -> Vec<VcpuRegisters> {
    parse(text).expect("registers of QEMU")
}

#[test]
fn long_mode_kernel_has_all_registers() {
    let cpus = cpus(PC_1_LONG);
    let [cpu] = cpus[..] else { panic!("{} vCPUs", cpus.len()) };
    // Read off the fixture.
    let registers = &cpu.state.registers;
    assert_eq!(registers.rbp, 0xffff_c900_0001_1fc0);
    assert_eq!(registers.r12, 0xffff_8880_8000_5b80);
    assert_eq!(registers.rip, 0xffff_ffff_8020_8748);
    assert_eq!((registers.rflags, registers.cpl), (0x246, 0));
    assert_eq!((registers.cs.selector, registers.ss.selector), (8, 0));
    assert_eq!(registers.gs.base, 0xffff_8880_8000_5b80);
    assert_eq!((registers.cr0, registers.cr3), (0x8001_0033, 0x60_1000));
    assert_eq!((registers.cr4, registers.efer), (0xa0, 0xd00));
    assert_eq!((registers.idt_base, registers.idt_limit), (0xffff_8880_0061_9000, 0x3ff));
    assert_eq!((cpu.gdt_base, cpu.gdt_limit), (0xffff_8880_0061_9490, 0x1f));
    assert_eq!((cpu.tr.selector, cpu.tr.base), (0x10, 0xffff_8880_0061_a578));
    assert_eq!((cpu.debug[4], cpu.debug[5]), (0xffff_0ff0, 0x400));
    assert_eq!((cpu.narrow, cpu.a20, cpu.state.smm), (false, true, false));
    assert_eq!(cpu.state.mp_state, MpState::Halted);
}

#[test]
fn vector_registers_are_skipped() {
    assert!(LINUX.contains("YMM15="));
    let cpus = cpus(LINUX);
    assert_eq!(cpus.len(), 2);
    assert_eq!(cpus[0].state.registers.rip, 0xffff_ffff_a143_d023);
    assert_eq!(cpus[0].state.registers.gs.base, 0xff25_c9a8_df40_0000);
    assert_eq!(cpus[0].state.registers.cr4, 0x75_1eb0);
    assert_eq!(cpus[1].state.registers.rbp, 0xff78_fbdc_8001_3e10);
}

#[test]
fn extended_registers_of_apx_are_read_and_dropped() {
    // Four rows before RIP, written by hand from QEMU's source.
    let row = |first: u32| {
        let fields = (first..first + 4).map(|number| format!("R{number}=0000000000000000"));
        fields.collect::<Vec<_>>().join(" ") + "\r\n"
    };
    let rows: String = [16, 20, 24, 28].map(row).concat();
    let text = PC_1_LONG.replace("RIP=", &format!("{rows}RIP="));
    assert_eq!(parse(&text), parse(PC_1_LONG));
    let text = PC_1_LONG.replace("RIP=", &format!("{}RIP=", row(16)));
    assert!(matches!(parse(&text), Err(RegistersError::Line { number: 8, .. })));
}

#[test]
fn vcpus_keep_their_numbers() {
    for text in [Q35_4_LONG, Q35_4_PRELAUNCH, PC_4_FIRMWARE] {
        let numbers: Vec<u32> = cpus(text).iter().map(|cpu| cpu.state.cpu).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
    }
    assert_eq!(cpus(COMPATIBILITY)[0].state.cpu, 3);
}

#[test]
fn cpu_that_was_never_started_is_not_halted() {
    use Execution::{NotStarted, Offline};
    assert_eq!(executions(PC_1_PRELAUNCH), [Offline]);
    assert_eq!(executions(Q35_4_PRELAUNCH), [Offline, NotStarted, NotStarted, NotStarted]);
    // KVM prints HLT=0 for them.
    assert_eq!(executions(KVM_PRELAUNCH), [Offline, NotStarted]);
}

#[test]
fn firmware_parks_cpus_in_a_halt_with_interrupts_off() {
    let cpus = cpus(PC_4_FIRMWARE);
    assert!(cpus.iter().all(|cpu| cpu.narrow && cpu.state.mp_state == MpState::Halted));
    // The first waits for its timer in real mode; the others are parked.
    assert!(!cpus[0].state.registers.is_protected());
    assert_eq!(cpus[0].state.registers.cs.base, 0xf_0000);
    for cpu in &cpus[1..] {
        assert!(cpu.state.registers.is_protected() && !cpu.state.registers.interrupts_enabled());
        assert_eq!(cpu.state.registers.rip, 0xf_d09a);
    }
}

#[test]
fn compatibility_mode_program_has_narrow_registers() {
    let cpus = cpus(COMPATIBILITY);
    let (cpu, registers) = (&cpus[0], &cpus[0].state.registers);
    assert!(cpu.narrow && cpu.state.nmi.is_none());
    assert_eq!((registers.rip, registers.rsp, registers.r8), (0x0804_9162, 0xffff_d690, 0));
    assert_eq!((registers.gs.base, registers.cr3), (0xf7fc_2540, 0x1_0a2e_4001));
    assert_eq!(cpu.state.execution(), Execution::User);
}

#[test]
fn malformed_line_is_quoted_with_its_number() {
    let line = |text: String| match parse(&text) {
        Err(RegistersError::Line { number, line, .. }) => (number, line),
        other => panic!("{other:?}"),
    };
    let text = PC_1_LONG.replace("R8 =", "R80=");
    assert_eq!(line(text).0, 5);
    let text = PC_1_LONG.replace("HLT=1", "HLT=2");
    assert!(line(text).1.ends_with("HLT=2"));
    // Letters that contradict the number beside them.
    assert_eq!(line(PC_1_LONG.replace("[---Z-P-]", "[-O-Z-P-]")).0, 7);
    assert_eq!(line(PC_1_LONG.replace("CPL=0", "CPL=4")).0, 7);
    assert_eq!(line(PC_1_LONG.replace("FCW=", "SSP=")).0, 22);
    assert_eq!(line(PC_1_LONG.replace("CPU#0", "CPU#-1")).0, 2);
    assert_eq!(line(PC_1_LONG.replace("CR2=", "CR2=00000000")).0, 18);
}

#[test]
fn text_with_an_incomplete_vcpu_is_refused() {
    assert_eq!(parse("\r\n"), Err(RegistersError::Empty));
    let cut = PC_1_LONG.split("EFER").next().expect("a beginning");
    assert!(matches!(parse(cut), Err(RegistersError::Truncated { expected: "EFER" })));
    let twice = format!("{PC_1_LONG}{PC_1_LONG}");
    assert_eq!(parse(&twice), Err(RegistersError::Number(0)));
}

proptest! {
    #[test]
    fn mutated_text_is_parsed_or_refused(
        which in 0..ALL.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..20),
    ) {
        let mut bytes = ALL[which].as_bytes().to_vec();
        for (at, byte, edit) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn lines_in_any_order_are_parsed_or_refused(
        which in 0..ALL.len(),
        swaps in prop::collection::vec(any::<[prop::sample::Index; 2]>(), 1..10),
    ) {
        let mut lines: Vec<&str> = ALL[which].lines().collect();
        for [one, other] in swaps {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
        }
        let _ = parse(&lines.join("\r\n"));
    }
}
