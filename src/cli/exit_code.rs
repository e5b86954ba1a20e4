//! What the program says to the one that started it. Part of the interface, as much as the JSON.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;

use nmiscope_farm::event::Status;
use nmiscope_report::{Hang, Outcome, Report};
#[cfg(feature = "kvm")]
use nmiscope_vmm as vmm;

use crate::errors::BadRequest;

/// An exit code with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u8);

/// All went well: the guest left with code 0, or the run was ended as it was asked to be.
pub const CLEAN: Code = Code(0);
/// The guest ran, and left with a code other than 0, or not within its time limit.
pub const GUEST_FAILED: Code = Code(1);
/// Nothing that was to be looked up is in the image: `symbolize` with the wrong image, most likely.
pub const NOTHING_FOUND: Code = Code(1);
/// The command line, or what it names, cannot be used: nothing has run.
pub const USAGE: Code = Code(2);
/// The guest hangs.
pub const HANG: Code = Code(3);
/// The guest's kernel panicked, or the guest crashed.
pub const CRASH: Code = Code(4);
/// The tool or its host failed: no `/dev/kvm`, no permission, no memory, or no CPU time for the
/// guest.
pub const TOOL_FAILED: Code = Code(5);

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.0)
    }
}

/// The code for a run with that report.
pub fn for_report(report: &Report) -> Code {
    let goes_on = |hang: &Hang| hang.certainty.is_verdict() && hang.resolved_after_ms.is_none();
    let hangs = report.hangs.iter().any(goes_on);
    match report.outcome {
        // It was let go on, and hung when the time was over.
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

/// The code for a farm's run, of which so many VMs ended in each way: the worst that is true of its
/// guests, or else whether all of them got a verdict.
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

/// The code for a run that never was, or that broke off.
pub fn for_error(error: &anyhow::Error) -> Code {
    let bad_request =
        |cause: &(dyn Error + 'static)| cause.is::<BadRequest>() || refuses_the_request(cause);
    if error.chain().any(bad_request) { USAGE } else { TOOL_FAILED }
}

/// Whether the VMM could not do what it was asked, rather than the host not what the VMM asked.
#[cfg(feature = "kvm")]
fn refuses_the_request(cause: &(dyn Error + 'static)) -> bool {
    use vmm::MemoryError::{NotPages, TooLittle, TooMuch};
    match cause.downcast_ref() {
        Some(vmm::Error::NoVcpus | vmm::Error::TooManyVcpus { .. } | vmm::Error::Boot(_)) => true,
        Some(vmm::Error::Memory(error)) => {
            matches!(error, TooLittle(_) | NotPages(_) | TooMuch { .. })
        }
        _ => false,
    }
}

/// Nothing is refused by a VMM that is not there.
#[cfg(not(feature = "kvm"))]
fn refuses_the_request(_cause: &(dyn Error + 'static)) -> bool {
    false
}
