//! The kernel's address space: every fixed address and interrupt vector. Must agree with `kernel.ld`, and
//! with the page tables in `boot.S`.

/// Virtual minus physical address of everything in the image.
pub const KERNEL_BASE: usize = 0xffff_ffff_8000_0000;

/// Virtual address at which all of physical 0 to 4 GiB is mapped, never executable.
pub const DIRECT_MAP: usize = 0xffff_8880_0000_0000;

/// First physical address beyond the direct map.
pub const DIRECT_MAP_END: u64 = 1 << 32;

/// Virtual address of CPU 0's stacks.
pub const STACKS: usize = 0xffff_c900_0000_0000;

/// Virtual address of task 0's slot for a stack: in the last of the 2 MiB pieces that `stacks_pd` in
/// `boot.S` has, far behind the stacks of [`MAX_CPUS`] CPUs.
pub const TASK_STACKS: usize = STACKS + 511 * (2 << 20);

/// Physical address of the page that the start-up IPI names. `boot.S` is assembled for it.
pub const TRAMPOLINE: usize = 0x8000;

/// Most CPUs that the kernel supports: the length of static tables.
pub const MAX_CPUS: usize = nmiscope_guest::sync::MAX_CPUS;

/// Physical address of the local APIC's registers in xAPIC mode (SDM vol. 3, 11.4.1).
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// Interrupt vectors, all below 64: the interrupt descriptor table in `entry.S` ends there.
pub mod vector {
    pub const NMI: u64 = 2;
    pub const PAGE_FAULT: u64 = 14;
    /// First vector of interrupts. Vectors below are exceptions and the NMI (SDM vol. 3, 6.2).
    pub const FIRST_INTERRUPT: u64 = 0x20;
    pub const SERIAL: u8 = 0x31;
    /// Vector for cross-CPU calls: another CPU asks for a function to be run.
    pub const CALL_FUNCTION: u8 = 0x32;
    /// Vector for wake-ups: another CPU has made a task ready here.
    pub const RESCHEDULE: u8 = 0x33;
    /// Vector of the tick. It is above the others and so has priority over them (SDM vol. 3, 11.8.3): an
    /// interrupt storm must not stop the tick.
    pub const TIMER: u8 = 0x3e;
    /// Vector of spurious interrupts. Its low four bits must be ones on old APICs (SDM vol. 3, 11.9).
    pub const SPURIOUS: u8 = 0x3f;
}

/// Returns the virtual address in the direct map of a physical address below 4 GiB.
pub fn direct_map(physical: u64) -> usize {
    DIRECT_MAP + physical as usize
}

unsafe extern "C" {
    static _stext: u8;
    static _etext: u8;
    static _end: u8;
}

/// Returns true if the virtual address `address` is in the kernel's code.
pub fn is_text(address: u64) -> bool {
    let (start, end) = (&raw const _stext as u64, &raw const _etext as u64);
    (start..end).contains(&address)
}

/// Returns the first physical address behind the kernel's image and its zeroed data.
pub fn image_end() -> u64 {
    (&raw const _end as usize - KERNEL_BASE) as u64
}
