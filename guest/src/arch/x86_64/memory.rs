//! Stacks of CPUs and tasks, and the functions that the compiler calls to copy and fill memory.
//!
//! Owns the placement and mapping of stacks. They are the only memory allocated besides the per-CPU data
//! (`percpu`): for every possible CPU at boot, for each task when it starts, and never freed.

use core::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use nmiscope_guest::sched::MAX_TASKS;

use super::allocator::Allocator;
use super::layout::{KERNEL_BASE, MAX_CPUS, STACKS, TASK_STACKS, direct_map};
use super::percpu;
use super::pvh::StartInfo;
use crate::sync::SpinLock;

const PAGE: usize = 4096;
/// Address space for one CPU's stacks in bytes: a power of two, so that an address determines its CPU.
const SLOT: usize = 32 * PAGE;
const CPUS_PER_TABLE: usize = 512 * PAGE / SLOT;

/// Address space for one task's stack in bytes. The stack is its upper end; the rest is not mapped.
const TASK_SLOT: usize = 8 * PAGE;
/// Size of a task's stack in bytes.
const TASK_STACK: usize = 4 * PAGE;
const _: () = assert!(MAX_TASKS * TASK_SLOT <= 512 * PAGE, "more task stacks than one table maps");

const PRESENT_WRITABLE: u64 = 3;
const NO_EXECUTE: u64 = 1 << 63;
/// Mask of a page table entry's physical address. The processor sets some of the other bits itself (SDM
/// vol. 3, 4.8).
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Stacks that every CPU has, in one slot of its own. The page below each stack, and all behind the last
/// one, are not mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CpuStack {
    DoubleFault,
    MachineCheck,
    Nmi,
    Exception,
    Interrupt,
    Main,
}

impl CpuStack {
    pub const ALL: [CpuStack; 6] = [
        CpuStack::DoubleFault,
        CpuStack::MachineCheck,
        CpuStack::Nmi,
        CpuStack::Exception,
        CpuStack::Interrupt,
        CpuStack::Main,
    ];

    /// Returns the stack's pages in the slot, as (first, count).
    const fn pages(self) -> (usize, usize) {
        match self {
            CpuStack::DoubleFault => (1, 1),
            CpuStack::MachineCheck => (3, 1),
            CpuStack::Nmi => (5, 2),
            CpuStack::Exception => (8, 2),
            CpuStack::Interrupt => (11, 2),
            CpuStack::Main => (14, 4),
        }
    }

    /// Returns the virtual addresses of this stack of `cpu`: the lowest one and the end.
    pub fn bounds(self, cpu: usize) -> (u64, u64) {
        let (first, count) = self.pages();
        let start = STACKS + cpu * SLOT + first * PAGE;
        (start as u64, (start + count * PAGE) as u64)
    }
}

/// End of each CPU's main stack, by CPU number; `ap_start` in boot.S reads it.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "named by assembly")]
static main_stack_top: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// Allocator of the physical memory that boot did not use.
static ALLOCATOR: SpinLock<Allocator> = SpinLock::new(Allocator::EMPTY);

/// Bit set of the tasks that have stacks, by task number.
static TASKS_WITH_STACK: AtomicU32 = AtomicU32::new(0);

/// Makes the per-CPU data and stacks of all possible CPUs.
pub fn init(start_info: &StartInfo, possible: usize) {
    let mut allocator = Allocator::behind_image(start_info);
    percpu::init(&mut allocator, possible);
    percpu::load(0);
    for first in (0..possible).step_by(CPUS_PER_TABLE) {
        map_stacks(&mut allocator, first, possible.min(first + CPUS_PER_TABLE));
    }
    for (cpu, top) in main_stack_top.iter().enumerate().take(possible) {
        top.store(CpuStack::Main.bounds(cpu).1 as usize, Relaxed);
    }
    *ALLOCATOR.lock() = allocator;
}

/// Entries of a page table, or of the level above.
type Table = [AtomicU64; 512];

/// Returns the page directory of all stacks, with an entry for each 2 MiB.
fn stacks_directory() -> &'static Table {
    unsafe extern "C" {
        static stacks_pd: Table;
    }
    // SAFETY: boot.S defines it, in the data that is mapped writable.
    unsafe { &stacks_pd }
}

/// Allocates an empty page table; returns it and its physical address.
fn new_table(allocator: &mut Allocator) -> (&'static Table, u64) {
    let address = allocator.allocate(PAGE, PAGE as u64);
    // SAFETY: a page of the direct map that the allocator has just handed out, aligned.
    let table = unsafe {
        core::ptr::write_bytes(direct_map(address) as *mut u8, 0, PAGE);
        &*(direct_map(address) as *const Table)
    };
    (table, address)
}

