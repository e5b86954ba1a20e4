//! From a capture to a backtrace in words: parses what the guests' handlers printed, looks every
//! address up, groups equal stacks, and says of each vCPU that did not answer why.
//!
//! Pure: a capture and an image in, report structs out. No clock, no KVM, no I/O.

pub mod guest_word;

use nmiscope_symbolizer::{Image, ProgramCounter, SourceRoots, VirtualAddress, demangle};
use nmiscope_vmm::{MpState, NmiResult, NmiRun, Registers, VcpuState};

use crate::capture::{Capture, CpuCapture, NmiCapture, Reservation};
use crate::kernel::{BufferOwner, SeqBuf};
use crate::report::{
    self, Answer, Backtrace, Cpu, CpuState, Frame, Function, Nmi, Symbol, Trigger, Word,
};
use guest_word::Entry;

/// Looks addresses up in one image.
pub struct Resolver<'a> {
    image: Option<&'a Image<'a>>,
    roots: SourceRoots,
}

/// RFLAGS.IF.
const INTERRUPT_FLAG: u64 = 1 << 9;

impl<'a> Resolver<'a> {
    /// For addresses of `image`, whose source paths are shown relative to one of `roots`. Without
    /// an image, addresses stay what they are.
    pub fn new(image: Option<&'a Image<'a>>, roots: SourceRoots) -> Self {
        Self { image, roots }
    }

    /// Relative to a source root; of Rust's own library, to that.
    fn show_path(&self, path: &str) -> String {
        let library = path.strip_prefix("/rustc/").and_then(|path| path.split_once("/library/"));
        library.map_or_else(|| self.roots.strip_root(path), |(_, path)| path).to_owned()
    }

    /// What is known of an address.
    pub fn frame(&self, counter: ProgramCounter, reliable: bool) -> Frame {
        let Some(image) = self.image else { return unresolved(counter, reliable) };
        let found = image.frames(counter);
        let functions = found.frames.into_iter().map(|frame| {
            let location = frame.location.as_ref();
            Function {
                name: frame.function,
                file: location.map(|place| self.show_path(&place.file)),
                line: location.and_then(|place| place.line),
                column: location.and_then(|place| place.column),
                inlined: frame.inlined,
            }
        });
        Frame {
            address: counter.address().to_string(),
            interrupted: matches!(counter, ProgramCounter::Interrupted(_)),
            reliable,
            functions: functions.collect(),
            symbol: found
                .symbol
                .map(|found| Symbol { name: demangle(&found.symbol.name), offset: found.offset }),
            missing: found.missing.map(|reason| crate::error_chain(&reason)),
        }
    }
}

fn unresolved(counter: ProgramCounter, reliable: bool) -> Frame {
    Frame {
        address: counter.address().to_string(),
        interrupted: matches!(counter, ProgramCounter::Interrupted(_)),
        reliable,
        functions: Vec::new(),
        symbol: None,
        missing: Some("the image cannot be read".into()),
    }
}

/// Makes the backtrace. `at_ms` is when it was taken, since the tool's start.
pub fn backtrace(
    capture: &Capture,
    trigger: Trigger,
    at_ms: f64,
    resolver: &Resolver<'_>,
) -> Backtrace {
    let cpus: Vec<Cpu> = (0..)
        .zip(&capture.cpus)
        .map(|(cpu, capture)| diagnose_cpu(cpu, capture, resolver))
        .collect();
    let count = |test: fn(&&Cpu) -> bool| cpus.iter().filter(test).count() as u32;
    Backtrace {
        trigger,
        at_ms,
        reservation: reservation(&capture.reservation),
        nmi_sent: count(|cpu| cpu.nmi.sent),
        nmi_answered: count(|cpu| cpu.nmi.answer == Answer::Answered),
        elapsed_ms: milliseconds(capture.elapsed),
        groups: group(&cpus),
        cpus,
    }
}

