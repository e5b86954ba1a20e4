//! One run of one VM, live or from a file: the order in which everything else is called.
//!
//! A live session starts a VM, watches it, takes backtraces when something asks for one, and ends with a
//! report; an offline one makes the report from a file. What a session learns it tells through
//! `Event`, to whoever prints; it prints nothing itself. Called by the CLI. A farm starts a process
//! for each VM. Without the feature `kvm` there are `offline`, `dump` and `attach`.
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
//! | `attach` | a report of a VM that somebody else's QEMU runs |
//! | `origin` | the time and the host of a capture |
//! | `visit`, `which_image` | what a dump and such a VM have in common |

pub mod attach;
#[cfg(feature = "kvm")]
mod console;
mod dump;
#[cfg(feature = "kvm")]
mod guest;
#[cfg(feature = "kvm")]
mod live;
mod observe;
pub mod offline;
#[cfg(feature = "kvm")]
mod options;
pub mod origin;
#[cfg(feature = "kvm")]
mod record;
#[cfg(feature = "kvm")]
mod terminal;
pub mod visit;
#[cfg(feature = "kvm")]
mod wake;
#[cfg(feature = "kvm")]
mod watch;
mod which_image;

#[cfg(feature = "kvm")]
pub use console::Sink;
#[cfg(feature = "kvm")]
pub use live::run;
#[cfg(feature = "kvm")]
pub use options::{Ended, Event, Options, Policy};

/// Of the small threads beside the session's own. Two megabytes, as is usual, can become a huge page
/// at the first touch, which has to be cleared, and counts as used.
#[cfg(feature = "kvm")]
const STACK: usize = 256 << 10;
