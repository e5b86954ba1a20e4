//! Stacks worked out by hand: what lies on them and what calls what is written beside each, from
//! what the instructions of the functions would have done.

#[path = "../common/cfi.rs"]
mod cfi;
#[path = "../common/elf.rs"]
mod elf;

mod callers;
mod ends;
mod stacks;
mod tables;
