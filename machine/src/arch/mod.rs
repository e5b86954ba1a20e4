//! Processor architectures of guests, a folder for each.

pub mod x86_64;
