//! Stacks worked out by hand: the comment beside each lists its words and calls, as the instructions of the
//! functions would have left them.

#[path = "../common/cfi.rs"]
mod cfi;
#[path = "../common/elf.rs"]
mod elf;

mod callers;
mod ends;
mod stacks;
mod tables;
