//! The program as a process: its streams in order, signals, full disks and limits, and the files that it
//! leaves.
//!
//! | module | holds |
//! |---|---|
//! | `console` | the guest's console and the tool's text in one stream |
//! | `output` | errors of standard output, and text from the command line |
//! | `signals` | signals that end the program |
//! | `files` | reports and cores: limits, kills, and earlier files |

mod console;
mod files;
mod output;
mod signals;
