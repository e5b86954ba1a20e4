//! GDT, task-state segment and IDT of a CPU, built by the CPU itself in its own per-CPU data. In long
//! mode they serve one purpose here: vectors switch to stacks of their own (IST).

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::memory::CpuStack;
use super::percpu::{PerCpu, percpu};

const NULL: u64 = 0;
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const TSS_SELECTOR: u16 = 0x10;
const TSS_SIZE: u64 = 104;

percpu! {
    /// GDT: the null descriptor, 64-bit code, and the two halves of the task-state segment's descriptor.
    static gdt: [AtomicU64; 4] =
        [AtomicU64::new(NULL), AtomicU64::new(CODE_64), AtomicU64::new(0), AtomicU64::new(0)];
    /// The 64-bit task-state segment (SDM vol. 3, 8.7). An array of dwords, because its quadwords are not
    /// on 8-byte boundaries.
    static tss: [AtomicU32; 26] = [const { AtomicU32::new(0) }; 26];
}

/// Returns the index of a stack in the task-state segment (IST), `None` for the main stack. The gates in
/// `entry.S` have the same numbers.
const fn interrupt_stack_index(stack: CpuStack) -> Option<usize> {
    match stack {
        CpuStack::Nmi => Some(1),
        CpuStack::DoubleFault => Some(2),
        CpuStack::MachineCheck => Some(3),
        CpuStack::Exception => Some(4),
        CpuStack::Interrupt => Some(5),
        CpuStack::Main => None,
    }
}

/// Operand of LGDT and LIDT: a table's limit and address.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Builds and loads the tables of `cpu`, which must be the current CPU.
pub fn load(cpu: usize) {
    unsafe extern "C" {
        static idt: PerCpu<[AtomicU64; 128]>;
    }
    let segment = tss.this();
    for stack in CpuStack::ALL {
        if let Some(index) = interrupt_stack_index(stack) {
            let (_, top) = stack.bounds(cpu);
            let dword = 9 + 2 * (index - 1);
            segment[dword].store(top as u32, Relaxed);
            segment[dword + 1].store((top >> 32) as u32, Relaxed);
        }
    }
    segment[25].store((TSS_SIZE as u32) << 16, Relaxed); // no I/O permission bitmap

    let base = &raw const *segment as u64;
    let available_tss = 0x89 << 40;
    let low_base = ((base & 0xff_ffff) << 16) | (((base >> 24) & 0xff) << 56);
    let low = (TSS_SIZE - 1) | low_base | available_tss;
    let table = gdt.this();
    table[2].store(low, Relaxed);
    table[3].store(base >> 32, Relaxed);

    let gdt_pointer = Pointer { limit: 4 * 8 - 1, base: &raw const *table as u64 };
    // SAFETY: entry.S defines it, in the per-CPU section, with that size.
    let gates = unsafe { idt.this() };
    let idt_pointer = Pointer { limit: 128 * 8 - 1, base: &raw const *gates as u64 };
    // SAFETY: the tables are complete and live forever. CS stays 0x08, which both this GDT and
    // the one before describe alike.
    unsafe {
        asm!("lgdt [{}]", "lidt [{}]", "ltr {:x}", in(reg) &gdt_pointer, in(reg) &idt_pointer,
             in(reg) TSS_SELECTOR, options(nostack));
    }
}
