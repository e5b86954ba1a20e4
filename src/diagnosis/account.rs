//! Account of a vCPU's NMI: sent, delivered, answered, or the reason why there is no answer.
//!
//! Pure: a vCPU's capture in, the report's part out. Called for each vCPU of a backtrace.
//!
//! Owns the order and wording of the reasons; refuses to own the NMI itself (`capture`).

use nmiscope_machine::{NmiResult, NmiRun, VcpuState};
use nmiscope_report::{Nmi, NmiAnswer};

use super::milliseconds;
use crate::capture::{CpuCapture, NmiCapture};
use crate::kernel::{BufferOwner, SeqBuf};

/// Makes the account of one vCPU's NMI.
pub fn account(capture: &CpuCapture) -> Nmi {
    let run = match &capture.nmi {
        NmiCapture::Run(run) => Some(&**run),
        NmiCapture::NotSent(_) => None,
    };
    let finished = run.is_some_and(NmiRun::finished);
    let sent = run.is_some_and(|run| run.injected);
    let delivered = match run {
        _ if finished => Some(true),
        Some(run) if sent => {
            Some(capture.counted.unwrap_or(!run.after.pending && !run.after.injected))
        }
        Some(_) => Some(false),
        None => None,
    };
    let buffer = capture.buffer.as_ref().ok();
    Nmi {
        sent,
        delivered,
        masked_before: run.is_some() && was_masked(capture),
        masked_after: !finished && run.is_some_and(|run| run.after.masked),
        pending_after: run.is_some_and(|run| run.after.pending),
        handler_finished: finished,
        ran_ms: run.filter(|_| sent).map(|run| milliseconds(run.run_time)),
        answer: match no_answer(capture, delivered) {
            None => NmiAnswer::Answered,
            Some(reason) => NmiAnswer::NoAnswer { reason },
        },
        bytes: buffer.map(|buffer| buffer.text.len() as u32),
        messages_lost: buffer.map(|buffer| u64::from(buffer.lost) + u64::from(buffer.missed)),
        stale_bytes: capture.stale_bytes,
    }
}

/// Returns true if the vCPU was inside an NMI handler already.
fn was_masked(capture: &CpuCapture) -> bool {
    capture.state.as_ref().is_ok_and(VcpuState::is_in_nmi)
}

/// Returns the reason why there is no answer to this NMI; `None` if there is one.
fn no_answer(capture: &CpuCapture, delivered: Option<bool>) -> Option<String> {
    let run = match &capture.nmi {
        NmiCapture::NotSent(reason) => return Some(reason.to_string()),
        NmiCapture::Run(run) => run,
    };
    let bound = format!("{} ms", run.wall.as_millis());
    match &run.result {
        NmiResult::NotStarted => {
            Some("not started: it waits for INIT or a start-up IPI, and takes no NMI".into())
        }
        NmiResult::Ended(outcome) if run.injected => {
            Some(format!("it ended while its handler ran: {outcome}"))
        }
        NmiResult::Ended(outcome) => Some(format!("it had ended: {outcome}")),
        NmiResult::Unfinished if was_masked(capture) && delivered != Some(true) => {
            Some(format!("NMI pending, masked for {bound} (the vCPU is inside an earlier NMI)"))
        }
        NmiResult::Unfinished if delivered != Some(true) => {
            Some(format!("NMI not delivered within {bound}"))
        }
        NmiResult::Unfinished => {
            Some(format!("NMI delivered, its handler did not finish within {bound}"))
        }
        NmiResult::Finished => match &capture.buffer {
            Err(reason) => Some(format!(
                "the handler finished, but its buffer cannot be read: {}",
                crate::error_chain(reason)
            )),
            Ok(SeqBuf { text, owner: BufferOwner::Garbage(owner), .. }) if text.is_empty() => {
                Some(format!("the handler finished, its buffer's owner is garbage: {owner:#x}"))
            }
            Ok(buffer) if buffer.text.is_empty() => {
                Some("the handler finished and printed nothing into its buffer".into())
            }
            Ok(_) => None,
        },
    }
}
