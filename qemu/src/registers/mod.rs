//! Registers, parsed from the text of QEMU's monitor.
//!
//! Owns a strict parser of the text that the HMP command `info registers -a` prints for x86 (QEMU,
//! target/i386/cpu-dump.c, `x86_cpu_dump_state`): the text of QEMU 7.2, and that of later sources with the
//! extended registers R16 to R31, which are parsed and dropped. Refuses to own the query (`qemu`). The command
//! needs no stop, works while the guest is stopped, and is safe beside libvirt, where a dump is not.
//!
//! A line that cannot be parsed is an error that quotes it; nothing is guessed. The text lacks:
//! - **the kernel's GS base** (MSR C0000102): [`Registers::kernel_gs_base`] is `None`. In a vCPU that was
//!   stopped in the kernel, [`Registers::gs`] already has it;
//! - **NMI state**: a pending or masked NMI is not shown;
//! - **upper halves**: outside 64-bit code QEMU prints 32 bits of each register and no R8 to R15; see
//!   [`VcpuRegisters::narrow`];
//! - **the multiprocessing state**, except for `HLT=`; see [`mp_state`].

mod fields;

use nmiscope_machine::{MpState, Registers, Segment, VcpuState};

use crate::qmp::excerpt;
use fields::Fields;

/// Maximum number of vCPUs in a text; QEMU's own limit is 4096.
const MAX_CPUS: usize = 4096;

/// Registers of one vCPU, as the monitor prints them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuRegisters {
    /// Registers and execution state, in the form common to all targets.
    pub state: VcpuState,
    /// True if the vCPU is not in 64-bit code: general registers and segment bases have only their lower
    /// 32 bits, and R8 to R15 are 0. The rest is unknown for a 32-bit program under a 64-bit kernel, and
    /// does not exist outside long mode.
    pub narrow: bool,
    /// Segment of the local descriptor table.
    pub ldt: Segment,
    /// Task register: segment of the TSS.
    pub tr: Segment,
    /// Guest-virtual address of the global descriptor table.
    pub gdt_base: u64,
    /// Offset of the last byte of the global descriptor table.
    pub gdt_limit: u16,
    /// The debug registers DR0 to DR3, DR6 and DR7.
    pub debug: [u64; 6],
    /// State of the A20 gate: false if address bit 20 is masked.
    pub a20: bool,
}

/// Error of parsing the text of `info registers -a`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistersError {
    /// A line differs from the expected one.
    #[error("understand line {number} of QEMU's registers, {line:?}: expected {expected}")]
    Line {
        /// Number of the line, counted from 1.
        number: usize,
        /// The beginning of that line.
        line: String,
        /// The line that was expected.
        expected: &'static str,
    },
    /// The text ends within a vCPU.
    #[error("understand QEMU's registers: the text ends where {expected} was expected")]
    Truncated {
        /// The line that was expected.
        expected: &'static str,
    },
    /// The text contains no vCPU.
    #[error("understand QEMU's registers: there is no vCPU in the text")]
    Empty,
    /// The number of a vCPU does not ascend, or is one too many.
    #[error("understand QEMU's registers: CPU#{0} is out of order, or one too many")]
    Number(u64),
}

/// Parses the text of `info registers -a` into vCPUs, in ascending order of their numbers. The numbers have
/// gaps after a CPU was unplugged.
///
/// # Errors
/// [`RegistersError`] for the first line that cannot be parsed.
pub fn parse(text: &str) -> Result<Vec<VcpuRegisters>, RegistersError> {
    let mut lines = Lines { lines: text.lines().enumerate().peekable() };
    let mut cpus: Vec<VcpuRegisters> = Vec::new();
    loop {
        while lines.peek().is_some_and(str::is_empty) {
            lines.lines.next();
        }
        if lines.peek().is_none() {
            break;
        }
        let cpu = parse_cpu(&mut lines)?;
        let number = cpu.state.cpu;
        let ascends = cpus.last().is_none_or(|last| last.state.cpu < number);
        if !ascends || cpus.len() == MAX_CPUS {
            return Err(RegistersError::Number(number.into()));
        }
        cpus.push(cpu);
    }
    if cpus.is_empty() { Err(RegistersError::Empty) } else { Ok(cpus) }
}

/// Derives the multiprocessing state from `HLT=` and the registers.
///
/// A CPU that waits for its start-up IPI is at the reset vector, to which a started CPU returns only by a
/// reset. TCG reports it with `HLT=1` and KVM with `HLT=0`. Under KVM, CPU 0 before its first instruction
/// looks the same; because of its number it counts as running. A CPU that received INIT cannot be
/// distinguished from one that was never started. A PC's firmware starts every CPU and parks it in a HLT
/// of its ROM with interrupts off: that is [`MpState::Halted`].
pub fn mp_state(cpu: u32, registers: &Registers, halted: bool) -> MpState {
    match (registers.are_reset(), halted) {
        (true, true) => MpState::Uninitialized,
        (true, false) if cpu != 0 => MpState::Uninitialized,
        (_, true) => MpState::Halted,
        (_, false) => MpState::Running,
    }
}

