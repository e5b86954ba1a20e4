//! Tests of the rules: each changes one thing in a healthy guest in miniature.

mod boot_and_panic;
mod moment;
mod polling;
mod progress;
mod scene;
mod sleepers;
mod together;
mod unknown_kernel;
mod waits;