/// Maps newly allocated memory at `entries`. No TLB flush is needed, since these entries were not present
/// before (SDM vol. 3, 4.10.2.3).
fn map_pages(allocator: &mut Allocator, entries: &[AtomicU64]) {
    let memory = allocator.allocate(entries.len() * PAGE, PAGE as u64);
    for (page, entry) in entries.iter().enumerate() {
        let physical = memory + (page * PAGE) as u64;
        entry.store(physical | PRESENT_WRITABLE | NO_EXECUTE, Relaxed);
    }
}

/// Maps the stacks of the CPUs `first..end`, which share one page table.
fn map_stacks(allocator: &mut Allocator, first: usize, end: usize) {
    let (table, table_address) = new_table(allocator);
    for cpu in first..end {
        for stack in CpuStack::ALL {
            let (start, _) = stack.bounds(cpu);
            let (_, count) = stack.pages();
            let index = (start as usize / PAGE) % 512;
            map_pages(allocator, &table[index..index + count]);
        }
    }
    stacks_directory()[first / CPUS_PER_TABLE].store(table_address | PRESENT_WRITABLE, Relaxed);
}

/// Allocates and maps the stack of task `number`; returns its end. Must be called once for each task.
pub fn map_task_stack(number: usize) -> usize {
    const DIRECTORY_INDEX: usize = (TASK_STACKS - STACKS) / (512 * PAGE);
    let mut allocator = ALLOCATOR.lock_irqsave();
    let entry = &stacks_directory()[DIRECTORY_INDEX];
    let table = match entry.load(Relaxed) {
        0 => {
            let (table, address) = new_table(&mut allocator);
            entry.store(address | PRESENT_WRITABLE, Relaxed);
            table
        }
        // SAFETY: the table made above for an earlier task.
        present => unsafe { &*(direct_map(present & ADDRESS) as *const Table) },
    };
    let (start, end) = task_stack(number);
    let index = (start - TASK_STACKS) / PAGE;
    map_pages(&mut allocator, &table[index..index + TASK_STACK / PAGE]);
    TASKS_WITH_STACK.fetch_or(1 << number, Release);
    end
}

/// Returns the virtual addresses of a task's stack: the lowest one and the end.
const fn task_stack(number: usize) -> (usize, usize) {
    let end = TASK_STACKS + (number + 1) * TASK_SLOT;
    (end - TASK_STACK, end)
}

/// Returns the end of the task stack that has the stack pointer `address`, `None` if there is none. The
/// stack pointer of an empty stack is its end.
pub fn end_of_task_stack_containing(address: u64) -> Option<u64> {
    let last_byte = (address as usize).wrapping_sub(1);
    let number = last_byte.checked_sub(TASK_STACKS)? / TASK_SLOT;
    let (start, end) = task_stack(number);
    let exists = number < MAX_TASKS && TASKS_WITH_STACK.load(Acquire) & 1 << number != 0;
    (exists && last_byte >= start).then_some(end as u64)
}

/// Returns the stack of `cpu` that `address` is on, `None` if it is on none of them.
pub fn stack_containing(cpu: usize, address: u64) -> Option<CpuStack> {
    CpuStack::ALL.into_iter().find(|stack| {
        let (start, end) = stack.bounds(cpu);
        (start..end).contains(&address)
    })
}

/// Overwrites all that is on this CPU's main stack, and then runs `and_then`.
pub fn overwrite_own_stack(rubble: u64, and_then: extern "C" fn() -> !) -> ! {
    let (_, top) = CpuStack::Main.bounds(percpu::cpu_number());
    super::instructions::overwrite_stack(top, rubble, and_then)
}

/// Switches to the page tables without the identity mapping, which only the boot needed.
pub fn drop_identity_mapping() {
    unsafe extern "C" {
        static kernel_pml4: u8;
    }
    let root = &raw const kernel_pml4 as usize - KERNEL_BASE;
    // SAFETY: the same lower levels but for the identity mapping, which only boot code ran in.
    unsafe { super::instructions::write_cr3(root as u64) };
}

// Functions that the compiler calls to copy and fill memory. Quadwords first: where every iteration of a
// string instruction costs the same, as in an emulator, that is eight times faster than bytes.

/// Copies memory between ranges that do not overlap.
///
/// # Safety
/// The requirements of C's `memcpy`.
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

/// Copies memory between ranges that may overlap.
///
/// # Safety
/// The requirements of C's `memmove`.
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

/// Fills memory with a byte.
///
/// # Safety
/// The requirements of C's `memset`.
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

/// Compares two ranges of memory, as C's `memcmp` does.
///
/// # Safety
/// The requirements of C's `memcmp`.
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

/// Compares two ranges of memory for equality.
///
/// # Safety
/// The requirements of BSD's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's; `memcmp` asks for the same.
    unsafe { memcmp(left, right, count) }
}
