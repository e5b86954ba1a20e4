//! A farm: many VMs, each in a process of its own, one verdict each, and nothing lost.
//!
//! A suite ([`suite`]) says what to run and what to expect; a plan ([`plan`]) is what of it is run here,
//! and in which order. The runner ([`runner`]) starts as many at a time as the machine has room for
//! (`queue`, [`budget`]), each as `nmiscope run` ([`process`]), says of each whether it went as expected
//! (`examine`, [`judge`]), and tells everything as events ([`event`]). Whoever prints ([`reporters`]), and
//! the journal in the results directory ([`results`]), know nothing but these. [`triage`] groups the
//! reports of any number of farms.
//!
//! Knows reports, and refuses to know what makes them: no KVM, no DWARF, no kernel. What it needs of
//! those comes from its caller, the command line: the program to start, the bundled guest's image, to
//! tell one from another, and which functions of a kernel tell no hang from another.

#![forbid(unsafe_code)]

pub mod budget;
pub mod corpus;
pub mod event;
mod examine;
mod expression;
pub mod filter;
pub mod journal;
pub mod judge;
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
