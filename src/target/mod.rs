//! Where a guest's memory comes from. Today from a VM that we run; a QEMU process and a core file are
//! to follow, behind the same [`memory::GuestRam`] and the symbolizer's traits.
//!
//! Owns access to the bytes; what lies in them is the business of `kernel`.

pub mod memory;

use nmiscope_symbolizer::{PageTables, PagingError};
use nmiscope_vmm::Registers;

/// The page tables that a vCPU's registers select.
///
/// # Errors
/// It is not in long mode.
pub fn page_tables(registers: &Registers) -> Result<PageTables, PagingError> {
    let Registers { cr0, cr3, cr4, efer, .. } = *registers;
    PageTables::from_control_registers(cr0, cr3, cr4, efer)
}

/// Whether a vCPU takes interrupts: RFLAGS.IF.
pub fn interrupts_enabled(registers: &Registers) -> bool {
    const INTERRUPT_FLAG: u64 = 1 << 9;
    registers.rflags & INTERRUPT_FLAG != 0
}
