//! The registers of one frame, as far as they are known.
//!
//! Owns the numbering: that of DWARF for x86-64 (System V psABI, figure 3.36), which CFI and
//! location descriptions speak. Owns no unwinding. Callers fill one from KVM or a core; `unwind`
//! makes one for each caller; `expression` reads from it.

use std::fmt;

use crate::address::VirtualAddress;

/// A general register or RIP. The number of each is its DWARF register number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is named after the register that it is")]
pub enum Register {
    Rax = 0,
    Rdx = 1,
    Rcx = 2,
    Rbx = 3,
    Rsi = 4,
    Rdi = 5,
    Rbp = 6,
    Rsp = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
    /// DWARF calls it the return address column.
    Rip = 16,
}

impl Register {
    /// All of them, in the order of their DWARF numbers.
    pub const ALL: [Self; 17] = [
        Self::Rax,
        Self::Rdx,
        Self::Rcx,
        Self::Rbx,
        Self::Rsi,
        Self::Rdi,
        Self::Rbp,
        Self::Rsp,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
        Self::Rip,
    ];

    /// The register with that DWARF number; `None` for those that are not kept, such as vector
    /// registers.
    pub fn from_dwarf(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether a function must return it as it was (psABI, figure 3.4).
    pub(crate) fn is_callee_saved(self) -> bool {
        use Register::{R12, R13, R14, R15, Rbp, Rbx};
        matches!(self, Rbx | Rbp | R12 | R13 | R14 | R15)
    }
}

/// In lower case, as assemblers and kernels write it.
impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// Values of the general registers and RIP in one frame. Of an interrupted frame all can be known;
/// of a caller, what its callee saved or left alone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct UnwindRegisters {
    /// 0 where the register is not known.
    values: [u64; Register::ALL.len()],
    /// One bit for each register.
    known: u32,
}

impl UnwindRegisters {
    /// Only where the code is and where its stack is; the rest unknown until it is
    /// [`set`](Self::set).
    pub fn new(rip: VirtualAddress, rsp: VirtualAddress) -> Self {
        let mut registers = Self::default();
        registers.set(Register::Rip, rip.0);
        registers.set(Register::Rsp, rsp.0);
        registers
    }

    /// The value of a register; `None` if it is not known.
    pub fn get(&self, register: Register) -> Option<u64> {
        let index = register as usize;
        (self.known & 1 << index != 0).then(|| self.values[index])
    }

    /// Makes a value known.
    pub fn set(&mut self, register: Register, value: u64) {
        let index = register as usize;
        self.values[index] = value;
        self.known |= 1 << index;
    }

    /// Known registers with their values, in the order of their DWARF numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Register, u64)> + '_ {
        Register::ALL.into_iter().filter_map(|register| Some((register, self.get(register)?)))
    }
}

impl FromIterator<(Register, u64)> for UnwindRegisters {
    fn from_iter<I: IntoIterator<Item = (Register, u64)>>(values: I) -> Self {
        let mut registers = Self::default();
        for (register, value) in values {
            registers.set(register, value);
        }
        registers
    }
}

impl fmt::Debug for UnwindRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (register, value) in self.iter() {
            map.entry(&format_args!("{register}"), &format_args!("{value:#x}"));
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_gimli_has_for_x86_64() {
        for register in Register::ALL {
            let number = gimli::Register(register as u16);
            assert_eq!(Register::from_dwarf(number.0), Some(register));
            let name = match register {
                Register::Rip => "RA".to_owned(),
                other => other.to_string(),
            };
            assert_eq!(gimli::X86_64::name_to_register(&name), Some(number), "{name}");
        }
        assert_eq!(Register::from_dwarf(17), None);
    }

    #[test]
    fn what_was_not_set_is_not_known() {
        let registers = UnwindRegisters::new(VirtualAddress(1), VirtualAddress(2));
        assert_eq!(registers.get(Register::Rbp), None);
        assert_eq!(registers.iter().collect::<Vec<_>>(), [(Register::Rsp, 2), (Register::Rip, 1)]);
        assert_eq!(format!("{registers:?}"), "{rsp: 0x2, rip: 0x1}");
    }
}
