//! Tests of dumps whose headers and notes were changed by hand.

use std::time::Duration;

use super::support::*;
use nmiscope::elf_core::ElfCore;
use nmiscope::targets::{Dump, Target};
use nmiscope_machine::{MpState, PagingError, PhysicalAddress, PhysicalMemory};
use nmiscope_report::CpuState;

/// Returns the file offset of the name of each note with this name.
fn names(bytes: &[u8], name: &[u8]) -> Vec<usize> {
    let name = [name, b"\0"].concat();
    let headers = &bytes[..0x1000];
    let places = headers.windows(name.len()).enumerate();
    places.filter(|(_, window)| *window == name).map(|(at, _)| at).collect()
}

/// Offset of a note's description from its name, in bytes: names here have 5 bytes, padded to 8.
const DESCRIPTION: usize = 8;

/// Offset of pr_pid in NT_PRSTATUS (include/linux/elfcore.h), from the note's name.
const PID: usize = DESCRIPTION + 32;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Returns a dump without QEMU's notes, as another program writes it.
fn without_notes_of_qemu(name: &str) -> Vec<u8> {
    let mut bytes = dump(name);
    for at in names(&bytes, b"QEMU") {
        put(&mut bytes, at, b"SOME");
    }
    bytes
}

#[test]
fn a_dump_with_general_registers_only_gives_a_report_and_warnings() {
    let bytes = without_notes_of_qemu("abba-deadlock");
    let (with, without) = (states(&dump("abba-deadlock")), states(&bytes));
    for (with, without) in with.iter().zip(&without) {
        let general = |state: &nmiscope_machine::VcpuState| {
            let of = state.registers;
            (of.rip, of.rsp, of.rbp, of.rflags, of.gs.base, of.cs.selector, of.cpl)
        };
        assert_eq!(general(without), general(with));
        assert_eq!(without.registers.page_tables(), Err(PagingError::NotRecorded));
    }
    let report = report_of(bytes, Some(&image())).expect("a report");
    let [unchecked, unknown] = &report.warnings[..] else { panic!("{:?}", report.warnings) };
    assert!(unchecked.contains("may be another image"), "{unchecked}");
    assert!(unknown.contains("control registers are not recorded"), "{unknown}");
    for cpu in &report.backtraces[0].cpus {
        assert_eq!(cpu.state, CpuState::NotRecorded);
        assert_eq!(cpu.registers.as_ref().expect("registers").cr3, "not recorded");
        let look = cpu.host_stack.as_ref().expect("a look");
        assert_eq!(look.frames.len(), 1);
        assert!(!look.frames[0].functions.is_empty(), "its place is known");
        assert!(look.end.contains("not recorded"), "{}", look.end);
    }
}

#[test]
fn a_vcpu_with_a_note_of_another_version_keeps_general_registers() {
    let mut bytes = dump("mutex-deadlock");
    let second = names(&bytes, b"QEMU")[1];
    put(&mut bytes, second + DESCRIPTION, &2_u32.to_le_bytes());
    let states = states(&bytes);
    assert!(states[0].registers.page_tables().is_ok());
    assert!(states[1].registers.control_unrecorded);
    let report = report_of(bytes, Some(&image())).expect("a report");
    assert!(report.warnings[0].contains("registers of 1 vCPUs"), "{:?}", report.warnings);
    // The page tables of the other vCPU lead to the kernel.
    assert_eq!(report.backtraces[0].tasks.len(), 2);
}

#[test]
fn vcpus_have_the_numbers_in_their_notes() {
    let mut bytes = dump("mutex-deadlock");
    let whole = states(&bytes);
    let notes = names(&bytes, b"CORE");
    put(&mut bytes, notes[0] + PID, &4_u32.to_le_bytes());
    let read = Dump::from_elf(ElfCore::parse(&bytes).expect("a core")).expect("a dump");
    let found = read.states(&[0, 1, 2, 3], Duration::ZERO);
    assert_eq!(read.vcpus(), 4);
    assert_eq!(found[3].as_ref().expect("registers").registers, whole[0].registers);
    assert_eq!(found[1].as_ref(), Ok(&whole[1]));
    for missing in [0, 2] {
        let reason = found[missing].as_ref().expect_err("no registers").to_string();
        assert_eq!(reason, format!("the dump has no registers of cpu{missing}"));
    }
}

