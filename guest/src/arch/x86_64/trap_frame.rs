//! Registers of interrupted code, as a trap leaves them on the stack, and their text form.
//!
//! Owns the layout that `entry.S` pushes; refuses to own the reaction to a trap. Read by the trap
//! handlers (`trap`, `nmi`) and by `stack_trace`.

use core::fmt;

use super::memory::CpuStack;

/// Registers of the interrupted code, as the stubs in `entry.S` leave them on the stack.
#[repr(C)]
#[allow(missing_docs, reason = "registers by their names")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl TrapFrame {
    /// Returns the frame at the top of an interrupt stack in use.
    ///
    /// # Safety
    /// A trap has entered on that stack of this CPU, and has not returned.
    pub unsafe fn at_top_of(stack: CpuStack, cpu: usize) -> &'static Self {
        let (_, top) = stack.bounds(cpu);
        // SAFETY: the caller's: the stubs put it just there, and it stays until the trap returns.
        unsafe { &*((top as usize - size_of::<Self>()) as *const Self) }
    }
}

/// A number that is displayed as sixteen hexadecimal digits, written in one piece. `{:016x}` would take
/// several calls for each number, and a backtrace is mostly such numbers.
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 16];
        for (index, digit) in digits.iter_mut().enumerate() {
            let nibble = (self.0 >> (60 - 4 * index)) as u8 & 0xf;
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        }
        f.write_str(str::from_utf8(&digits).unwrap_or_default())
    }
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registers = [
            ("RSP: ", self.rsp),
            (" RBP: ", self.rbp),
            (" RAX: ", self.rax),
            ("\nRBX: ", self.rbx),
            (" RCX: ", self.rcx),
            (" RDX: ", self.rdx),
            ("\nRSI: ", self.rsi),
            (" RDI: ", self.rdi),
            (" R08: ", self.r8),
            ("\nR09: ", self.r9),
            (" R10: ", self.r10),
            (" R11: ", self.r11),
            ("\nR12: ", self.r12),
            (" R13: ", self.r13),
            (" R14: ", self.r14),
            ("\nR15: ", self.r15),
        ];
        writeln!(f, "RIP: {:04x}:[<{}>] RFLAGS: {:08x}", self.cs, Hex(self.rip), self.rflags)?;
        for (name, value) in registers {
            f.write_str(name)?;
            Hex(value).fmt(f)?;
        }
        Ok(())
    }
}
