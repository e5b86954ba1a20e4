//! Instructions that Rust has no expression for, each wrapped once. Refuses to know any device or
//! model-specific register: its callers, all in this folder, do.

use core::arch::{asm, x86_64::__cpuid_count};

/// RFLAGS.IF (SDM vol. 3, 2.3): maskable interrupts are on.
const INTERRUPT_FLAG: u64 = 1 << 9;

/// Result of CPUID: the values of four registers.
pub use core::arch::x86_64::CpuidResult;

/// Writes a byte to an I/O port (`out %al, %dx`). The effect depends on the device; no device that this
/// kernel uses accesses memory because of it.
pub fn out_byte(port: u16, value: u8) {
    // SAFETY: port I/O does not touch memory; CPL 0 is established by boot.S.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

/// Writes a dword to an I/O port (`out %eax, %dx`).
pub fn out_dword(port: u16, value: u32) {
    // SAFETY: as in `out_byte`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) }
}

/// Reads a byte from an I/O port (`in %dx, %al`).
pub fn in_byte(port: u16) -> u8 {
    let value;
    // SAFETY: as in `out_byte`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

/// Writes all bytes to one I/O port (`rep outsb`): a single exit if a VMM emulates the port.
pub fn out_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: reads exactly the slice; direction flag clear (ABI).
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _,
             inout("rcx") bytes.len() => _, options(readonly, nostack));
    }
}

/// Reads a model-specific register.
///
/// # Safety
/// The register exists on this CPU.
pub unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high,
             options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists, and what the write does to this CPU breaks no rule of Rust's.
pub unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller's. Not `nomem`: an interrupt may follow from it.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack));
    }
}

/// Executes CPUID for `leaf`. A leaf beyond the highest of its range returns another leaf's values.
pub fn cpuid(leaf: u32) -> CpuidResult {
    __cpuid_count(leaf, 0)
}

/// Reads the time-stamp counter, in cycles.
pub fn read_tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 CPU and CR4.TSD does not concern CPL 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads CR2: the address of the last page fault.
pub fn read_cr2() -> u64 {
    let value;
    // SAFETY: reading CR2 at CPL 0 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack)) }
    value
}

/// Switches to the page tables whose top level lies at the physical address `root`.
///
/// # Safety
/// Everything in use, this code and its stack above all, is mapped there as it is now.
pub unsafe fn write_cr3(root: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack)) }
}

/// Reads RFLAGS of this CPU.
fn read_flags() -> u64 {
    let flags;
    // SAFETY: pushes and pops one word; no other memory.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(nomem, preserves_flags)) }
    flags
}

/// Turns maskable interrupts off on this CPU.
pub fn interrupts_off() {
    // SAFETY: with interrupts off less can happen, not more. Orders memory (no `nomem`).
    unsafe { asm!("cli", options(nostack)) }
}

/// Turns maskable interrupts on, on a CPU that has its descriptor tables.
pub fn interrupts_on() {
    // SAFETY: handlers run on stacks of their own and use per-CPU data and locks like any CPU.
    unsafe { asm!("sti", options(nostack)) }
}

/// Turns maskable interrupts off; returns the flags for [`irq_restore`].
pub fn irq_save() -> usize {
    let flags = read_flags();
    interrupts_off();
    flags as usize
}

/// Turns maskable interrupts on again, if they were on at [`irq_save`].
pub fn irq_restore(flags: usize) {
    if flags as u64 & INTERRUPT_FLAG != 0 {
        interrupts_on();
    }
}

/// Halts until an interrupt or NMI arrives; turns interrupts on for it.
pub fn wait_for_interrupt() {
    // SAFETY: as `interrupts_on`; STI takes effect behind HLT, so none is missed in between.
    unsafe { asm!("sti", "hlt", options(nostack)) }
}

/// Halts this CPU for good, with interrupts off: only its NMI handler still runs.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: as `interrupts_off`.
        unsafe { asm!("cli", "hlt", options(nostack)) }
    }
}

/// Resets the machine by a triple fault: a page fault without an interrupt descriptor table.
pub fn cause_triple_fault() -> ! {
    let no_table = [0u8; 10];
    // SAFETY: nothing of this program runs after it.
    unsafe { asm!("lidt [{}]", "mov eax, [0]", in(reg) &no_table, out("eax") _, options(nostack)) }
    halt_forever()
}

/// Overwrites the stack from RSP to its end `top`, and the frame pointer, with `rubble`, and then runs
/// `and_then`.
pub fn overwrite_stack(top: u64, rubble: u64, and_then: extern "C" fn() -> !) -> ! {
    // SAFETY: nothing that the stack held is used again: `and_then` does not return. The words
    // from RSP to `top`, this stack's end, are all on the stack.
    unsafe {
        asm!("mov rcx, rdx", "sub rcx, rsp", "shr rcx, 3", "mov rdi, rsp", "rep stosq",
             "mov rbp, rax", "jmp rsi", in("rdx") top, in("rsi") and_then,
             in("rax") rubble, options(noreturn));
    }
}
