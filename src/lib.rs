//! nmiscope says why a VM hung, from outside.
//!
//! A trigger (`hang`, a signal, a timer) makes `session` stop a VM; `capture` has every vCPU answer
//! an NMI and takes what they say as plain data; `diagnosis` makes frames of it, with the image's
//! debug information; `report` is the result, as structs that are the JSON and that the text is made
//! from. ARCHITECTURE.md tells the story and maps the code.

mod atomic_file;
pub mod bundled;
pub mod capture;
pub mod cli;
pub mod corpus;
pub mod destination;
pub mod diagnosis;
pub mod elf_core;
pub mod errors;
pub mod farm;
pub mod hang;
pub mod hang_after;
pub mod images;
pub mod kernel;
pub mod nearest;
pub mod report;
pub mod session;
mod signals;
pub mod symbolize;
pub mod targets;
pub mod triage;
pub mod units;

pub use errors::error_chain;