/// A duration as the reports have it.
pub fn milliseconds(duration: std::time::Duration) -> f64 {
    // Whole microseconds: what is below is noise, and lengthens every number.
    duration.as_micros() as f64 / 1000.0
}

fn reservation(reservation: &Reservation) -> report::Reservation {
    match reservation {
        Reservation::Held { waited } => {
            report::Reservation::Held { waited_ms: milliseconds(*waited) }
        }
        Reservation::Refused { holder, held, waited } => report::Reservation::Refused {
            holder: *holder,
            held_ms: held.map(milliseconds),
            waited_ms: milliseconds(*waited),
        },
        Reservation::Unavailable { reason } => {
            report::Reservation::Unavailable { reason: reason.clone() }
        }
    }
}

fn diagnose_cpu(number: u32, capture: &CpuCapture, resolver: &Resolver<'_>) -> Cpu {
    let state = capture.state.as_ref().ok();
    let registers = state.map(|state| &state.registers);
    let doing = cpu_state(state);
    let runs = matches!(doing, CpuState::Running | CpuState::Halted | CpuState::Unknown);
    let location = registers.filter(|_| runs).map(|registers| {
        let rip = VirtualAddress(registers.rip);
        resolver.frame(ProgramCounter::Interrupted(rip), true)
    });
    let nmi = account(capture);
    let word = word(capture, &nmi, resolver);
    Cpu {
        cpu: number,
        state: doing,
        interrupts_enabled: registers
            .filter(|_| runs)
            .map(|registers| registers.rflags & INTERRUPT_FLAG != 0),
        registers: registers.map(show_registers),
        location,
        nmi,
        word,
    }
}

fn cpu_state(state: Option<&VcpuState>) -> CpuState {
    match state.map(|state| state.mp_state) {
        None | Some(MpState::Other(_)) => CpuState::Unknown,
        Some(MpState::Halted) => CpuState::Halted,
        Some(MpState::Uninitialized | MpState::InitReceived) => CpuState::NotStarted,
        Some(MpState::Running | MpState::SipiReceived)
            if state.is_some_and(|state| is_reset(&state.registers)) =>
        {
            CpuState::Reset
        }
        Some(MpState::Running | MpState::SipiReceived) => CpuState::Running,
    }
}

/// Whether they are those of a processor after a reset (SDM vol. 3, table 10-1).
fn is_reset(registers: &Registers) -> bool {
    registers.cs.base == 0xffff_0000 && registers.rip == 0xfff0
}

fn show_registers(registers: &Registers) -> report::Registers {
    let show = |value: u64| format!("{value:016x}");
    report::Registers {
        rip: show(registers.rip),
        rsp: show(registers.rsp),
        rbp: show(registers.rbp),
        rflags: show(registers.rflags),
        rax: show(registers.rax),
        rbx: show(registers.rbx),
        rcx: show(registers.rcx),
        rdx: show(registers.rdx),
        rsi: show(registers.rsi),
        rdi: show(registers.rdi),
        r8: show(registers.r8),
        r9: show(registers.r9),
        r10: show(registers.r10),
        r11: show(registers.r11),
        r12: show(registers.r12),
        r13: show(registers.r13),
        r14: show(registers.r14),
        r15: show(registers.r15),
        cr0: show(registers.cr0),
        cr2: show(registers.cr2),
        cr3: show(registers.cr3),
        cr4: show(registers.cr4),
        cpl: registers.cpl,
    }
}

fn account(capture: &CpuCapture) -> Nmi {
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
            None => Answer::Answered,
            Some(reason) => Answer::NoAnswer { reason },
        },
        bytes: buffer.map(|buffer| buffer.text.len() as u32),
        messages_lost: buffer.map(|buffer| u64::from(buffer.lost) + u64::from(buffer.missed)),
        stale_bytes: capture.stale_bytes,
    }
}

