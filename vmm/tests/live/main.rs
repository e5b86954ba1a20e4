//! Live tests: guests of a few instructions on the host's real /dev/kvm.
//!
//! Without a usable /dev/kvm they fail and say so; they are never skipped.

mod config;
mod nmi;
mod outcomes;
mod serial;
mod stop;
mod support;
mod watch;