struct Lines<'a> {
    lines: std::iter::Peekable<std::iter::Enumerate<std::str::Lines<'a>>>,
}

impl<'a> Lines<'a> {
    fn peek(&mut self) -> Option<&'a str> {
        self.lines.peek().map(|&(_, line)| line)
    }

    /// Parses the next line with `parse`, which must consume all of it.
    fn next<T>(
        &mut self,
        expected: &'static str,
        parse: impl FnOnce(&mut Fields<'a>) -> Option<T>,
    ) -> Result<T, RegistersError> {
        let Some((index, line)) = self.lines.next() else {
            return Err(RegistersError::Truncated { expected });
        };
        let mut fields = Fields(line);
        let parsed = parse(&mut fields).filter(|_| fields.end().is_some());
        parsed.ok_or_else(|| RegistersError::Line {
            number: index + 1,
            line: excerpt(line.as_bytes()),
            expected,
        })
    }
}

/// The one-bit flags in the line of RIP.
struct Flags {
    a20: bool,
    smm: bool,
    halted: bool,
}

fn parse_cpu(lines: &mut Lines<'_>) -> Result<VcpuRegisters, RegistersError> {
    let number = lines.next("CPU#NUMBER", |fields| {
        fields.expect("CPU#")?;
        let number = fields.text(fields.0.len())?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| number.parse::<u32>().ok())?
    })?;
    let narrow = lines.peek().is_some_and(|line| line.starts_with('E'));
    let mut registers = Registers::default();
    if narrow {
        parse_narrow(lines, &mut registers)?;
    } else {
        parse_wide(lines, &mut registers)?;
    }
    let flags = parse_flags(lines, &mut registers, narrow)?;
    let digits = if narrow { 8 } else { 16 };
    for (name, segment) in [
        ("ES", &mut registers.es),
        ("CS", &mut registers.cs),
        ("SS", &mut registers.ss),
        ("DS", &mut registers.ds),
        ("FS", &mut registers.fs),
        ("GS", &mut registers.gs),
    ] {
        *segment = lines.next("a segment", |fields| parse_segment(fields, name, digits))?;
    }
    let ldt = lines.next("LDT", |fields| parse_segment(fields, "LDT", digits))?;
    let tr = lines.next("TR", |fields| parse_segment(fields, "TR", digits))?;
    let (gdt_base, gdt_limit) = lines.next("GDT", |fields| parse_table(fields, "GDT"))?;
    (registers.idt_base, registers.idt_limit) =
        lines.next("IDT", |fields| parse_table(fields, "IDT"))?;
    let debug = parse_system(lines, &mut registers)?;
    skip_vectors(lines)?;
    let state = VcpuState {
        cpu: number,
        registers,
        nmi: None,
        mp_state: mp_state(number, &registers, flags.halted),
        smm: flags.smm,
        timer_armed: None,
    };
    Ok(VcpuRegisters { state, narrow, ldt, tr, gdt_base, gdt_limit, debug, a20: flags.a20 })
}

fn parse_narrow(lines: &mut Lines<'_>, to: &mut Registers) -> Result<(), RegistersError> {
    [to.rax, to.rbx, to.rcx, to.rdx] =
        lines.next("EAX to EDX", |fields| row(fields, ["EAX", "EBX", "ECX", "EDX"], 8))?;
    [to.rsi, to.rdi, to.rbp, to.rsp] =
        lines.next("ESI to ESP", |fields| row(fields, ["ESI", "EDI", "EBP", "ESP"], 8))?;
    Ok(())
}

/// Rows of the registers that APX adds.
const EXTENDED: [[&str; 4]; 4] = [
    ["R16", "R17", "R18", "R19"],
    ["R20", "R21", "R22", "R23"],
    ["R24", "R25", "R26", "R27"],
    ["R28", "R29", "R30", "R31"],
];

fn parse_wide(lines: &mut Lines<'_>, to: &mut Registers) -> Result<(), RegistersError> {
    [to.rax, to.rbx, to.rcx, to.rdx] =
        lines.next("RAX to RDX", |fields| row(fields, ["RAX", "RBX", "RCX", "RDX"], 16))?;
    [to.rsi, to.rdi, to.rbp, to.rsp] =
        lines.next("RSI to RSP", |fields| row(fields, ["RSI", "RDI", "RBP", "RSP"], 16))?;
    [to.r8, to.r9, to.r10, to.r11] =
        lines.next("R8 to R11", |fields| row(fields, ["R8", "R9", "R10", "R11"], 16))?;
    [to.r12, to.r13, to.r14, to.r15] =
        lines.next("R12 to R15", |fields| row(fields, ["R12", "R13", "R14", "R15"], 16))?;
    // A CPU with APX has four more rows. `Registers` omits them: no kernel uses them.
    if lines.peek().is_some_and(|line| line.starts_with("R16=")) {
        for names in EXTENDED {
            lines.next("R16 to R31", |fields| row(fields, names, 16))?;
        }
    }
    Ok(())
}

