//! Core files: what goes in comes out, other programs read the same, and nothing that can be in a
//! file makes reading it fail in any other way than with an error.

mod damage;
mod file;
mod programs;
mod properties;
mod round_trip;
mod support;
