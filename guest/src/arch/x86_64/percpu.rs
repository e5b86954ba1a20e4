//! Per-CPU variables: a linker section that is the template, copied once for each possible CPU,
//! and `__per_cpu_offset[]`, which the host reads too. The GS base of a CPU is its offset.
//!
//! Until the copies exist, the offset is zero and the boot CPU, the only one running, uses the template.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use super::allocator::Allocator;
use super::instructions::write_msr;
use super::layout::{DIRECT_MAP, KERNEL_BASE, MAX_CPUS};

/// Offset from a per-CPU variable's address in the template to the CPU's own copy, by CPU number.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "the field's name for it")]
pub static __per_cpu_offset: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// A per-CPU variable: every CPU has its own copy. Other CPUs can access it, so it has to be [`Sync`].
#[repr(transparent)]
pub struct PerCpu<T>(T);

impl<T: Sync> PerCpu<T> {
    #[doc(hidden)]
    pub const fn new(template: T) -> Self {
        Self(template)
    }

    /// Returns this CPU's copy. No code in this kernel migrates to another CPU.
    pub fn this(&'static self) -> &'static T {
        self.at(this_cpu_offset())
    }

    /// Returns the copy of `cpu`, which must be a possible CPU.
    pub fn on(&'static self, cpu: usize) -> &'static T {
        self.at(__per_cpu_offset[cpu].load(Relaxed))
    }

    fn at(&'static self, offset: usize) -> &'static T {
        let address = (&raw const self.0).expose_provenance().wrapping_add(offset);
        // SAFETY: `percpu!` is the only way to make one, and places it in the section that
        // `init` copied to `template + offset`; T was valid there and holds no addresses of
        // itself. Copies live forever.
        unsafe { &*core::ptr::with_exposed_provenance(address) }
    }
}

/// Declares per-CPU variables, with the names that the host finds them by.
macro_rules! percpu {
    ($($(#[$doc:meta])* $visibility:vis static $name:ident: $type:ty = $template:expr;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".percpu")]
        #[used]
        #[allow(non_upper_case_globals, reason = "kernel per-CPU variables are written so")]
        $visibility static $name: $crate::arch::x86_64::percpu::PerCpu<$type> =
            $crate::arch::x86_64::percpu::PerCpu::new($template);
    )*};
}
pub(crate) use percpu;

percpu! {
    /// This CPU's entry of `__per_cpu_offset`, which GS-relative addressing reads in one instruction.
    static this_cpu_off: AtomicUsize = AtomicUsize::new(0);
    /// Number of this CPU, counted from 0.
    static cpu_number_cell: AtomicU32 = AtomicU32::new(0);
}

fn this_cpu_offset() -> usize {
    let offset;
    // SAFETY: the GS base is zero or this CPU's offset (boot.S, `load`), so that this reads the
    // template's or this CPU's `this_cpu_off`, which hold just that offset.
    unsafe {
        asm!("mov {}, gs:[this_cpu_off]", out(reg) offset,
             options(pure, readonly, nostack, preserves_flags));
    }
    offset
}

/// Returns the number of the current CPU.
pub fn cpu_number() -> usize {
    cpu_number_cell.this().load(Relaxed) as usize
}

/// Makes the copies for CPUs `0..possible`, in memory of `allocator`.
pub fn init(allocator: &mut Allocator, possible: usize) {
    unsafe extern "C" {
        static __per_cpu_start: u8;
        static __per_cpu_end: u8;
    }
    let template = &raw const __per_cpu_start;
    let size = &raw const __per_cpu_end as usize - template as usize;
    for (cpu, slot) in __per_cpu_offset.iter().enumerate().take(possible) {
        let copy = DIRECT_MAP + allocator.allocate(size, 64) as usize;
        // SAFETY: the linker made `size` readable bytes at `template`; the allocator has handed
        // out as many at `copy` and to nobody else. Only this CPU runs.
        unsafe { core::ptr::copy_nonoverlapping(template, copy as *mut u8, size) };
        let offset = copy.wrapping_sub(template as usize);
        slot.store(offset, Relaxed);
        this_cpu_off.on(cpu).store(offset, Relaxed);
        cpu_number_cell.on(cpu).store(cpu as u32, Relaxed);
    }
}

/// Makes this CPU, whose number is `cpu`, use its own copy.
pub fn load(cpu: usize) {
    const GS_BASE: u32 = 0xc000_0101;
    // SAFETY: the register exists on every x86-64 CPU; Rust code has no other use for GS.
    unsafe { write_msr(GS_BASE, __per_cpu_offset[cpu].load(Relaxed) as u64) };
}

/// Returns the physical address of an object in the direct map or in the image.
pub fn physical_address<T>(object: &T) -> u64 {
    let address = &raw const *object as usize;
    let base = if address >= KERNEL_BASE { KERNEL_BASE } else { DIRECT_MAP };
    (address - base) as u64
}
