//! The program's exit codes, as documented in `--help`. They are part of the interface, as the JSON is.
//!
//! Owns the numbers and the choice among them; refuses to own verdicts (`hang`, farms). Called by all
//! commands.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;

use nmiscope_farm::event::Status;
use nmiscope_report::destination::Placed;
use nmiscope_report::{Hang, Outcome, Report};
#[cfg(feature = "kvm")]
use nmiscope_vmm as vmm;

use super::output;
use crate::errors::BadRequest;

/// A documented exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u8);

/// Success: the guest exited with code 0, or the run was stopped as requested.
pub const CLEAN: Code = Code(0);
/// Guest failure: it exited with a code other than 0, or not within its time limit.
pub const GUEST_FAILED: Code = Code(1);
/// Failed lookup: `symbolize` found none of its addresses in the image, which is most likely the wrong one.
pub const NOTHING_FOUND: Code = Code(1);
/// Usage error: the command line, or a file it names, cannot be used, and no guest has run.
pub const USAGE: Code = Code(2);
/// Hang: the guest has one that is certain or likely.
pub const HANG: Code = Code(3);
/// Crash: the guest's kernel panicked, or a vCPU crashed.
pub const CRASH: Code = Code(4);
/// Failure of the tool or its host: no `/dev/kvm`, no permission, no memory, or no CPU time for the
/// guest.
pub const TOOL_FAILED: Code = Code(5);

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.0)
    }
}

/// Returns the exit code of a run with this report.
pub fn for_report(report: &Report) -> Code {
    let persists = |hang: &Hang| hang.certainty.is_verdict() && hang.resolved_after_ms.is_none();
    let hangs = report.hangs.iter().any(persists);
    match report.outcome {
        // The policy lets a hung guest run on, and it still hung when the run was stopped.
        Outcome::Stopped { .. } if hangs => HANG,
        Outcome::Exit { code: 0 } | Outcome::Stopped { .. } => CLEAN,
        Outcome::Observed { panicking: Some(_), .. } => CRASH,
        Outcome::Observed { .. } if hangs => HANG,
        Outcome::Observed { .. } => CLEAN,
        Outcome::TimedOut { .. } if hangs => HANG,
        Outcome::Exit { .. } | Outcome::TimedOut { .. } => GUEST_FAILED,
        Outcome::Hang => HANG,
        Outcome::Panic { .. } | Outcome::Crash { .. } => CRASH,
        Outcome::Starved { .. } => TOOL_FAILED,
    }
}

/// Returns the exit code of a run or visit whose core may have failed, and prints that error. A verdict
/// takes precedence over it.
pub fn with_core(code: Code, core: anyhow::Result<Option<Placed>>) -> Code {
    match core {
        Ok(_) => code,
        Err(error) => {
            output::error(&error);
            if code == CLEAN { for_error(&error) } else { code }
        }
    }
}

/// Returns the exit code of a farm's run, by the number of VMs with each status: the worst status of a
/// guest; without any, [`TOOL_FAILED`] if a VM got no verdict.
pub fn for_farm(counts: &BTreeMap<Status, u64>, unfinished: bool) -> Code {
    let has = |statuses: &[Status]| statuses.iter().any(|status| counts.contains_key(status));
    if has(&[Status::Crash]) {
        CRASH
    } else if has(&[Status::Hang]) {
        HANG
    } else if has(&[Status::Fail, Status::Timeout]) {
        GUEST_FAILED
    } else if unfinished || has(&[Status::Starved, Status::Broken, Status::Interrupted]) {
        TOOL_FAILED
    } else {
        CLEAN
    }
}

/// Returns the exit code of a command that failed: [`USAGE`] for an error of the request.
pub fn for_error(error: &anyhow::Error) -> Code {
    let bad_request =
        |cause: &(dyn Error + 'static)| cause.is::<BadRequest>() || refuses_the_request(cause);
    if error.chain().any(bad_request) { USAGE } else { TOOL_FAILED }
}

/// Returns true if the VMM refused its configuration, as opposed to a host that refused the VMM.
#[cfg(feature = "kvm")]
fn refuses_the_request(cause: &(dyn Error + 'static)) -> bool {
    use vmm::RamError::{NotPages, TooLittle, TooMuch};
    match cause.downcast_ref() {
        Some(
            vmm::CreateError::NoVcpus
            | vmm::CreateError::TooManyVcpus { .. }
            | vmm::CreateError::Boot(_),
        ) => true,
        Some(vmm::CreateError::Memory(error)) => {
            matches!(error, TooLittle(_) | NotPages(_) | TooMuch { .. })
        }
        _ => false,
    }
}

/// Returns false: without KVM there is no VMM to refuse a request.
#[cfg(not(feature = "kvm"))]
fn refuses_the_request(_cause: &(dyn Error + 'static)) -> bool {
    false
}
