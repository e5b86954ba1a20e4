//! General registers in the order in which Linux's cores have them.
//!
//! Owns the order and the conversion; refuses to own the note around it, which is the core file's.

use super::registers::{Registers, Segment};

macro_rules! registers {
    ($($name:ident)*) => {
        /// A vCPU's registers, as `struct user_regs_struct` of x86-64 Linux (asm/user_64.h) has
        /// them, and in that order. Segments are selectors.
        #[allow(missing_docs, reason = "registers, named as the SDM names them")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct UserRegisters {
            $(pub $name: u64,)*
        }

        impl UserRegisters {
            /// The number of registers, and so of 64-bit words.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            /// The registers as words, in the order of the structure.
            pub fn to_words(self) -> [u64; Self::COUNT] {
                [$(self.$name),*]
            }

            /// The registers that such words are.
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

/// `orig_rax` is all ones: gdb takes anything else for a system call. Of the segments' bases only
/// those of FS and GS are kept; the others are 0 in long mode.
impl From<&Registers> for UserRegisters {
    fn from(of: &Registers) -> Self {
        Self {
            r15: of.r15,
            r14: of.r14,
            r13: of.r13,
            r12: of.r12,
            rbp: of.rbp,
            rbx: of.rbx,
            r11: of.r11,
            r10: of.r10,
            r9: of.r9,
            r8: of.r8,
            rax: of.rax,
            rcx: of.rcx,
            rdx: of.rdx,
            rsi: of.rsi,
            rdi: of.rdi,
            orig_rax: u64::MAX,
            rip: of.rip,
            cs: of.cs.selector.into(),
            eflags: of.rflags,
            rsp: of.rsp,
            ss: of.ss.selector.into(),
            fs_base: of.fs.base,
            gs_base: of.gs.base,
            ds: of.ds.selector.into(),
            es: of.es.selector.into(),
            fs: of.fs.selector.into(),
            gs: of.gs.selector.into(),
        }
    }
}

/// The control registers are not recorded. The privilege level is that of CS's selector.
impl From<&UserRegisters> for Registers {
    fn from(of: &UserRegisters) -> Self {
        let segment = |selector: u64, base| Segment { selector: selector as u16, base };
        Self {
            rax: of.rax,
            rbx: of.rbx,
            rcx: of.rcx,
            rdx: of.rdx,
            rsi: of.rsi,
            rdi: of.rdi,
            rsp: of.rsp,
            rbp: of.rbp,
            r8: of.r8,
            r9: of.r9,
            r10: of.r10,
            r11: of.r11,
            r12: of.r12,
            r13: of.r13,
            r14: of.r14,
            r15: of.r15,
            rip: of.rip,
            rflags: of.eflags,
            cs: segment(of.cs, 0),
            ss: segment(of.ss, 0),
            ds: segment(of.ds, 0),
            es: segment(of.es, 0),
            fs: segment(of.fs, of.fs_base),
            gs: segment(of.gs, of.gs_base),
            cpl: (of.cs & 3) as u8,
            control_unrecorded: true,
            ..Self::default()
        }
    }
}
