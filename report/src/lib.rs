//! Reports of hung VMs: the types, their JSON with its schema (docs/report.schema.json), and their text.
//!
//! Filled by the tool's diagnosis and sessions, read by farms; knows neither KVM nor DWARF, and of the
//! project's crates only the one that shortens names. The text is made from these types and from nothing
//! else ([`text`]). An unknown value is a `null` or a reason, never a guess. Addresses are guest-virtual,
//! as strings of 16 hexadecimal digits: kernels print them so, and JSON numbers cannot hold them. Strings
//! that come from the guest or its image may hold control characters, JSON-escaped; the renderers make them
//! harmless.
//!
//! Owns also how values are written and read by people, on the command line, in a suite and in text
//! ([`units`], [`hang_after`], [`nearest`]), and where output is written ([`destination`]).
//!
//! A program that reads a report:
//!
//! ```
//! # let text = include_bytes!("../tests/former/mutex-deadlock.json");
//! let report = nmiscope_report::json::read(text)?;
//! for hang in &report.hangs {
//!     println!("{}: {}", hang.class, hang.blamed.join(", "));
//! }
//! # assert_eq!(report.hangs[0].class.to_string(), "deadlock");
//! # assert_eq!(report.hangs[0].blamed, ["reader", "writer"]);
//! # Ok::<(), nmiscope_report::json::ReportError>(())
//! ```
//!
//! The modules, lowest first; each uses only those before it:
//!
//! | module | owns |
//! |---|---|
//! | `sanitize`, `nearest`, `units`, `phrase` | harmless text; suggestions for misspelled names; sizes, durations, times and counts; words with tones |
//! | `atomic_file`, `blocking`, `destination` | files that are complete or absent; streams that wait; where output is written |
//! | `class`, `bucket` | kinds of hangs, and the names of hangs |
//! | `frame`, `cpu`, `hang`, `history` | the parts of a report |
//! | `hang_after` | the bound of a class |
//! | `reference` | `symbolize`'s record of one reference in a log |
//! | `report`, `summary` | the report with its backtraces, and its result in one line |
//! | `redact` | reports without what the guest printed or held |
//! | `former` | reports of the former version |
//! | `wait_words` | waits in words |
//! | `wait_graph` | the wait graph of a hang as a picture, as dot, and in words |
//! | `strips` | the last minute of a backtrace's vCPUs, as a picture for a page |
//! | `json`, `text`, `html`, `markdown` | the forms of a report |

#![forbid(unsafe_code)]

pub mod atomic_file;
pub mod blocking;
mod bucket;
mod class;
mod cpu;
pub mod destination;
pub mod former;
mod frame;
mod hang;
pub mod hang_after;
mod history;
pub mod html;
pub mod json;
pub mod markdown;
pub mod nearest;
mod phrase;
pub mod redact;
pub mod reference;
mod report;
pub mod sanitize;
pub mod strips;
pub mod summary;
pub mod text;
pub mod units;
pub mod wait_graph;
mod wait_words;

pub use bucket::bucket;
pub use class::Class;
pub use cpu::{
    Cpu, CpuFinding, CpuState, GuestTrace, HostStack, KernelContext, Nmi, NmiAnswer, PrintedTrace,
    Registers,
};
pub use frame::{Availability, FoundBy, Frame, FrameSymbol, Function, Variable, VariableKind};
pub use hang::{
    ActivityState, Certainty, Evidence, Fact, HandlerKind, Hang, LockKind, NodeKind, OfflineState,
    SourceLine, Spin, SpinWriter, Task, TaskState, WaitEdge, WaitGraph, WaitKind, WaitNode,
    blamed_function,
};
pub use history::{CpuHistory, History, PastNmis, PastSuspicion, Series};
pub use nmiscope_names::short_name;
pub use report::{
    Backtrace, BufferReservation, CrashCause, GuestImage, GuestKernel, KernelLog, LogLine, Machine,
    MemorySource, Outcome, Report, SCHEMA_VERSION, Source, Tool, Trigger, UNKNOWN_HOST, Visit,
};
