//! The program as a user runs it, and what it is made of where that takes a VM or a file of this tree.
//!
//! One program, a module for each subject: tests of all of them overlap, where programs would run one after
//! the other, and one program is linked instead of twenty-five.
//!
//! Those that need a program which a fresh machine lacks are ignored (`just test-ignored`). Modules
//! that run on a standard KVM too are listed in tests/nested/run.sh.

mod accuracy;
mod arguments;
mod attach;
mod bad_input;
mod browser;
mod capture;
mod cli;
mod common;
mod core_file;
mod deploy;
mod documents;
mod dump;
mod farm;
mod foreign_guest;
mod gdb;
mod guest_image;
mod history;
mod hostile_detector;
mod hostile_guest;
mod hostile_symbols;
mod linux_guest;
mod live;
mod moved_kernel;
mod names;
mod offline;
mod page;
mod qemu;
mod random_moments;
mod redact;
mod report;
mod schema;
mod second_kernel;
mod sign_of_life;
mod signatures;
mod stepping;
mod stored_target;
mod streams;
mod symbolize;
mod tasks;
mod terminal;
mod triage;
mod triage_page;
mod unrecognised;
mod verdicts;
