//! Physical memory at boot, and the stacks made of it. There is no other allocation: what the
//! kernel needs it takes here, once, for every possible CPU, and never gives back.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::layout::{DIRECT_MAP_END, KERNEL_BASE, MAX_CPUS, STACKS, direct_map, image_end};
use super::percpu;
use super::pvh::StartInfo;

const PAGE: usize = 4096;
/// Address space for one CPU's stacks: a power of two, so that an address tells its CPU.
const SLOT: usize = 32 * PAGE;
const CPUS_PER_TABLE: usize = 512 * PAGE / SLOT;

const PRESENT_WRITABLE: u64 = 3;
const NO_EXECUTE: u64 = 1 << 63;

/// The stacks that every CPU has. Pages of a slot, as (first, count); the page below each, and
/// all behind the last, are not mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    DoubleFault,
    MachineCheck,
    Nmi,
    Exception,
    Interrupt,
    Main,
}

impl Stack {
    pub const ALL: [Stack; 6] = [
        Stack::DoubleFault,
        Stack::MachineCheck,
        Stack::Nmi,
        Stack::Exception,
        Stack::Interrupt,
        Stack::Main,
    ];

    const fn pages(self) -> (usize, usize) {
        match self {
            Stack::DoubleFault => (1, 1),
            Stack::MachineCheck => (3, 1),
            Stack::Nmi => (5, 2),
            Stack::Exception => (8, 2),
            Stack::Interrupt => (11, 2),
            Stack::Main => (14, 4),
        }
    }

    /// The virtual addresses of this stack of `cpu`, lowest and first one past it.
    pub fn bounds(self, cpu: usize) -> (u64, u64) {
        let (first, count) = self.pages();
        let start = STACKS + cpu * SLOT + first * PAGE;
        (start as u64, (start + count * PAGE) as u64)
    }
}

/// Where each CPU's main stack starts, for `ap_start` in boot.S.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "named by assembly")]
static main_stack_top: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// Hands out physical memory, upwards, zeroed by nobody.
pub struct Allocator {
    next: u64,
    end: u64,
}

impl Allocator {
    /// Takes over the memory behind the kernel's image, up to the end of the region it lies in.
    pub fn behind_image(start_info: &StartInfo) -> Self {
        let next = image_end();
        let end = start_info.ram_end_around(next).min(DIRECT_MAP_END);
        Self { next, end }
    }

    /// The physical address of `size` bytes that nobody else gets. Panics when there are none
    /// left, at boot, where that is the right answer.
    pub fn allocate(&mut self, size: usize, align: u64) -> u64 {
        let start = self.next.next_multiple_of(align);
        let end = start + size as u64;
        if end > self.end {
            panic!(
                "out of memory at {} KiB: give the VM more of it, or boot with a smaller nr_cpus=",
                self.end >> 10
            );
        }
        self.next = end;
        start
    }
}

/// Makes the per-CPU data and stacks of all possible CPUs.
pub fn init(start_info: &StartInfo, possible: usize) {
    let mut allocator = Allocator::behind_image(start_info);
    percpu::init(&mut allocator, possible);
    percpu::load(0);
    for first in (0..possible).step_by(CPUS_PER_TABLE) {
        map_stacks(&mut allocator, first, possible.min(first + CPUS_PER_TABLE));
    }
    for (cpu, top) in main_stack_top.iter().enumerate().take(possible) {
        top.store(Stack::Main.bounds(cpu).1 as usize, Relaxed);
    }
}

/// Maps the stacks of the CPUs `first..end`, which share one page table.
fn map_stacks(allocator: &mut Allocator, first: usize, end: usize) {
    unsafe extern "C" {
        static stacks_pd: [AtomicU64; 512];
    }
    let table_address = allocator.allocate(PAGE, PAGE as u64);
    // SAFETY: a page of the direct map that the allocator has just handed out, aligned.
    let table = unsafe {
        core::ptr::write_bytes(direct_map(table_address) as *mut u8, 0, PAGE);
        &*(direct_map(table_address) as *const [AtomicU64; 512])
    };
    for cpu in first..end {
        for stack in Stack::ALL {
            let (start, _) = stack.bounds(cpu);
            let (_, count) = stack.pages();
            let memory = allocator.allocate(count * PAGE, PAGE as u64);
            let index = (start as usize / PAGE) % 512;
            for (page, entry) in table[index..index + count].iter().enumerate() {
                let physical = memory + (page * PAGE) as u64;
                entry.store(physical | PRESENT_WRITABLE | NO_EXECUTE, Relaxed);
            }
        }
    }
    // SAFETY: boot.S defines it, in the data that is mapped writable. Entries that were not
    // present become present, which needs no TLB flush (SDM vol. 3, 4.10.2.3).
    let directory = unsafe { &stacks_pd };
    directory[first / CPUS_PER_TABLE].store(table_address | PRESENT_WRITABLE, Relaxed);
}

/// Which stack of `cpu` the address lies on.
pub fn stack_containing(cpu: usize, address: u64) -> Option<Stack> {
    Stack::ALL.into_iter().find(|stack| {
        let (start, end) = stack.bounds(cpu);
        (start..end).contains(&address)
    })
}

/// Overwrites all that this CPU's main stack holds, and then runs `and_then`.
pub fn overwrite_own_stack(rubble: u64, and_then: extern "C" fn() -> !) -> ! {
    let (_, top) = Stack::Main.bounds(percpu::cpu_number());
    super::instructions::overwrite_stack(top, rubble, and_then)
}

/// Leaves the identity mapping of the boot behind.
pub fn drop_identity_mapping() {
    unsafe extern "C" {
        static kernel_pml4: u8;
    }
    let root = &raw const kernel_pml4 as usize - KERNEL_BASE;
    // SAFETY: the same lower levels but for the identity mapping, which only boot code ran in.
    unsafe { super::instructions::write_cr3(root as u64) };
}

// What the compiler calls for copies and fills. Quadwords first: where every iteration of a string
// instruction costs the same, as in an emulator, that is eight times faster than bytes.

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's; the direction flag is clear (ABI).
    unsafe {
        core::arch::asm!("rep movsq", "mov ecx, {rest:e}", "rep movsb", rest = in(reg) count & 7,
            inout("rcx") count / 8 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack));
    }
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: a forward copy never overwrites what it has yet to read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the caller's; backwards from the last byte, and the direction flag cleared again.
    unsafe {
        core::arch::asm!("std", "rep movsb", "cld", inout("rcx") count => _,
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    let pattern = u64::from(value as u8) * 0x0101_0101_0101_0101;
    // SAFETY: as in `memcpy`.
    unsafe {
        core::arch::asm!("rep stosq", "mov ecx, {rest:e}", "rep stosb", rest = in(reg) count & 7,
            inout("rcx") count / 8 => _, inout("rdi") to => _, in("rax") pattern,
            options(nostack));
    }
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: the caller's. Volatile, lest the compiler make this a call of memcmp.
        let (a, b) = unsafe { (left.add(index).read_volatile(), right.add(index).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// # Safety
/// As BSD's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's; `memcmp` asks for the same.
    unsafe { memcmp(left, right, count) }
}
