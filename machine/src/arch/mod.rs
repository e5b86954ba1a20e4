//! What depends on the processor that the guest believes it has, a folder for each.

pub mod x86_64;
