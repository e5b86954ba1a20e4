//! Reader of a guest's ELF core in the format of QEMU, which other programs write too.
//!
//! Owns the notes: one NT_PRSTATUS for each vCPU, then, in the same order, one named "QEMU" for each
//! (QEMU, target/i386/arch_dump.c, `QEMUCPUState`). Refuses to own the container (`elf_core`). A core
//! without "QEMU" notes is read too, from NT_PRSTATUS alone: general registers, without page tables.
//!
//! The notes lack EFER, a flag for halted vCPUs, and the NMI state. EFER.LMA is derived
//! ([`QemuCpu::is_long_mode`]), a halt is inferred from the code and marked as such ([`mp_state`]), and the
//! NMI state stays unknown.

use nmiscope_machine::{
    Execution, GuestVirtual, MpState, PagingError, PhysicalAddress, PhysicalMemory, Registers,
    Segment, VcpuState, VirtualAddress, VirtualMemory,
};

use super::{Dump, DumpError, StoredMemory};
use crate::elf_core::{
    CORE, CoreError, Damage, ElfCore, ElfNote, Extents, FileKind, NT_PRSTATUS, QEMU,
    decode_prstatus,
};
use crate::targets::{NoAnswer, States};

impl StoredMemory for ElfCore<'_> {
    fn extents(&self) -> Extents {
        ElfCore::extents(self)
    }
}

/// Maximum number of vCPUs; a higher number counts as damage. QEMU's PC has at most 4,096.
const MAX_CPUS: usize = 4096;

