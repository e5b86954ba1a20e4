//! The state of a guest in which no kernel was recognised: firmware, a boot stub, another operating system and so
//! on, as a sentence for its report.
//!
//! Owns the classification, by the registers of the vCPUs and bounded reads of memory. A sentence without
//! "probably" rests on facts that have no other explanation. Refuses to own execution states that registers alone
//! determine (`machine`), and Linux that is recognised (`linux`). Called where a guest has neither a kernel
//! that describes itself nor an image.

use std::ops::Range;

use nmiscope_machine::{
    PageTables, PhysicalAddress, PhysicalMemory, Registers, VcpuState, VirtualAddress,
};

use super::linux;

/// The mode of a vCPU, in the order in which modes are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    /// 64-bit code of a kernel, at an address of the upper half.
    Kernel,
    /// 64-bit code at privilege level 0 to 2, at an address of the lower half.
    Low,
    /// Code at privilege level 3, of 64 bits or in the compatibility mode of a 64-bit kernel.
    Program,
    /// Code of a 32-bit kernel or its programs: paging without long mode.
    Kernel32,
    /// Protected mode without paging, outside of the firmware's ROM.
    Protected,
    /// Real mode outside of the firmware's ROM.
    Real,
    /// The firmware's ROM, without paging.
    Rom,
    /// System-management mode, in which firmware code executes.
    Management,
    /// A mode that the control registers would tell, which the source does not record.
    Unrecorded,
    /// The state after a reset, before the first instruction.
    Reset,
    /// A vCPU that waits for INIT or a start-up IPI.
    NotStarted,
}

/// Linear addresses of the firmware's ROM on a PC: the last 128 KiB of the first megabyte, and the last 16
/// MiB below 4 GiB.
const ROM: [Range<u64>; 2] = [0xe_0000..0x10_0000, 0xff00_0000..0x1_0000_0000];

impl Mode {
    fn new(state: &VcpuState) -> Self {
        let registers = &state.registers;
        if !state.mp_state.is_started() {
            Self::NotStarted
        } else if registers.are_reset() {
            Self::Reset
        } else if state.smm {
            Self::Management
        } else if registers.control_unrecorded {
            Self::Unrecorded
        } else if registers.is_long_mode() {
            match (registers.cpl, registers.rip >> 47) {
                (3, _) => Self::Program,
                (_, 0) => Self::Low,
                _ => Self::Kernel,
            }
        } else if registers.is_paging() {
            Self::Kernel32
        } else if ROM.iter().any(|rom| rom.contains(&linear(registers))) {
            Self::Rom
        } else if registers.is_protected() {
            Self::Protected
        } else {
            Self::Real
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Kernel => "in 64-bit kernel code",
            Self::Low => "in 64-bit code at a low address",
            Self::Program => "in user mode",
            Self::Kernel32 => "in a 32-bit kernel or its programs",
            Self::Protected => "in protected mode without paging",
            Self::Real => "in real mode",
            Self::Rom => "in the firmware's ROM",
            Self::Management => "in system-management mode",
            Self::Unrecorded => "in a mode that is not recorded",
            Self::Reset => "reset",
            Self::NotStarted => "not started",
        }
    }
}

/// The linear address of the next instruction, of a vCPU without paging.
fn linear(registers: &Registers) -> u64 {
    registers.cs.base.wrapping_add(registers.rip)
}

/// Returns the state of a guest without a recognised kernel: a finding, and the modes of its vCPUs. Without
/// `memory` the registers alone decide.
pub(super) fn describe(vcpus: &[VcpuState], memory: Option<&dyn PhysicalMemory>) -> String {
    let modes: Vec<(Mode, &VcpuState)> = vcpus.iter().map(|cpu| (Mode::new(cpu), cpu)).collect();
    let finding = memory.and_then(|memory| by_memory(&modes, memory));
    let finding = finding.unwrap_or_else(|| by_modes(&modes).into());
    let mut names: Vec<(Mode, Vec<u32>)> = Vec::new();
    for (mode, cpu) in &modes {
        match names.iter_mut().find(|(other, _)| other == mode) {
            Some((_, cpus)) => cpus.push(cpu.cpu),
            None => names.push((*mode, vec![cpu.cpu])),
        }
    }
    names.sort();
    let named = names.iter().map(|(mode, cpus)| {
        format!("{} {}", nmiscope_report::units::ranges(cpus).join(", "), mode.words())
    });
    [finding].into_iter().chain(named).collect::<Vec<_>>().join("; ")
}

/// Returns what the modes of the vCPUs say.
fn by_modes(modes: &[(Mode, &VcpuState)]) -> &'static str {
    let first = modes.iter().map(|(mode, _)| *mode).min();
    match first {
        None => "the guest has no vCPU with registers",
        Some(Mode::Kernel) => "a 64-bit kernel that is not recognised",
        Some(Mode::Low) => "firmware, a boot loader or a boot stub: no kernel is mapped",
        Some(Mode::Program) => "programs alone, and no kernel is found by their page tables",
        Some(Mode::Kernel32) => "a 32-bit kernel, which is not supported",
        Some(Mode::Protected | Mode::Real) => {
            "firmware, a boot loader or a boot stub: paging is off"
        }
        Some(Mode::Rom) => "the firmware is running",
        Some(Mode::Management) => "the firmware's system-management code is running",
        Some(Mode::Unrecorded) => "a kernel that is not recognised: control registers are missing",
        Some(Mode::Reset | Mode::NotStarted) => {
            "no vCPU has executed an instruction since its reset"
        }
    }
}

