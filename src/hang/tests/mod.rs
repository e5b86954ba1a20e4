//! The rules, each with a guest in miniature: a healthy one, and what is different about this one.

mod boot_and_panic;
mod looking;
mod moment;
mod scene;
mod standing_still;
mod unknown_kernel;
mod waiting;
