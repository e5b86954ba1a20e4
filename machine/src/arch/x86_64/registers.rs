//! Registers of a vCPU, and of a task that is not running, as plain data.
//!
//! Owns the values and the meaning of a few of their bits; refuses to own where they come from (KVM, a
//! core, a task's stack) and what follows from them (`execution`, `page_walk`). Cores store them under
//! these names.

use serde::{Deserialize, Serialize};

use super::page_walk::{PageTables, PagingError};
use super::register::Register;

/// A vCPU's registers. Addresses in them are guest-virtual; CR3 is guest-physical.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "registers by their names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    /// The current privilege level: 0 for the kernel, 3 for programs (SS.DPL, as the processor keeps
    /// it).
    pub cpl: u8,
    /// The guest-virtual address of the interrupt descriptor table.
    pub idt_base: u64,
    /// Offset of the last byte of the interrupt descriptor table.
    pub idt_limit: u16,
    /// IA32_KERNEL_GS_BASE, which SWAPGS exchanges with the base of GS: guest-virtual. `None` where it is
    /// not recorded; cores leave the field out then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_gs_base: Option<u64>,
    /// True where the source has general registers alone, as NT_PRSTATUS does: control registers, EFER and
    /// the interrupt descriptor table are 0 here and mean nothing. Cores leave the field out where it is
    /// false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub control_unrecorded: bool,
}

/// A segment register: its selector and its base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The selector that was loaded into the register.
    pub selector: u16,
    /// The address at which the segment begins: guest-virtual, or linear without paging.
    pub base: u64,
}

/// RFLAGS.IF (Intel SDM volume 1, 3.4.3).
const INTERRUPT_FLAG: u64 = 1 << 9;
/// CR0.PE (SDM volume 3, 2.5).
const PROTECTION_ENABLE: u64 = 1 << 0;
/// CR0.PG (SDM volume 3, 2.5).
const PAGING: u64 = 1 << 31;
/// IA32_EFER.LMA (SDM volume 3, 2.2.1).
const LONG_MODE_ACTIVE: u64 = 1 << 10;

impl Registers {
    /// The value of a general register or RIP.
    pub fn get(&self, register: Register) -> u64 {
        match register {
            Register::Rax => self.rax,
            Register::Rdx => self.rdx,
            Register::Rcx => self.rcx,
            Register::Rbx => self.rbx,
            Register::Rsi => self.rsi,
            Register::Rdi => self.rdi,
            Register::Rbp => self.rbp,
            Register::Rsp => self.rsp,
            Register::R8 => self.r8,
            Register::R9 => self.r9,
            Register::R10 => self.r10,
            Register::R11 => self.r11,
            Register::R12 => self.r12,
            Register::R13 => self.r13,
            Register::R14 => self.r14,
            Register::R15 => self.r15,
            Register::Rip => self.rip,
        }
    }

    /// Makes the address space that the control registers select.
    ///
    /// # Errors
    /// [`PagingError`] when the vCPU is not in long mode, or its control registers are not recorded.
    pub fn page_tables(&self) -> Result<PageTables, PagingError> {
        if self.control_unrecorded {
            return Err(PagingError::NotRecorded);
        }
        PageTables::from_control_registers(self.cr0, self.cr3, self.cr4, self.efer)
    }

    /// True when the vCPU takes maskable interrupts: RFLAGS.IF.
    pub fn interrupts_enabled(&self) -> bool {
        self.rflags & INTERRUPT_FLAG != 0
    }

    /// True when the vCPU is in protected or long mode, and not in real mode: CR0.PE.
    pub fn is_protected(&self) -> bool {
        self.cr0 & PROTECTION_ENABLE != 0
    }

    /// True when the vCPU translates addresses through page tables: CR0.PG.
    pub fn is_paging(&self) -> bool {
        self.cr0 & PAGING != 0
    }

    /// True when the vCPU is in long mode, 64-bit or compatibility: IA32_EFER.LMA.
    pub fn is_long_mode(&self) -> bool {
        self.efer & LONG_MODE_ACTIVE != 0
    }

    /// True when the registers are those of a processor after a reset or an INIT (SDM volume 3, table 10-1).
    pub fn are_reset(&self) -> bool {
        self.cs.base == 0xffff_0000 && self.rip == 0xfff0
    }
}

macro_rules! task_registers {
    ($($field:ident $register:ident)*) => {
        /// The registers of a task that is not running: its RIP, where it will resume, and the ones that a
        /// function call preserves (psABI, figure 3.4). Guest-virtual where they are addresses.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "registers by their names")]
        pub struct TaskRegisters {
            $(pub $field: u64,)*
        }

        impl TaskRegisters {
            /// Fills each register with the value that `value` returns for it.
            ///
            /// # Errors
            /// The first error that `value` returns.
            pub fn try_from_fn<E>(
                mut value: impl FnMut(Register) -> Result<u64, E>,
            ) -> Result<Self, E> {
                Ok(Self { $($field: value(Register::$register)?,)* })
            }

            /// The value of a register; `None` for one that a function call may change.
            pub fn get(&self, register: Register) -> Option<u64> {
                match register {
                    $(Register::$register => Some(self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

task_registers! { rip Rip rsp Rsp rbp Rbp rbx Rbx r12 R12 r13 R13 r14 R14 r15 R15 }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_found_by_its_name() {
        // Each field holds its own DWARF number, psABI figure 3.36.
        let registers = Registers {
            rax: 0,
            rdx: 1,
            rcx: 2,
            rbx: 3,
            rsi: 4,
            rdi: 5,
            rbp: 6,
            rsp: 7,
            r8: 8,
            r9: 9,
            r10: 10,
            r11: 11,
            r12: 12,
            r13: 13,
            r14: 14,
            r15: 15,
            rip: 16,
            ..Registers::default()
        };
        for (number, register) in (0..).zip(Register::ALL) {
            assert_eq!(registers.get(register), number, "{register}");
        }
    }

    #[test]
    fn a_sleeping_task_keeps_what_its_callee_must_preserve() {
        let task = TaskRegisters::try_from_fn(|register| Ok::<_, ()>(register as u64)).unwrap();
        for register in Register::ALL {
            let kept =
                register.is_callee_saved() || matches!(register, Register::Rip | Register::Rsp);
            assert_eq!(task.get(register), kept.then_some(register as u64), "{register}");
        }
    }
}
