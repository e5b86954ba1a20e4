//! The registers of one frame, as far as they are known.
//!
//! Owns which values are known; owns no unwinding. A vCPU's or a sleeping task's registers become the
//! registers of its innermost frame here; the unwinder makes a set for each caller, and DWARF expressions
//! read from it.

use std::fmt;

use super::register::Register;
use super::registers::{Registers, TaskRegisters};
use crate::address::VirtualAddress;

/// Values of the general registers and RIP in one frame. An interrupted frame can have all of them; a
/// caller has the ones that its callee saved or left alone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct UnwindRegisters {
    /// Values by DWARF register number; 0 where the register is not known.
    values: [u64; Register::ALL.len()],
    /// Known registers, one bit each, by DWARF register number.
    known: u32,
}

impl UnwindRegisters {
    /// Makes a set with RIP and RSP alone; the other registers are unknown until they are
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

    /// Sets the value of a register, which is known from then on.
    pub fn set(&mut self, register: Register, value: u64) {
        let index = register as usize;
        self.values[index] = value;
        self.known |= 1 << index;
    }

    /// The known registers with their values, in the order of their DWARF numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Register, u64)> + '_ {
        Register::ALL.into_iter().filter_map(|register| Some((register, self.get(register)?)))
    }
}

/// Takes all registers of a vCPU.
impl From<&Registers> for UnwindRegisters {
    fn from(registers: &Registers) -> Self {
        let value = |register| (register, registers.get(register));
        Register::ALL.into_iter().map(value).collect()
    }
}

/// Takes the registers that a switch between tasks preserves; the others are not known.
impl From<&TaskRegisters> for UnwindRegisters {
    fn from(registers: &TaskRegisters) -> Self {
        let value = |register| Some((register, registers.get(register)?));
        Register::ALL.into_iter().filter_map(value).collect()
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
    fn a_register_that_was_not_set_is_unknown() {
        let registers = UnwindRegisters::new(VirtualAddress(1), VirtualAddress(2));
        assert_eq!(registers.get(Register::Rbp), None);
        assert_eq!(registers.iter().collect::<Vec<_>>(), [(Register::Rsp, 2), (Register::Rip, 1)]);
        assert_eq!(format!("{registers:?}"), "{rsp: 0x2, rip: 0x1}");
    }
}