fn row<const N: usize>(
    fields: &mut Fields<'_>,
    names: [&str; N],
    digits: usize,
) -> Option<[u64; N]> {
    let mut values = [0; N];
    for (index, (value, name)) in values.iter_mut().zip(names).enumerate() {
        if index > 0 {
            fields.expect(" ")?;
        }
        *value = fields.register(name, digits)?;
    }
    Some(values)
}

/// Letters and bit numbers of the flags in RFLAGS (`x86_cpu_dump_state`).
const FLAG_LETTERS: [(u8, u32); 7] =
    [(b'D', 10), (b'O', 11), (b'S', 7), (b'Z', 6), (b'A', 4), (b'P', 2), (b'C', 0)];

fn parse_flags(
    lines: &mut Lines<'_>,
    to: &mut Registers,
    narrow: bool,
) -> Result<Flags, RegistersError> {
    let (rip, rflags, digits) = if narrow { ("EIP", "EFL", 8) } else { ("RIP", "RFL", 16) };
    lines.next("RIP, RFL and the flags", |fields| {
        to.rip = fields.register(rip, digits)?;
        fields.expect(" ")?;
        to.rflags = fields.register(rflags, 8)?;
        fields.expect(" [")?;
        for (byte, (letter, bit)) in fields.text(7)?.bytes().zip(FLAG_LETTERS) {
            let expected = if to.rflags >> bit & 1 != 0 { letter } else { b'-' };
            (byte == expected).then_some(())?;
        }
        fields.expect("] CPL=")?;
        to.cpl = fields.exactly(1).filter(|&cpl| cpl <= 3)?;
        // The interrupt shadow, which is useless without the rest of the NMI state.
        fields.flag(" II=")?;
        Some(Flags {
            a20: fields.flag(" A20=")?,
            smm: fields.flag(" SMM=")?,
            halted: fields.flag(" HLT=")?,
        })
    })
}

/// Parses a segment: selector, base, limit and flags, and in protected mode the decoded flags.
fn parse_segment(fields: &mut Fields<'_>, name: &str, digits: usize) -> Option<Segment> {
    fields.expect(name)?;
    fields.0 = fields.0.trim_start_matches(' ');
    fields.expect("=")?;
    let selector = fields.exactly(4)?;
    fields.expect(" ")?;
    let base = fields.exactly(digits)?;
    for _ in 0..2 {
        fields.expect(" ")?;
        fields.exactly::<u32>(8)?;
    }
    if fields.expect(" DPL=").is_some() {
        fields.exactly::<u8>(1).filter(|&dpl| dpl <= 3)?;
        fields.expect(" ")?;
        let words = fields.text(fields.0.len())?;
        is_flags_text(words).then_some(())?;
    }
    Some(Segment { selector, base })
}

/// True for decoded flags of `cpu_x86_dump_seg_cache`, such as `CS64 [-RA]`, `DS   [-WA]` or
/// `TSS64-busy`.
fn is_flags_text(words: &str) -> bool {
    let (kind, rights) = words.split_once('[').unwrap_or((words, "---]"));
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '-';
    kind.trim_end().chars().all(letters)
        && rights.len() == 4
        && rights.strip_suffix(']').is_some_and(|rights| rights.chars().all(letters))
}

fn parse_table(fields: &mut Fields<'_>, name: &str) -> Option<(u64, u16)> {
    fields.expect(name)?;
    fields.expect("=     ")?;
    let base = fields.hex(8)?;
    fields.expect(" ")?;
    let limit: u32 = fields.exactly(8)?;
    Some((base, u16::try_from(limit).ok()?))
}

/// Parses control registers, debug registers and EFER; returns the debug registers.
fn parse_system(lines: &mut Lines<'_>, to: &mut Registers) -> Result<[u64; 6], RegistersError> {
    [to.cr0, to.cr2, to.cr3, to.cr4] =
        lines.next("CR0 to CR4", |fields| row(fields, ["CR0", "CR2", "CR3", "CR4"], 8))?;
    let [dr0, dr1, dr2, dr3] =
        lines.next("DR0 to DR3", |fields| row(fields, ["DR0", "DR1", "DR2", "DR3"], 8))?;
    let [dr6, dr7] = lines.next("DR6 and DR7", |fields| row(fields, ["DR6", "DR7"], 8))?;
    [to.efer] = lines.next("EFER", |fields| row(fields, ["EFER"], 16))?;
    Ok([dr0, dr1, dr2, dr3, dr6, dr7])
}

/// Prefixes of the lines with floating-point and vector registers, which are skipped.
const VECTORS: [&str; 6] = ["FCW=", "FPR", "Opmask", "XMM", "YMM", "ZMM"];

/// Skips floating-point and vector registers, up to an empty line, the next vCPU or the end.
fn skip_vectors(lines: &mut Lines<'_>) -> Result<(), RegistersError> {
    while lines.peek().is_some_and(|line| !line.is_empty() && !line.starts_with("CPU#")) {
        lines.next("a floating-point or vector register", |fields| {
            VECTORS.iter().any(|name| fields.0.starts_with(name)).then_some(())?;
            fields.text(fields.0.len())
        })?;
    }
    Ok(())
}