/// Notes as in vmm/src/cpu.rs of cloud-hypervisor: vCPUs are numbered from 0, and CR8 is in the place of CR1.
/// Otherwise they are as QEMU's.
#[test]
fn vcpus_of_cloud_hypervisor_are_numbered_from_0() {
    let mut bytes = dump("abba-deadlock");
    let whole = states(&bytes);
    for (at, cpu) in names(&bytes, b"CORE").into_iter().zip(0_u32..) {
        put(&mut bytes, at + PID, &cpu.to_le_bytes());
    }
    assert_eq!(states(&bytes), whole);
}

#[test]
fn an_impossible_vcpu_number_is_damage() {
    for pid in [2_u32, 5000, u32::MAX] {
        let mut bytes = dump("mutex-deadlock");
        let first = names(&bytes, b"CORE")[0];
        put(&mut bytes, first + PID, &pid.to_le_bytes());
        let read = Dump::from_elf(ElfCore::parse(&bytes).expect("a core")).expect("a dump");
        assert_eq!(read.vcpus(), 2, "{pid}");
        assert!(read.findings()[0].contains("registers of 1 vCPUs"), "{:?}", read.findings());
    }
}

#[test]
fn a_dump_with_more_segments_than_e_phnum_holds_is_read() {
    let mut bytes = dump("null-deref");
    let count = u16::from_le_bytes([bytes[56], bytes[57]]);
    // e_phnum is PN_XNUM, and sh_info of section header 0 the number (gABI, "ELF Header").
    put(&mut bytes, 56, &0xffff_u16.to_le_bytes());
    put(&mut bytes, 64 + 44, &u32::from(count).to_le_bytes());
    let whole = report_of(dump("null-deref"), Some(&image())).expect("a report");
    assert_eq!(report_of(bytes, Some(&image())).expect("a report"), whole);
}

#[test]
fn memory_beyond_a_segments_bytes_in_a_dump_cannot_be_read() {
    let mut bytes = dump("mutex-deadlock");
    // The first PT_LOAD is the second program header, behind two section headers.
    let memory_size = 64 + 2 * 64 + 56 + 40;
    put(&mut bytes, memory_size, &(32_u64 << 20).to_le_bytes());
    let core = ElfCore::parse(&bytes).expect("a core");
    assert!(core.findings().is_empty(), "{:?}", core.findings());
    let mut byte = [0];
    assert!(core.read(PhysicalAddress((16 << 20) - 1), &mut byte).is_ok());
    assert!(core.read(PhysicalAddress(16 << 20), &mut byte).is_err());
    // The firmware lies after a hole.
    assert!(core.read(PhysicalAddress(0xffff_fff0), &mut byte).is_ok());
    assert_eq!(core.extents().len(), 2);
}

/// Offsets of rip and cr0 in QEMU's note, from the note's name.
const RIP: usize = DESCRIPTION + 8 + 16 * 8;
const CR0: usize = DESCRIPTION + 392;

/// SeaBIOS leaves the processors that it has started in a loop of HLT, without paging. After an MWAIT it is
/// unknown whether a guest's only vCPU sleeps.
#[test]
fn a_vcpu_without_paging_and_after_a_hlt_is_halted() {
    let code = [
        (&[0x90, 0x90, 0xf4][..], MpState::BehindHlt),
        (&[0x0f, 0x01, 0xc9], MpState::Unrecorded),
        (&[0x90, 0x90, 0x90], MpState::Running),
    ];
    for (before, expected) in code {
        let mut bytes = dump("mutex-deadlock");
        let first_load = 64 + 2 * 64 + 56;
        let memory = u64::from_le_bytes(bytes[first_load + 8..][..8].try_into().expect("8 bytes"));
        put(&mut bytes, memory as usize + 0x9000, before);
        let second = names(&bytes, b"QEMU")[1];
        put(&mut bytes, second + RIP, &0x9003_u64.to_le_bytes());
        put(&mut bytes, second + CR0, &0x11_u64.to_le_bytes());
        assert_eq!(states(&bytes)[1].mp_state, expected, "{before:x?}");
    }
}

#[test]
fn the_core_of_a_process_is_refused() {
    let mut bytes = dump("mutex-deadlock");
    for at in names(&bytes, b"QEMU") {
        put(&mut bytes, at, b"CORE");
        // NT_PRPSINFO, elf.h.
        put(&mut bytes, at - 4, &3_u32.to_le_bytes());
    }
    let error = format!("{:#}", report_of(bytes, None).expect_err("a process"));
    assert!(error.contains("the core of a process"), "{error}");
}