/// Returns what memory adds; `None` where it has nothing that is known.
fn by_memory(modes: &[(Mode, &VcpuState)], memory: &dyn PhysicalMemory) -> Option<String> {
    let mut modes = modes.to_vec();
    modes.sort_by_key(|(mode, _)| *mode);
    let (first, state) = modes.first()?;
    let registers = &state.registers;
    let is_long = |mode: &Mode| matches!(mode, Mode::Kernel | Mode::Low | Mode::Program);
    for (_, state) in modes.iter().filter(|(mode, _)| is_long(mode)).take(MAX_TRIES) {
        let tables = state.registers.page_tables().ok()?;
        let found = encrypted(&tables, memory)
            .or_else(|| windows(&tables, memory))
            .or_else(|| of_image(&state.registers, memory));
        if found.is_some() {
            return found;
        }
    }
    match first {
        Mode::Low => {
            let tables = registers.page_tables().ok()?;
            let at = tables.translate(memory, VirtualAddress(registers.rip)).ok()?.physical;
            let is_identical = at.0 == registers.rip;
            // The stub first executes at its lower end, far from its texts. Its table of interrupts is near them.
            let idt = PhysicalAddress(registers.idt_base);
            [at, idt].into_iter().find_map(|at| boot_stub(at, memory)).or_else(|| {
                let firmware = firmware(memory).filter(|_| is_identical)?;
                Some(format!(
                    "probably {firmware} or a boot loader that it started: 1:1 page tables"
                ))
            })
        }
        Mode::Kernel32 => linux_of_32_bits(memory),
        Mode::Protected | Mode::Real => boot_stub(PhysicalAddress(linear(registers)), memory)
            .or_else(|| {
                let firmware = firmware(memory)?;
                Some(format!("probably {firmware} or a boot loader that it started: paging is off"))
            }),
        Mode::Rom | Mode::Management => Some(format!("{} is running", firmware(memory)?)),
        Mode::Kernel | Mode::Program => None,
        Mode::Unrecorded | Mode::Reset | Mode::NotStarted => None,
    }
}

/// The number of vCPUs whose page tables are looked into.
const MAX_TRIES: usize = 8;

/// Bits of CR3 that mark encrypted memory, by processor (AMD APM volume 2, 15.34.1: CPUID Fn8000_001F[EBX], which
/// is 47 or 51 so far).
const ENCRYPTION_BITS: [u8; 2] = [47, 51];

/// Returns a sentence about encrypted memory, in which page tables look like noise.
fn encrypted(tables: &PageTables, memory: &dyn PhysicalMemory) -> Option<String> {
    let root = tables.root();
    let mut page = [0; 4096];
    let bit = if memory.read(root, &mut page).is_ok() {
        None
    } else {
        let cleared = |bit: &u8| PhysicalAddress(root.0 & !(1 << *bit));
        let bit = ENCRYPTION_BITS
            .into_iter()
            .find(|bit| root.0 & 1 << *bit != 0 && memory.read(cleared(bit), &mut page).is_ok())?;
        Some(bit)
    };
    is_noise(&page).then(|| {
        let mark = bit.map_or_else(String::new, |bit| format!(", and CR3 has bit {bit}"));
        format!("the guest's memory is probably encrypted: its page table is noise{mark}")
    })
}

/// Returns true for a page whose bytes are spread as in encrypted data: each value occurs, 16 times on average,
/// and none 64 times. Tables of a kernel have zeros, and equal upper bytes.
fn is_noise(page: &[u8; 4096]) -> bool {
    let mut counts = [0; 256];
    page.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
    counts.iter().all(|count| (1..64).contains(count))
}

/// Address of KUSER_SHARED_DATA, the same in all 64-bit versions of Windows (ntddk.h,
/// KI_USER_SHARED_DATA), mapped for programs too.
const SHARED_USER_DATA: u64 = 0xffff_f780_0000_0000;

/// Returns the version of Windows, by the page that it maps for all programs.
fn windows(tables: &PageTables, memory: &dyn PhysicalMemory) -> Option<String> {
    /// Offsets of NtSystemRoot, NtMajorVersion and NtMinorVersion in KUSER_SHARED_DATA (ntddk.h).
    const SYSTEM_ROOT: usize = 0x30;
    const VERSION: usize = 0x26c;
    let at = tables.translate(memory, VirtualAddress(SHARED_USER_DATA)).ok()?.physical;
    let mut page = [0; 4096];
    memory.read(at, &mut page).ok()?;
    // A drive's letter, a colon and a backslash, in UTF-16.
    let root = &page[SYSTEM_ROOT..SYSTEM_ROOT + 6];
    let is_root = root[0].is_ascii_alphabetic() && root[1..] == [0, b':', 0, b'\\', 0];
    let number =
        |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let (major, minor) = (number(VERSION), number(VERSION + 4));
    is_root.then(|| format!("Windows, of version {major}.{minor} by its shared user data"))
}

