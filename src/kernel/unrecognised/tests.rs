//! States of guests whose registers are worked out by hand from the SDM, volume 3: table 10-1 (after a reset), 2.5
//! (control registers), 5.5 (page tables of 4 levels).

use std::collections::BTreeMap;

use nmiscope_machine::{MpState, ReadError, Segment};

use super::*;

/// CR0 with PE alone, and with PG as well; CR4.PAE; EFER with LME and LMA.
const PE: u64 = 1;
const PAGING: u64 = 0x8000_0001;
const PAE: u64 = 1 << 5;
const LONG: u64 = 0x500;

/// Physical memory of 4 KiB pages that exist once they are written.
#[derive(Default)]
struct Pages(BTreeMap<u64, [u8; 4096]>);

impl Pages {
    fn write(&mut self, address: u64, bytes: &[u8]) {
        for (at, &byte) in (address..).zip(bytes) {
            let page = self.0.entry(at >> 12).or_insert([0; 4096]);
            page[at as usize & 0xfff] = byte;
        }
    }

    fn entry(&mut self, table: u64, index: u64, entry: u64) {
        self.write(table + 8 * index, &entry.to_le_bytes());
    }

    /// Fills a range with pages of zeros.
    fn extend(&mut self, range: Range<u64>) {
        for page in range.start >> 12..range.end >> 12 {
            self.0.entry(page).or_insert([0; 4096]);
        }
    }
}