/// Whether the vCPU was inside an NMI handler already.
fn was_masked(capture: &CpuCapture) -> bool {
    capture.state.as_ref().is_ok_and(|state| state.nmi.masked)
}

/// Why there is no answer to this NMI; `None` if there is one.
fn no_answer(capture: &CpuCapture, delivered: Option<bool>) -> Option<String> {
    let run = match &capture.nmi {
        NmiCapture::NotSent(reason) => return Some(reason.clone()),
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
            Err(reason) => {
                Some(format!("the handler finished, its buffer is out of reach: {reason}"))
            }
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

fn word(capture: &CpuCapture, nmi: &Nmi, resolver: &Resolver<'_>) -> Option<Word> {
    let buffer = capture.buffer.as_ref().ok().filter(|buffer| !buffer.text.is_empty())?;
    let text = String::from_utf8_lossy(&buffer.text).into_owned();
    let frames = guest_word::entries(&text)
        .map(|Entry { address, interrupted, reliable }| {
            let address = VirtualAddress(address);
            let counter = if interrupted {
                ProgramCounter::Interrupted(address)
            } else {
                ProgramCounter::Return(address)
            };
            resolver.frame(counter, reliable)
        })
        .collect();
    Some(Word {
        current: nmi.delivered == Some(true),
        findings: findings(buffer, nmi, &text),
        frames,
        text,
    })
}

/// What is wrong with a buffer.
fn findings(buffer: &SeqBuf, nmi: &Nmi, text: &str) -> Vec<String> {
    let lost = u64::from(buffer.lost);
    let checks = [
        (
            buffer.claimed_len > buffer.capacity,
            format!(
                "the guest claims {} bytes in a buffer of {}: its length is garbage",
                buffer.claimed_len, buffer.capacity
            ),
        ),
        (lost > 0, format!("buffer full: {lost} messages lost")),
        (
            buffer.missed > 0,
            format!("{} messages came while the buffer was being read", buffer.missed),
        ),
        (
            !nmi.handler_finished && buffer.owner == BufferOwner::Handler,
            "the handler that printed this has not returned".into(),
        ),
        (
            matches!(buffer.owner, BufferOwner::Garbage(_)),
            format!("the buffer's owner is garbage: {:?}", buffer.owner),
        ),
        (text.contains('\u{fffd}') || text.contains('\0'), "garbled: it is not all text".into()),
        (!text.ends_with('\n'), "the last line has no end".into()),
        (!guest_word::has_trace(text), "there is no call trace in it".into()),
    ];
    checks.into_iter().filter(|(found, _)| *found).map(|(_, text)| text).collect()
}

/// vCPUs that show the same stack in the same state. Those without an answer stay alone: what they
/// do not say is not equal.
fn group(cpus: &[Cpu]) -> Vec<Vec<u32>> {
    let mut groups: Vec<(&Cpu, Vec<u32>)> = Vec::new();
    for cpu in cpus {
        match groups.iter_mut().find(|(first, _)| same_stack(first, cpu)) {
            Some((_, members)) => members.push(cpu.cpu),
            None => groups.push((cpu, vec![cpu.cpu])),
        }
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

fn same_stack(a: &Cpu, b: &Cpu) -> bool {
    if a.state == CpuState::NotStarted && b.state == CpuState::NotStarted {
        return true;
    }
    let (Some(a_word), Some(b_word)) = (&a.word, &b.word) else { return false };
    let answered = |cpu: &Cpu| cpu.nmi.answer == Answer::Answered;
    let reliable = |word: &Word| -> Vec<(String, bool)> {
        let frames = word.frames.iter().filter(|frame| frame.reliable);
        frames.map(|frame| (frame.address.clone(), frame.interrupted)).collect()
    };
    answered(a)
        && answered(b)
        && a.state == b.state
        && a.interrupts_enabled == b.interrupts_enabled
        && a_word.findings == b_word.findings
        && reliable(a_word) == reliable(b_word)
}
