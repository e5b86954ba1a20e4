//! The registers of one frame, as far as they are known.
//!
//! Owns what is known and what is not; owns no unwinding. A vCPU's or a sleeping task's registers
//! become those of its innermost frame here; the unwinder makes one for each caller, and DWARF
//! expressions read from it.

use std::fmt;

use super::register::Register;
use super::registers::{Registers, TaskRegisters};
use crate::address::VirtualAddress;

/// Values of the general registers and RIP in one frame. All of an interrupted frame's can be known;
/// a caller has those that its callee saved or left alone.
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

/// All of a vCPU's.
impl From<&Registers> for UnwindRegisters {
    fn from(registers: &Registers) -> Self {
        let value = |register| (register, registers.get(register));
        Register::ALL.into_iter().map(value).collect()
    }
}

/// The registers that a switch between tasks preserves; the others are not known.
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