impl PhysicalMemory for Pages {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let (mut at, mut rest) = (address.0, buffer);
        while !rest.is_empty() {
            let start = at as usize & 0xfff;
            let (now, later) = rest.split_at_mut(rest.len().min(4096 - start));
            let page = self.0.get(&(at >> 12)).ok_or(ReadError::Unbacked { address, length })?;
            now.copy_from_slice(&page[start..start + now.len()]);
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

fn cpu(cpu: u32, registers: Registers) -> VcpuState {
    VcpuState {
        cpu,
        registers,
        nmi: None,
        mp_state: MpState::Running,
        smm: false,
        timer_armed: None,
    }
}

fn at(base: u64, rip: u64) -> Registers {
    Registers { rip, cs: Segment { selector: 8, base }, ..Registers::default() }
}

fn long_mode(rip: u64) -> Registers {
    Registers { cr0: PAGING, cr4: PAE, efer: LONG, cr3: 0x1000, ..at(0, rip) }
}

/// Maps the 2 MiB at a virtual address to the physical ones from `to` on, by tables at 0x1000 (PML4), and at two
/// pages from `tables` on.
fn map_large(memory: &mut Pages, address: u64, to: u64, tables: u64) {
    let index = |level: u64| address >> (12 + 9 * level) & 0x1ff;
    memory.entry(0x1000, index(3), tables | 3);
    memory.entry(tables, index(2), (tables + 0x1000) | 3);
    memory.entry(tables + 0x1000, index(1), to | 0x83);
}

#[test]
fn registers_alone_determine_the_modes() {
    let kernel = 0xffff_ffff_8100_0000;
    let rows = [
        (long_mode(kernel), "a 64-bit kernel that is not recognised; cpu0 in 64-bit kernel code"),
        (
            Registers { cpl: 3, ..long_mode(0x40_1000) },
            "programs alone, and no kernel is found by their page tables; cpu0 in user mode",
        ),
        (
            long_mode(0x7f00_0000),
            "firmware, a boot loader or a boot stub: no kernel is mapped; cpu0 in 64-bit code at a low \
             address",
        ),
        (
            Registers { cr0: PAGING, cr4: PAE, ..at(0, 0xc100_0000) },
            "a 32-bit kernel, which is not supported; cpu0 in a 32-bit kernel or its programs",
        ),
        (
            Registers { cr0: PE, ..at(0, 0x10_0000) },
            "firmware, a boot loader or a boot stub: paging is off; cpu0 in protected mode without paging",
        ),
        (
            at(0x7000, 0xc00),
            "firmware, a boot loader or a boot stub: paging is off; cpu0 in real mode",
        ),
        (at(0xf_0000, 0xfff0), "the firmware is running; cpu0 in the firmware's ROM"),
        (
            Registers { cr0: PE, ..at(0, 0xffff_fe00) },
            "the firmware is running; cpu0 in the firmware's ROM",
        ),
        // The reset vector: base ffff0000h, EIP fff0h.
        (
            at(0xffff_0000, 0xfff0),
            "no vCPU has executed an instruction since its reset; cpu0 reset",
        ),
        (
            Registers { control_unrecorded: true, ..at(0, kernel) },
            "a kernel that is not recognised: control registers are missing; cpu0 in a mode that is not \
             recorded",
        ),
    ];
    for (registers, wanted) in rows {
        assert_eq!(describe(&[cpu(0, registers)], None), wanted);
    }
    assert_eq!(describe(&[], None), "the guest has no vCPU with registers");
}

#[test]
fn vcpus_are_named_by_their_modes() {
    let rom = at(0xf_0000, 0x1000);
    let waiting = |number| VcpuState { mp_state: MpState::Uninitialized, ..cpu(number, rom) };
    let states = [cpu(0, rom), waiting(1), waiting(2), waiting(3)];
    let wanted = "the firmware is running; cpu0 in the firmware's ROM; cpu1-cpu3 not started";
    assert_eq!(describe(&states, None), wanted);
    let smm = VcpuState { smm: true, ..cpu(0, long_mode(0x7f00_0000)) };
    let wanted = "the firmware's system-management code is running; cpu0 in system-management mode";
    assert_eq!(describe(&[smm], None), wanted);
}

fn finding(registers: Registers, memory: &Pages) -> String {
    let text = describe(&[cpu(0, registers)], Some(memory));
    text.split("; cpu0 ").next().expect("a first part").to_owned()
}

#[test]
fn firmware_has_the_name_in_its_rom() {
    let mut memory = Pages::default();
    memory.extend(0xe_0000..0x10_0000);
    let rom = at(0xf_0000, 0x1000);
    assert_eq!(finding(rom, &memory), "the firmware is running");
    // The name lies across two of the parts that are read at a time.
    memory.write(0xe_fff8, b"SeaBIOS (version %s)\0");
    assert_eq!(finding(rom, &memory), "SeaBIOS is running");
    assert_eq!(
        finding(at(0, 0x7c00), &memory),
        "probably SeaBIOS or a boot loader that it started: paging is off"
    );
    let guid = *b"\xde\x82\xb5\x96\xb2\x1f\xf7\x45\xba\xea\xa3\x66\xc5\x5a\x08\x2d";
    memory.write(0xffff_ffd0, &guid);
    assert_eq!(finding(rom, &memory), "UEFI firmware (OVMF) is running");
    map_large(&mut memory, 0x7f00_0000, 0x7f00_0000, 0x2000);
    let wanted = "probably UEFI firmware (OVMF) or a boot loader that it started: 1:1 page tables";
    assert_eq!(finding(long_mode(0x7f00_1000), &memory), wanted);
    // Another address than its own is no firmware's.
    map_large(&mut memory, 0x7f00_0000, 0x4000_0000, 0x2000);
    let wanted = "firmware, a boot loader or a boot stub: no kernel is mapped";
    assert_eq!(finding(long_mode(0x7f00_1000), &memory), wanted);
}

#[test]
fn boot_stub_of_linux_has_its_texts_near_its_code() {
    let mut memory = Pages::default();
    memory.extend(0x100_0000..0x300_0000);
    map_large(&mut memory, 0x180_0000, 0x180_0000, 0x2000);
    let code = long_mode(0x180_1000);
    let none = "firmware, a boot loader or a boot stub: no kernel is mapped";
    assert_eq!(finding(code, &memory), none);
    memory.write(0x2a0_0000, b"\n\n -- System halted");
    assert_eq!(finding(code, &memory), none, "too far away");
    memory.write(0x188_0000, b"\n\n -- System halted");
    let wanted =
        "probably Linux's boot stub, by a text near its code: the kernel is not unpacked yet";
    assert_eq!(finding(code, &memory), wanted);
    assert_eq!(finding(Registers { cr0: PE, ..at(0, 0x180_1000) }, &memory), wanted);
    // As QEMU's loader leaves Linux 6.1: code at its lower end, and a table of interrupts near the texts.
    memory.extend(0x10_0000..0x20_0000);
    map_large(&mut memory, 0, 0, 0x2000);
    let entry = Registers { idt_base: 0x188_2000, idt_limit: 0x1ff, ..long_mode(0x10_02aa) };
    assert_eq!(finding(entry, &memory), wanted);
}

#[test]
fn linux_of_32_bits_is_told_by_its_banner() {
    let mut memory = Pages::default();
    memory.extend(0x10_0000..0x200_0000);
    let kernel = Registers { cr0: PAGING, ..at(0, 0xc100_0000) };
    assert_eq!(finding(kernel, &memory), "a 32-bit kernel, which is not supported");
    memory.write(0x140_0000, b"Linux version %s\0");
    assert_eq!(finding(kernel, &memory), "a 32-bit kernel, which is not supported");
    memory.write(0x180_0000, b"Linux version 6.1.0-9-686-pae (debian)");
    let wanted =
        "probably Linux 6.1.0-9-686-pae of 32 bits, by a text in memory; it is not supported";
    assert_eq!(finding(kernel, &memory), wanted);
}

#[test]
fn system_is_told_by_its_mapped_image() {
    let mut memory = Pages::default();
    map_large(&mut memory, 0xffff_ffff_8100_0000, 0x20_0000, 0x2000);
    memory.extend(0x20_0000..0x40_0000);
    let kernel = long_mode(0xffff_ffff_8100_0000);
    assert_eq!(
        finding(kernel, &memory),
        "a kernel that is not recognised: its image at ffffffff81000000 names no known system"
    );
    memory.write(0x30_0000, b"Linux version 6.6.1 (gcc)");
    assert_eq!(
        finding(kernel, &memory),
        "Linux 6.6.1, by a text in its image at ffffffff81000000; its symbols were not found: it may still \
         boot, or lack CONFIG_KALLSYMS"
    );
    memory.write(0x30_0000, b"@(#)FreeBSD 14.1-RELEASE #0");
    assert_eq!(finding(kernel, &memory), "FreeBSD 14.1-RELEASE, by a text in its image");
}

#[test]
fn windows_is_told_by_its_shared_page() {
    let mut memory = Pages::default();
    map_large(&mut memory, 0xffff_f780_0000_0000, 0x20_0000, 0x2000);
    memory.extend(0x20_0000..0x40_0000);
    let program = Registers { cpl: 3, ..long_mode(0x7ff6_0000_1000) };
    assert!(finding(program, &memory).starts_with("programs alone"));
    memory.write(0x20_0030, b"C\0:\0\\\0W\0i\0n\0");
    memory.write(0x20_026c, &[10, 0, 0, 0, 0, 0, 0, 0]);
    let wanted = "Windows, of version 10.0 by its shared user data";
    assert_eq!(finding(program, &memory), wanted);
}

#[test]
fn encrypted_page_tables_are_noise() {
    // A multiplicative generator of full period: bytes that are spread as in encrypted data.
    let mut state = 1_u64;
    let noise = std::array::from_fn::<u8, 4096, _>(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    let mut memory = Pages::default();
    memory.write(0x1000, &noise);
    let kernel = long_mode(0xffff_ffff_8100_0000);
    let wanted = "the guest's memory is probably encrypted: its page table is noise";
    assert_eq!(finding(kernel, &memory), wanted);
    let marked = Registers { cr3: 1 << 51 | 0x1000, ..kernel };
    assert_eq!(finding(marked, &memory), format!("{wanted}, and CR3 has bit 51"));
    let mut tables = Pages::default();
    (0..512).for_each(|index| tables.entry(0x1000, index, 0x8000_0000_0000_0063 | index << 12));
    assert_eq!(finding(kernel, &tables), "a 64-bit kernel that is not recognised");
}
