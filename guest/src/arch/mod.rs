//! The machines that the kernel runs on: one.

pub mod x86_64;
