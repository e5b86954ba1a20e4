//! The difference between an interrupted and a returning program counter.
//!
//! Owns the choice of the address that is looked up for a frame; owns no lookup. Called by `image`,
//! `unwind` and every caller that has a frame's address.

use nmiscope_machine::VirtualAddress;

/// The program counter of a frame, with its meaning.
///
/// The variant is a property of the frame and not of its place in the stack: the frame that an interrupt,
/// exception or NMI interrupted is [`Interrupted`] wherever it lies.
///
/// [`Interrupted`]: ProgramCounter::Interrupted
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgramCounter {
    /// The instruction that was about to run, or that faulted.
    Interrupted(VirtualAddress),
    /// A return address: the instruction after a call. If the call was the last instruction of its
    /// function, this address already belongs to the next one.
    Return(VirtualAddress),
}

impl ProgramCounter {
    /// The address as the register or the stack held it, guest-virtual.
    pub fn address(self) -> VirtualAddress {
        match self {
            Self::Interrupted(address) | Self::Return(address) => address,
        }
    }

    /// The address to look up: for a return address, the last byte of the call before it.
    pub fn lookup_address(self) -> VirtualAddress {
        match self {
            Self::Interrupted(address) => address,
            Self::Return(address) => VirtualAddress(address.0.saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_address_is_looked_up_inside_its_call() {
        let address = VirtualAddress(0x1000);
        assert_eq!(ProgramCounter::Return(address).lookup_address().0, 0xfff);
        assert_eq!(ProgramCounter::Interrupted(address).lookup_address().0, 0x1000);
        assert_eq!(ProgramCounter::Return(VirtualAddress(0)).lookup_address().0, 0);
    }
}
