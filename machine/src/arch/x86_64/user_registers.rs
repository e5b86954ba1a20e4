//! General registers in the order of Linux's cores.
//!
//! Owns the order and the conversion; refuses to own the note around it, which is the core file's.

use super::registers::{Registers, Segment};

macro_rules! registers {
    ($($name:ident)*) => {
        /// A vCPU's registers in the order of `struct user_regs_struct` of x86-64 Linux (asm/user_64.h).
        /// Segments are selectors.
        #[allow(missing_docs, reason = "registers, named as the SDM names them")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct UserRegisters {
            $(pub $name: u64,)*
        }

        impl UserRegisters {
            /// The number of registers, each a 64-bit word.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            /// The registers as words, in the order of the structure.
            pub fn to_words(self) -> [u64; Self::COUNT] {
                [$(self.$name),*]
            }

            /// Makes the registers from words in the order of the structure.
            pub fn from_words(words: [u64; Self::COUNT]) -> Self {
                let [$($name),*] = words;
                Self { $($name),* }
            }
        }
    };
}

registers! {
    r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss
    fs_base gs_base ds es fs gs
}

/// Sets `orig_rax` to all ones: gdb takes anything else for a system call. Only the bases of FS and GS are
/// kept; the other segments' are 0 in long mode.
impl From<&Registers> for UserRegisters {
    fn from(registers: &Registers) -> Self {
        Self {
            r15: registers.r15,
            r14: registers.r14,
            r13: registers.r13,
            r12: registers.r12,
            rbp: registers.rbp,
            rbx: registers.rbx,
            r11: registers.r11,
            r10: registers.r10,
            r9: registers.r9,
            r8: registers.r8,
            rax: registers.rax,
            rcx: registers.rcx,
            rdx: registers.rdx,
            rsi: registers.rsi,
            rdi: registers.rdi,
            orig_rax: u64::MAX,
            rip: registers.rip,
            cs: registers.cs.selector.into(),
            eflags: registers.rflags,
            rsp: registers.rsp,
            ss: registers.ss.selector.into(),
            fs_base: registers.fs.base,
            gs_base: registers.gs.base,
            ds: registers.ds.selector.into(),
            es: registers.es.selector.into(),
            fs: registers.fs.selector.into(),
            gs: registers.gs.selector.into(),
        }
    }
}

/// Marks the control registers as not recorded. The privilege level is that of CS's selector.
impl From<&UserRegisters> for Registers {
    fn from(registers: &UserRegisters) -> Self {
        let segment = |selector: u64, base| Segment { selector: selector as u16, base };
        Self {
            rax: registers.rax,
            rbx: registers.rbx,
            rcx: registers.rcx,
            rdx: registers.rdx,
            rsi: registers.rsi,
            rdi: registers.rdi,
            rsp: registers.rsp,
            rbp: registers.rbp,
            r8: registers.r8,
            r9: registers.r9,
            r10: registers.r10,
            r11: registers.r11,
            r12: registers.r12,
            r13: registers.r13,
            r14: registers.r14,
            r15: registers.r15,
            rip: registers.rip,
            rflags: registers.eflags,
            cs: segment(registers.cs, 0),
            ss: segment(registers.ss, 0),
            ds: segment(registers.ds, 0),
            es: segment(registers.es, 0),
            fs: segment(registers.fs, registers.fs_base),
            gs: segment(registers.gs, registers.gs_base),
            cpl: (registers.cs & 3) as u8,
            control_unrecorded: true,
            ..Self::default()
        }
    }
}
