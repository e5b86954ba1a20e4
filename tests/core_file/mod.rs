//! Tests of core files: a core is read as it was written, other programs read the same, and no contents of
//! a file make reading it fail except with an error.

mod damage;
mod file;
mod programs;
mod properties;
mod round_trip;
mod support;
