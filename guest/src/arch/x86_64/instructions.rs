//! The instructions that Rust has no words for, each wrapped once. Knows no device and no
//! register by name: that is its callers' business, all of them in this folder.

use core::arch::{asm, x86_64::__cpuid_count};

/// RFLAGS.IF (SDM vol. 3, 2.3): maskable interrupts are on.
const INTERRUPT_FLAG: u64 = 1 << 9;

/// What CPUID returned.
pub use core::arch::x86_64::CpuidResult;

/// `out %al, %dx`. What the write does is between the caller and the device; no device of a PC's
/// I/O space that this kernel names can reach memory by it.
pub fn out_byte(port: u16, value: u8) {
    // SAFETY: port I/O does not touch memory; CPL 0 is established by boot.S.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

/// `out %eax, %dx`.
pub fn out_dword(port: u16, value: u32) {
    // SAFETY: as in `out_byte`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) }
}

/// `in %dx, %al`.
pub fn in_byte(port: u16) -> u8 {
    let value;
    // SAFETY: as in `out_byte`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

/// `rep outsb`: every byte to one port, in a single exit where a VMM sits behind it.
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

/// CPUID. A leaf beyond the highest of its range answers with something else's values.
pub fn cpuid(leaf: u32) -> CpuidResult {
    __cpuid_count(leaf, 0)
}

/// The time-stamp counter.
pub fn read_tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 CPU and CR4.TSD does not concern CPL 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The address whose access faulted last.
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

/// RFLAGS.
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

/// Never runs anything again on this CPU but its NMI handler.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: as `interrupts_off`.
        unsafe { asm!("cli", "hlt", options(nostack)) }
    }
}

/// Resets the machine the hard way: a page fault without an interrupt descriptor table.
pub fn cause_triple_fault() -> ! {
    let no_table = [0u8; 10];
    // SAFETY: nothing of this program runs after it.
    unsafe { asm!("lidt [{}]", "mov eax, [0]", in(reg) &no_table, out("eax") _, options(nostack)) }
    halt_forever()
}

/// Runs `and_then` with all of the stack above it overwritten by `rubble`, frame pointer included.
pub fn overwrite_stack(top: u64, rubble: u64, and_then: extern "C" fn() -> !) -> ! {
    // SAFETY: nothing that the stack held is used again: `and_then` does not return. The words
    // from RSP to `top`, this stack's end, are all on the stack.
    unsafe {
        asm!("mov rcx, rdx", "sub rcx, rsp", "shr rcx, 3", "mov rdi, rsp", "rep stosq",
             "mov rbp, rax", "jmp rsi", in("rdx") top, in("rsi") and_then,
             in("rax") rubble, options(noreturn));
    }
}
