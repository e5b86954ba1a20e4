//! nmiscope says why a VM hung, from outside.
//!
//! A trigger (`hang`, a signal, a timer) makes `session` stop a VM; `capture` has every vCPU answer
//! an NMI and takes what they say as plain data; `diagnosis` makes frames of it, with the image's
//! debug information; `report` is the result, as structs that are the JSON and that the text is made
//! from. Without the feature `kvm` there are only stored moments: no VM is started, and no guest is
//! part of the program. ARCHITECTURE.md tells the story and maps the code.

pub mod bundled;
pub mod capture;
pub mod cli;
pub mod diagnosis;
pub mod elf_core;
pub mod errors;
pub mod hang;
pub mod images;
pub mod kernel;
pub mod session;
#[cfg(feature = "kvm")]
mod signals;
pub mod symbolize;
pub mod targets;

pub use errors::error_chain;
