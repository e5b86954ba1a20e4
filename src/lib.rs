//! nmiscope reports why a VM hung, from outside the guest.
//!
//! A trigger (`hang`, a signal, a timer) makes `session` stop a VM; `capture` sends every vCPU an NMI and
//! stores the answers as plain data; `diagnosis` turns addresses into frames, with the image's debug
//! information; the crate `nmiscope_report` has the result, as structs that are the JSON and that the text
//! is made from. Without the feature `kvm` only stored guests are reported: no VM is started, and no guest
//! is part of the program. ARCHITECTURE.md describes a run from start to end and maps the code.

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
pub mod signals;
#[cfg_attr(not(feature = "kvm"), expect(dead_code, reason = "only a run has a status line"))]
mod status_line;
pub mod symbolize;
pub mod targets;

pub use errors::error_chain;
