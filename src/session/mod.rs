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
//! | `console`, `terminal`, `piped_input` | the guest's console, the user's keys, and other standard input |
//! | `sign_of_life` | the status line, and the detector's view in words |
//! | `record` | hangs, backtraces and the core, until the report has them |
//! | `offline` | a report from a core of ours |
//! | `dump` | a report from a dump of another program |
//! | `attach` | a report of a VM that somebody else's QEMU runs |
//! | `origin` | the time and the host of a capture |
//! | `visit` | what a dump and such a VM have in common |
//! | `guest_image`, `kernel_files` | the images of such a guest, and of the parts of a kernel in its memory |

pub mod attach;
#[cfg(feature = "kvm")]
mod console;
mod dump;
#[cfg(feature = "kvm")]
mod guest;
mod guest_image;
mod kernel_files;
#[cfg(feature = "kvm")]
mod live;
mod observe;
pub mod offline;
#[cfg(feature = "kvm")]
mod options;
pub mod origin;
#[cfg(feature = "kvm")]
mod piped_input;
#[cfg(feature = "kvm")]
mod record;
#[cfg(feature = "kvm")]
mod sign_of_life;
mod stack_choice;
#[cfg(feature = "kvm")]
mod terminal;
pub mod visit;
#[cfg(feature = "kvm")]
mod wake;
#[cfg(feature = "kvm")]
mod watch;

#[cfg(feature = "kvm")]
pub use console::{Sink, TextStream};
#[cfg(feature = "kvm")]
pub use live::{longest_ending, run};
#[cfg(feature = "kvm")]
pub use options::{Ended, GeneralBound, Policy, RunEvent, RunOptions};
pub use stack_choice::{StackChoice, TaskChoice};

/// Stack size of a session's helper threads, in bytes. The usual two megabytes can become a huge page
/// at the first touch, which the host has to clear and counts as used.
#[cfg(feature = "kvm")]
const STACK: usize = 256 << 10;
