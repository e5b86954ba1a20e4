//! Tables of Linux kernels, made by hand as the kernel's build makes them.

mod linux {
    mod btf;
    mod kallsyms;
    mod orc;
    mod unwind;
}