/// Reads the vCPU states from the notes and makes a target of the core.
pub(super) fn read(core: ElfCore<'_>) -> Result<Dump<'_>, DumpError> {
    match (core.kind(), core.notes_fault()) {
        // Memory follows the notes, so a cut within them leaves none of it.
        (_, Some(cut @ CoreError::Truncated { .. })) => return Err(cut.clone().into()),
        (kind @ FileKind::Process, _) => return Err(DumpError::Process(kind)),
        _ => {}
    }
    let mut findings: Vec<String> = core.findings().iter().map(ToString::to_string).collect();
    let (states, damaged) = vcpu_states(&core);
    if damaged > 0 {
        findings.push(Damage::DamagedRegisters { count: damaged }.to_string());
    }
    if states.is_empty() && core.extents().is_empty() {
        return Err(DumpError::Empty);
    }
    Ok(Dump { memory: Box::new(core), states, findings })
}

/// Returns the states of all vCPUs by number, and the number of vCPUs with damaged notes.
fn vcpu_states(core: &ElfCore<'_>) -> (States, usize) {
    let described = |name: &'static [u8], kind: u32| {
        let notes = core.notes().iter().filter(move |note: &&ElfNote<'_>| note.is(name, kind));
        notes.map(|note| note.description)
    };
    let general: Vec<_> = described(CORE, NT_PRSTATUS).map(decode_prstatus).collect();
    let all: Vec<_> = described(QEMU, QEMU_TYPE).map(QemuCpu::decode).collect();
    // QEMU counts from 1, cloud-hypervisor from 0 (vmm/src/cpu.rs, `cpu_write_elf64_note`).
    let first = u32::from(general.iter().flatten().all(|&(pid, _)| pid != 0));
    let mut numbered: Vec<Option<Registers>> = Vec::new();
    let mut damaged = 0;
    for index in 0..general.len().max(all.len()) {
        let general = general.get(index).copied().flatten();
        let of_note = all.get(index).copied().flatten();
        damaged += usize::from(of_note.is_none() && !all.is_empty());
        let registers = match (of_note, general) {
            (Some(cpu), _) => cpu.registers(),
            (None, Some((_, general))) => Registers::from(&general),
            (None, None) => continue,
        };
        // In a core without "QEMU" notes, the field is a process ID.
        let number = match general {
            Some((pid, _)) if !all.is_empty() => (pid - first) as usize,
            _ => index,
        };
        if number >= MAX_CPUS || numbered.get(number).is_some_and(Option::is_some) {
            damaged += 1;
            continue;
        }
        if numbered.len() <= number {
            numbered.resize(number + 1, None);
        }
        numbered[number] = Some(registers);
    }
    if all.is_empty() {
        damaged += general.iter().filter(|note| note.is_none()).count();
    }
    let state = |(cpu, registers)| vcpu_state(core, cpu, registers);
    ((0..).zip(numbered).map(state).collect(), damaged)
}

fn vcpu_state(
    core: &ElfCore<'_>,
    cpu: u32,
    registers: Option<Registers>,
) -> Result<VcpuState, NoAnswer> {
    let registers = registers.ok_or(NoAnswer::NotRecorded(cpu))?;
    let mp_state = mp_state(core, &registers);
    Ok(VcpuState { cpu, registers, nmi: None, mp_state, smm: false, timer_armed: None })
}

/// Infers the multiprocessing state from the code before RIP. RIP of a halted vCPU is just after its
/// one-byte HLT (SDM volume 2, "HLT"): KVM and QEMU both advance RIP before the vCPU sleeps. QEMU also lets
/// a guest's only vCPU sleep after MWAIT. Anywhere else the vCPU runs; user code can execute neither.
fn mp_state(memory: &dyn PhysicalMemory, registers: &Registers) -> MpState {
    const HLT: u8 = 0xf4;
    const MWAIT: [u8; 3] = [0x0f, 0x01, 0xc9];
    match Execution::new(MpState::Unrecorded, registers, false) {
        Execution::User => return MpState::Running,
        execution if !execution.has_position() => return MpState::Unrecorded,
        _ => {}
    }
    // Reads one byte first: three bytes may begin in the previous page, which need not be mapped.
    match code_before::<1>(memory, registers) {
        None => return MpState::Unrecorded,
        Some([HLT]) => return MpState::BehindHlt,
        Some(_) => {}
    }
    match code_before(memory, registers) == Some(MWAIT) {
        true => MpState::Unrecorded,
        false => MpState::Running,
    }
}

/// Reads the bytes before RIP; `None` if they are not in memory, or the registers lack page tables.
fn code_before<const N: usize>(
    memory: &dyn PhysicalMemory,
    registers: &Registers,
) -> Option<[u8; N]> {
    let mut code = [0; N];
    let before = registers.rip.wrapping_sub(N as u64);
    match registers.page_tables() {
        Ok(tables) => {
            GuestVirtual::new(memory, tables).read(VirtualAddress(before), &mut code).ok()?;
        }
        Err(PagingError::Off { .. }) => {
            let linear = registers.cs.base.wrapping_add(before);
            memory.read(PhysicalAddress(linear), &mut code).ok()?;
        }
        Err(_) => return None,
    }
    Some(code)
}

/// Type of the "QEMU" note (NT).
const QEMU_TYPE: u32 = 0;

/// Supported version of `QEMUCPUState`; no other version exists.
const VERSION: u32 = 1;

/// Size of `QEMUCPUState` without its last member, which QEMU 2.12 added.
const BYTES_WITHOUT_KERNEL_GS_BASE: usize = 432;

/// Offsets in `QEMUCPUState` of the segments, control registers and last member.
const SEGMENTS: usize = 152;
const CONTROL: usize = 392;
const KERNEL_GS_BASE: usize = 432;

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
/// IA32_EFER in long mode: LME, LMA and NXE (SDM volume 3, 2.2.1).
const LONG_MODE_EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11;

/// A segment register of `QEMUCPUState`.
#[derive(Debug, Clone, Copy)]
struct QemuSegment {
    selector: u32,
    limit: u32,
    /// The descriptor's second word (SDM volume 3, figure 3-8), without the bits of base and limit.
    flags: u32,
    base: u64,
}

impl QemuSegment {
    /// True for 64-bit code: the L bit of the descriptor.
    fn is_64_bit(self) -> bool {
        self.flags & 1 << 21 != 0
    }

    /// Privilege level (DPL) of the descriptor.
    fn privilege(self) -> u8 {
        (self.flags >> 13 & 3) as u8
    }
}

impl From<QemuSegment> for Segment {
    fn from(segment: QemuSegment) -> Self {
        Self { selector: segment.selector as u16, base: segment.base }
    }
}

/// State of one vCPU, decoded from its "QEMU" note.
#[derive(Debug, Clone, Copy)]
struct QemuCpu {
    /// rax rbx rcx rdx rsi rdi rsp rbp r8 to r15 rip rflags.
    general: [u64; 18],
    /// cs ds es fs gs ss ldt tr gdt idt.
    segments: [QemuSegment; 10],
    /// cr0, an unused slot, cr2 to cr4.
    control: [u64; 5],
    kernel_gs_base: Option<u64>,
}

impl QemuCpu {
    /// Decodes the description of a note; `None` if its version is unknown, or it is too short.
    fn decode(description: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(*description.get(at..)?.first_chunk()?));
        let half = |at: usize| Some(u32::from_le_bytes(*description.get(at..)?.first_chunk()?));
        let length = half(4)? as usize;
        if half(0)? != VERSION || length < BYTES_WITHOUT_KERNEL_GS_BASE {
            return None;
        }
        let segment = |index: usize| {
            let at = SEGMENTS + 24 * index;
            Some(QemuSegment {
                selector: half(at)?,
                limit: half(at + 4)?,
                flags: half(at + 8)?,
                base: word(at + 16)?,
            })
        };
        Some(Self {
            general: try_array(|index| word(8 + 8 * index))?,
            segments: try_array(segment)?,
            control: try_array(|index| word(CONTROL + 8 * index))?,
            kernel_gs_base: word(KERNEL_GS_BASE).filter(|_| length > KERNEL_GS_BASE),
        })
    }

    /// True in long mode, derived since the note lacks EFER.LMA. Long mode needs paging with PAE, which a
    /// 32-bit kernel may use too. 64-bit code exists only in long mode: the L bit is reserved elsewhere (SDM
    /// volume 3, 3.4.5). A 32-bit program under a 64-bit kernel is recognised by the bases of the descriptor
    /// tables: they have 32 bits outside long mode (SDM volume 3, 2.4), and a 64-bit kernel has them in its
    /// upper half.
    fn is_long_mode(&self) -> bool {
        let [cs, .., gdt, idt] = self.segments;
        let high = |segment: QemuSegment| segment.base >> 32 != 0;
        let [cr0, .., cr4] = self.control;
        let paging = cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0;
        paging && (cs.is_64_bit() || high(gdt) || high(idt))
    }

    /// Returns the registers, with EFER derived. In long mode NXE is set too: a kernel that leaves it clear
    /// sets no NX bit in its page tables.
    fn registers(&self) -> Registers {
        let [
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
        ] = self.general;
        let [cs, ds, es, fs, gs, ss, _ldt, _tr, _gdt, idt] = self.segments;
        // The second slot is 0 in QEMU, and CR8 in cloud-hypervisor.
        let [cr0, _, cr2, cr3, cr4] = self.control;
        Registers {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
            cr0,
            cr2,
            cr3,
            cr4,
            efer: if self.is_long_mode() { LONG_MODE_EFER } else { 0 },
            cs: cs.into(),
            ss: ss.into(),
            ds: ds.into(),
            es: es.into(),
            fs: fs.into(),
            gs: gs.into(),
            cpl: ss.privilege(),
            idt_base: idt.base,
            idt_limit: idt.limit as u16,
            kernel_gs_base: self.kernel_gs_base,
            control_unrecorded: false,
        }
    }
}

/// Builds an array from `element` of each index; `None` if any is `None`.
fn try_array<T: Copy, const N: usize>(element: impl Fn(usize) -> Option<T>) -> Option<[T; N]> {
    let elements: Option<Vec<T>> = (0..N).map(element).collect();
    elements?.try_into().ok()
}
