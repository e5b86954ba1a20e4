//! The names and numbers of the general registers.
//!
//! Owns the DWARF numbering for x86-64 (System V psABI, figure 3.36), which call frame information and
//! location descriptions use. Owns no values.

use std::fmt;

/// A general register or RIP; its discriminant is its DWARF register number.
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
    /// The instruction pointer, which DWARF calls the return address column.
    Rip = 16,
}

impl Register {
    /// All registers, in the order of their DWARF numbers.
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

    /// The register with a DWARF number; `None` for a register that is not kept, such as a vector register.
    pub fn from_dwarf(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// True for a register whose value a function must preserve (psABI, figure 3.4).
    pub fn is_callee_saved(self) -> bool {
        use Register::{R12, R13, R14, R15, Rbp, Rbx};
        matches!(self, Rbx | Rbp | R12 | R13 | R14 | R15)
    }
}

/// Writes the name in lower case, as assemblers and kernels do.
impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
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
}
