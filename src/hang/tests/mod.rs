//! The rules, each with a guest in miniature: a healthy one, and what is different about this one.

mod boot_and_panic;
mod moment;
mod polling;
mod progress;
mod scene;
mod unknown_kernel;
mod waits;
