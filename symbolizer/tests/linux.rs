//! Tables of Linux kernels, made by hand as the kernel's build makes them, and stacks.

#[path = "common/cfi.rs"]
mod cfi;
#[path = "common/elf.rs"]
mod elf;

mod linux {
    mod btf;
    mod frame_pointer;
    mod kallsyms;
    mod orc;
    mod unwind;
}
