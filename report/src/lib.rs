//! What nmiscope says, as data. These structs are the JSON schema (docs/report.schema.json), and the
//! text is made from them and from nothing else ([`text`]).
//!
//! Filled by the tool's diagnosis and sessions, read by farms; knows neither KVM nor DWARF, nor any
//! other crate of ours but the one that shortens names. An unknown is a `null` or a
//! reason, never a guess. Addresses are guest-virtual, as strings of 16 hexadecimal digits, which is
//! how kernels print them and what JSON numbers cannot hold. Strings that come from the guest or its
//! image may hold control characters, JSON-escaped; the renderers make them harmless.
//!
//! Owns also how a value is written and read wherever people do that, on the command line, in a suite
//! or in a text ([`units`], [`hang_after`], [`nearest`]), and where output goes ([`destination`]).
//!
//! The modules, lowest first; each uses only those before it:
//!
//! | module | owns |
//! |---|---|
//! | `sanitize`, `nearest`, `units` | harmless text; the word that was meant; sizes, durations and counts |
//! | `atomic_file`, `destination` | files that are there whole or not at all; where output goes |
//! | `class`, `frame`, `cpu`, `hang` | the parts of a report |
//! | `hang_after` | the bound of a class |
//! | `reference` | the answer about one place of a log |
//! | `report` | the report, and the backtraces in it |
//! | `json`, `text` | its forms |

#![forbid(unsafe_code)]

pub mod atomic_file;
mod class;
mod cpu;
pub mod destination;
mod frame;
mod hang;
pub mod hang_after;
pub mod json;
pub mod nearest;
pub mod reference;
mod report;
pub mod sanitize;
pub mod text;
pub mod units;

pub use class::Class;
pub use cpu::{Cpu, CpuFinding, CpuState, GuestTrace, HostStack, Nmi, NmiAnswer, Registers};
pub use frame::{Availability, FoundBy, Frame, Function, SymbolOffset, Variable, VariableKind};
pub use hang::{
    Certainty, CpuActivity, Evidence, Fact, Hang, LockKind, NodeKind, SourceLine, Task, TaskState,
    WaitEdge, WaitGraph, WaitKind, WaitNode, blamed_function,
};
pub use nmiscope_names::short_name;
pub use report::{
    Backtrace, BufferReservation, CrashCause, GuestImage, GuestKernel, KernelLog, LogLine, Machine,
    Outcome, Report, SCHEMA_VERSION, Source, Tool, Trigger, Visit,
};
