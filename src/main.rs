//! The program `nmiscope`; all of its code is in the library.

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    nmiscope::cli::main(Instant::now())
}
