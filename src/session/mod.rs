//! A session with one VM, live or from a file: the order in which everything else is called.
//!
//! A live session starts a VM, watches it, takes backtraces on request and of hangs, and ends with a
//! report; an offline one makes the report from a file. Refuses to print: a live session reports its
//! progress as `RunEvent`s to its caller, the CLI. A farm starts one process for each VM. Without the
//! feature `kvm` only `offline`, `dump` and `attach` exist.
//!
//! | module | owns |
//! |---|---|
//! | `options` | a run's options, events and results |
//! | `live` | a VM that this process starts, from its start to its report |
//! | `watch` | the times at which a running guest is observed, and the hang detector |
//! | `wake` | the channel of VM events, signals and keys that a session waits on |
//! | `guest` | the image's files and the kernel in them |
//! | `console`, `terminal` | the guest's console, and the user's terminal |
//! | `record` | hangs, backtraces and the core, until the report is made |
//! | `offline` | the report from a core that this program wrote |
//! | `dump` | the report from a dump that another program wrote |
//! | `attach` | the report of a VM in a QEMU that another program started |
//! | `visit`, `which_image` | the steps that a dump and an attached VM share |

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
pub use options::{Ended, Policy, RunEvent, RunOptions};

/// Stack size of a session's helper threads, in bytes. The usual two megabytes can become a huge page
/// at the first touch, which the host has to clear and counts as used.
#[cfg(feature = "kvm")]
const STACK: usize = 256 << 10;
