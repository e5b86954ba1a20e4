//! The kernel's address space: every magic address, in one place. Must agree with `kernel.ld` and
//! the page tables in `boot.S`.

/// Virtual minus physical address of everything in the image.
pub const KERNEL_BASE: usize = 0xffff_ffff_8000_0000;

/// Virtual address at which all of physical 0 to 4 GiB is mapped, never executable.
pub const DIRECT_MAP: usize = 0xffff_8880_0000_0000;

/// First physical address beyond the direct map.
pub const DIRECT_MAP_END: u64 = 1 << 32;

/// Virtual address of CPU 0's stacks.
pub const STACKS: usize = 0xffff_c900_0000_0000;

/// Virtual address of task 0's stack: the last of the 2 MiB pieces that `stacks_pd` in `boot.S` has,
/// and far behind the stacks of [`MAX_CPUS`] CPUs.
pub const TASK_STACKS: usize = STACKS + 511 * (2 << 20);

/// Physical page that the start-up IPI names. `boot.S` is assembled for it.
pub const TRAMPOLINE: usize = 0x8000;

/// Upper bound of CPUs, possible or not: what static tables hold.
pub const MAX_CPUS: usize = nmiscope_guest::sync::MAX_CPUS;

/// Physical address of the local APIC's registers in xAPIC mode (SDM vol. 3, 11.4.1).
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// Interrupt vectors. All below 64, where the interrupt descriptor table in `entry.S` ends.
pub mod vector {
    pub const NMI: u64 = 2;
    pub const PAGE_FAULT: u64 = 14;
    /// Those below are exceptions and the NMI (SDM vol. 3, 6.2).
    pub const FIRST_INTERRUPT: u64 = 0x20;
    pub const SERIAL: u8 = 0x31;
    /// Another CPU wants a function run.
    pub const CALL_FUNCTION: u8 = 0x32;
    /// Another CPU has made a task ready here.
    pub const RESCHEDULE: u8 = 0x33;
    /// Above the others, which makes it the first of those that are pending (SDM vol. 3, 11.8.3): a
    /// storm of them must not stop the clock.
    pub const TIMER: u8 = 0x3e;
    /// The low four bits must be ones on old APICs (SDM vol. 3, 11.9).
    pub const SPURIOUS: u8 = 0x3f;
}

/// The address in the direct map of a physical one below 4 GiB.
pub fn direct_map(physical: u64) -> usize {
    DIRECT_MAP + physical as usize
}

unsafe extern "C" {
    static _stext: u8;
    static _etext: u8;
    static _end: u8;
}

/// Whether `address` lies in the kernel's code.
pub fn is_text(address: u64) -> bool {
    let (start, end) = (&raw const _stext as u64, &raw const _etext as u64);
    (start..end).contains(&address)
}

/// First physical address behind the kernel's image and its zeroed data.
pub fn image_end() -> u64 {
    (&raw const _end as usize - KERNEL_BASE) as u64
}
