//! The guest's address spaces as types.
//!
//! Owns no arithmetic beyond checked addition, and does not know how one space maps to another:
//! that is the architecture's page walk. Every crate names addresses with these.

use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `offset` bytes above, or `None` past the end of the space.
            pub fn checked_add(self, offset: u64) -> Option<Self> {
                self.0.checked_add(offset).map(Self)
            }

            /// The address `offset` bytes below, or `None` below zero.
            pub fn checked_sub(self, offset: u64) -> Option<Self> {
                self.0.checked_sub(offset).map(Self)
            }

            /// The address `offset` bytes above, modulo 2^64: for offsets that are themselves wrapped
            /// differences, as Linux's `__per_cpu_offset` can be.
            pub fn wrapping_add(self, offset: u64) -> Self {
                Self(self.0.wrapping_add(offset))
            }

            /// The number of bytes from `base` up to this address, or `None` if it is below `base`.
            pub fn offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:016x})"), self.0)
            }
        }

        impl From<u64> for $name {
            fn from(raw: u64) -> Self {
                Self(raw)
            }
        }

        impl From<$name> for u64 {
            fn from(address: $name) -> Self {
                address.0
            }
        }
    };
}

address! {
    /// A guest-virtual (linear) address. Shown as 16 hexadecimal digits without a prefix, as
    /// kernels print them: `ffffffff80001234`.
    VirtualAddress
}

address! {
    /// A guest-physical address. Shown as 16 hexadecimal digits without a prefix.
    PhysicalAddress
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_kernels_print_them() {
        assert_eq!(VirtualAddress(0xffff_ffff_8000_1234).to_string(), "ffffffff80001234");
        assert_eq!(PhysicalAddress(0x1000).to_string(), "0000000000001000");
    }
}
