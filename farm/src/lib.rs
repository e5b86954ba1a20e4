//! A farm runs many VMs, each in a process of its own, and records one verdict for each of them.
//!
//! A suite ([`suite`]) lists VMs and how each is expected to end; a plan ([`plan`]) selects and orders
//! those that run on this host. The runner ([`runner`]) starts as many at a time as the host has room for
//! (`queue`, [`budget`]), each as `nmiscope run` ([`process`]), judges each by the files it leaves
//! (`examine`, [`judge`]), and emits everything as events ([`event`]). The reporters ([`reporters`]) and
//! the journal in the results directory ([`results`]) read nothing but these events. [`triage`] groups the
//! reports of any number of farms.
//!
//! The crate reads reports and refuses to know how they are made: no KVM, no DWARF, no kernel. Its caller,
//! the command line, supplies the rest: the program to start, the bundled guest's image (to recognise a
//! changed one), and a test for functions that occur in most hangs and so distinguish none.

#![forbid(unsafe_code)]

pub mod budget;
pub mod corpus;
pub mod event;
mod examine;
mod expression;
pub mod filter;
pub mod journal;
pub mod judge;
pub mod kernel_parameters;
pub mod line;
pub mod lists;
pub mod merge;
pub mod partition;
pub mod plan;
pub mod process;
mod queue;
mod relative_path;
pub mod reporters;
pub mod results;
pub mod runner;
pub mod suite;
mod tail;
pub mod timestamp;
pub mod triage;

pub use relative_path::RejectedPath;
