//! One run of one VM, live or from a file: the order in which everything else is called.
//!
//! A live session starts a VM, watches it, takes backtraces when something asks for one, and ends with a
//! report; an offline one makes the report from a file. What a session learns it tells through
//! [`Event`], to whoever prints; it prints nothing itself. Called by the CLI. A farm starts a process
//! for each VM.
//!
//! | module | owns |
//! |---|---|
//! | `options` | what is asked for, told and left |
//! | `live` | a VM of ours, from its start to its report |
//! | `watch` | observing it, and the detector |
//! | `wake` | everything that a session waits for |
//! | `guest` | the image's files and the kernel in them |
//! | `console`, `terminal` | the guest's console, and the user's keys |
//! | `record` | hangs, backtraces and the core, until the report has them |
//! | `offline` | a report from a core of ours |
//! | `dump` | a report from a dump of another program |

mod console;
mod dump;
mod guest;
mod live;
pub mod offline;
mod options;
mod record;
mod terminal;
mod wake;
mod watch;

pub use console::Sink;
pub use live::run;
pub use options::{Ended, Event, Options, Policy};

/// Of the small threads beside the session's own. Two megabytes, as is usual, can become a huge page
/// at the first touch, which has to be cleared, and counts as used.
const STACK: usize = 256 << 10;