/// Returns the system whose image is mapped where Linux and FreeBSD have theirs.
fn of_image(registers: &Registers, memory: &dyn PhysicalMemory) -> Option<String> {
    let (base, bytes) = linux::image_of(memory, registers)?;
    if let Some(version) = word_after(&bytes, b"@(#)FreeBSD ") {
        return Some(format!("FreeBSD {version}, by a text in its image"));
    }
    Some(match word_after(&bytes, LINUX_BANNER) {
        Some(version) => format!(
            "Linux {version}, by a text in its image at {base}; its symbols were not found: it may still boot, \
             or lack CONFIG_KALLSYMS"
        ),
        None => {
            format!("a kernel that is not recognised: its image at {base} names no known system")
        }
    })
}

/// Start of `linux_banner` (init/version-timestamp.c), before the release.
const LINUX_BANNER: &[u8] = b"Linux version ";

/// Physical addresses that are searched for the banner of a 32-bit Linux: it is loaded at 16 MiB
/// (CONFIG_PHYSICAL_START) or somewhat higher.
const LOW_MEMORY: Range<u64> = 1 << 20..128 << 20;

fn linux_of_32_bits(memory: &dyn PhysicalMemory) -> Option<String> {
    let version = search(memory, LOW_MEMORY, |part| word_after(part, LINUX_BANNER))?;
    Some(format!("probably Linux {version} of 32 bits, by a text in memory; it is not supported"))
}

/// Bytes on either side of an address that are searched for texts of a boot stub. Code, texts and interrupt table
/// of Linux's are within some hundred KiB of each other, once it has moved itself to where it unpacks the kernel.
const NEAR: u64 = 1 << 20;

/// Returns a sentence about the boot stub of Linux that executes near `at`, which decompresses the kernel.
fn boot_stub(at: PhysicalAddress, memory: &dyn PhysicalMemory) -> Option<String> {
    // The end of all messages of its `error` (arch/x86/boot/compressed/error.c), and its first message
    // (misc.c), which depends on CONFIG_X86_VERBOSE_BOOTUP.
    const TEXTS: [&[u8]; 2] = [b" -- System halted", b"Decompressing Linux"];
    let range = at.0.saturating_sub(NEAR)..at.0.saturating_add(NEAR);
    search(memory, range, |part| TEXTS.iter().find_map(|text| memchr::memmem::find(part, text)))?;
    Some(
        "probably Linux's boot stub, by a text near its code: the kernel is not unpacked yet"
            .into(),
    )
}

/// Returns the name of the firmware in the ROM below 1 MiB or 4 GiB.
fn firmware(memory: &dyn PhysicalMemory) -> Option<String> {
    /// GUID 96b582de-1fb2-45f7-baea-a366c55a082d, the end of OVMF's table of GUIDs, which has the 16
    /// bytes up to 32 bytes before 4 GiB (edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm).
    const OVMF: [u8; 16] = [
        0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08,
        0x2d,
    ];
    const OVMF_AT: PhysicalAddress = PhysicalAddress((1 << 32) - 0x30);
    let mut guid = [0; 16];
    if memory.read(OVMF_AT, &mut guid).is_ok() && guid == OVMF {
        return Some("UEFI firmware (OVMF)".into());
    }
    let [low, _] = ROM;
    // The format of its banner, which stays in memory (SeaBIOS, debug_banner).
    search(memory, low, |part| memchr::memmem::find(part, b"SeaBIOS (version "))?;
    Some("SeaBIOS".into())
}

/// Returns the first result that `find` has for a part of a range of memory. Parts that cannot be read are
/// left out.
fn search<T>(
    memory: &dyn PhysicalMemory,
    range: Range<u64>,
    find: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    const PART: u64 = 64 << 10;
    // A text may lie across two parts.
    const OVERLAP: u64 = 128;
    let mut bytes = vec![0; (PART + OVERLAP) as usize];
    let mut at = range.start;
    while at < range.end {
        let length = (PART + OVERLAP).min(range.end - at) as usize;
        let part = bytes.get_mut(..length)?;
        if memory.read(PhysicalAddress(at), part).is_ok()
            && let Some(found) = find(part)
        {
            return Some(found);
        }
        at = at.saturating_add(PART);
    }
    None
}

/// Returns the word behind a text, of letters, digits and marks that versions have; `None` where the text is
/// not followed by one.
fn word_after(bytes: &[u8], text: &[u8]) -> Option<String> {
    const LONGEST: usize = 64;
    let is_of_word = |byte: &&u8| byte.is_ascii_alphanumeric() || b".-_+~".contains(byte);
    let word = |at: usize| -> String {
        let rest = bytes[at + text.len()..].iter().take(LONGEST).take_while(is_of_word);
        rest.map(|&byte| char::from(byte)).collect()
    };
    memchr::memmem::find_iter(bytes, text).map(word).find(|word| !word.is_empty())
}

#[cfg(test)]
mod tests;
