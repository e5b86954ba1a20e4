//! Second kernel, which tests the adapters' interface: it has no ELF image, and only this folder knows
//! it.
//!
//! The kernel describes itself in memory: where it was loaded, its symbols and those of a module, unwind
//! rows, the layout of its structures, tasks and locks. Two of its tasks wait for each other, and one CPU
//! is inside the module. The tool's own code takes the capture, finds the deadlock and makes the report, as
//! for the bundled guest.

mod adapter;
mod machine;

use std::time::Duration;

use nmiscope::capture::{
    BufferReservation, CaptureRequest, NmiCapture, NoReservation, NotSent, StoppedGuest, Timeouts,
};
use nmiscope::diagnosis::{self, Diagnosis, Resolver};
use nmiscope::hang::{Bounds, Class, Detector, Observation, ObservedVcpu, VcpuSample, Verdict};
use nmiscope::kernel::{Depth, KernelAdapter, Located, Reading};
use nmiscope::session::origin::Origin;
use nmiscope::session::visit::Visitor;
use nmiscope_machine::{HostTimes, MpState, VcpuState};
use nmiscope_report::{
    self as report, Backtrace, Certainty, CpuState, FoundBy, Hang, Report, Source, Trigger, text,
    text::Detail,
};
use nmiscope_symbolizer::SourceRoots;

use adapter::SecondKernel;
use machine::{CPUS, Machine, machine};

/// Observes the machine, whose CPUs have made progress since the last observation.
fn observe(machine: &mut Machine, kernel: &SecondKernel, poll: u64) -> Observation {
    for cpu in 0..2 {
        machine.put(CPUS + cpu * 8, &[poll]);
    }
    let state = |state: &VcpuState| VcpuSample {
        halted: state.mp_state == MpState::Halted,
        interrupts_on: state.registers.interrupts_enabled(),
        started: state.execution().has_position(),
        ..VcpuSample::default()
    };
    let times = |asleep| HostTimes {
        run: Duration::from_millis(if asleep { 0 } else { 100 * poll }),
        delay: Some(Duration::ZERO),
        asleep,
    };
    let vcpu = |vcpu: &VcpuState| ObservedVcpu {
        times: Some(times(vcpu.mp_state == MpState::Halted)),
        sample: Some(state(vcpu)),
        ..ObservedVcpu::default()
    };
    Observation {
        at: Duration::from_millis(100 * poll),
        vcpus: machine.states.iter().map(vcpu).collect(),
        console_bytes: 0,
        kernel: Reading::from_result(kernel.state(machine, &[], Depth::All)),
    }
}

fn whole_report() -> (Backtrace, Vec<Hang>) {
    let mut machine = machine();
    let kernel =
        SecondKernel::recognise(&machine, &machine.states[0].registers).expect("it is there");
    let bounds = Bounds::new(Some(Duration::from_secs(1)));
    let mut detector = Detector::new(bounds, Duration::from_millis(100));
    detector.set_ready();
    for poll in 0..200 {
        let now = observe(&mut machine, &kernel, poll);
        if detector.observe(now).suspicious {
            break;
        }
    }
    let now = observe(&mut machine, &kernel, 201);
    let Some(Verdict::Hangs(found)) = detector.judge(now) else { panic!("no hang was found") };

    let stopped = StoppedGuest::stop(&mut machine, &kernel, None, Timeouts::for_vcpus(2));
    let symbols = kernel.symbols(None);
    let request = CaptureRequest {
        trigger: Trigger::Hang,
        at: Duration::from_millis(1),
        found: Some(*found),
        history: None,
        nmis: true,
        symbols,
        core: None,
        sampling: None,
    };
    let (capture, _) = stopped.capture(&mut machine, request);
    let reason = NoReservation::NoBuffers;
    assert_eq!(capture.reservation, BufferReservation::Unavailable { reason });
    let not_sent = NmiCapture::NotSent(NotSent::NoBuffers);
    assert!(capture.cpus.iter().all(|cpu| cpu.nmi == not_sent));

    let resolver =
        Resolver::new(symbols, SourceRoots::new::<&str>([])).with_vocabulary(kernel.vocabulary());
    let Diagnosis { backtrace, hangs } = diagnosis::diagnose(&capture, Some(0), &resolver);
    (backtrace, hangs)
}

fn functions(frames: &[nmiscope_report::Frame]) -> Vec<&str> {
    let functions = frames.iter().flat_map(|frame| &frame.functions);
    functions.filter_map(|function| function.name.as_deref()).collect()
}

#[test]
fn a_deadlock_of_a_kernel_without_an_image_blames_its_tasks() {
    let (_, hangs) = whole_report();
    let [hang] = &hangs[..] else { panic!("one hang: {hangs:#?}") };
    assert_eq!(hang.class, Class::Deadlock);
    assert_eq!(hang.blamed, ["reader", "writer"]);
    assert_eq!(hang.locks.len(), 2);
    assert_eq!(hang.edges.len(), 4, "{:#?}", hang.edges);
}

#[test]
fn stacks_of_a_second_kernel_unwind_by_its_own_rows() {
    let (backtrace, _) = whole_report();
    let [idle, worker] = &backtrace.cpus[..] else { panic!("two CPUs") };
    assert_eq!(idle.state, CpuState::Halted);
    assert_eq!(functions(&idle.host_stack.as_ref().expect("a look").frames), ["idle_loop"]);
    let look = worker.host_stack.as_ref().expect("a look");
    assert_eq!(functions(&look.frames), ["driver_poll [driver]", "worker_loop"]);
    assert_eq!(look.frames[1].found_by, Some(FoundBy::Cfi));
    assert!(look.complete, "{}", look.end);
    let stacks: Vec<_> = backtrace
        .tasks
        .iter()
        .map(|task| functions(&task.host_stack.as_ref().expect("a look").frames))
        .collect();
    assert_eq!(
        stacks,
        [
            ["mutex_sleep", "read_table", "worker_loop"],
            ["mutex_sleep", "write_table", "worker_loop"]
        ]
    );
}

#[test]
fn the_log_of_a_second_kernel_is_in_the_backtrace() {
    let (backtrace, _) = whole_report();
    let log = backtrace.log.expect("a log");
    let [line] = &log.lines[..] else { panic!("one line: {log:#?}") };
    assert_eq!((line.text.as_str(), line.uptime_ms, line.cpu), ("writer sleeps", 2.0, None));
}

#[test]
fn the_report_of_a_second_kernel_is_written_as_text() {
    let (backtrace, hangs) = whole_report();
    let written = text::backtrace(&backtrace, &hangs, Detail::Folded) + &text::hangs(&hangs);
    for wanted in ["driver_poll+", "reader", "writer", "read_table", "deadlock"] {
        assert!(written.contains(wanted), "{wanted} is not in:\n{written}");
    }
    // Every waiter sleeps in mutex_sleep: the signature is made of the callers.
    assert_eq!(hangs[0].signature.len(), 16);
}

/// Reports as of a dump, from the machine's memory alone.
#[test]
fn a_visit_makes_a_whole_report_of_a_second_kernel() {
    let mut machine = machine();
    let kernel =
        SecondKernel::recognise(&machine, &machine.states[0].registers).expect("it is there");
    // The ages of its CPUs begin with the first observation.
    observe(&mut machine, &kernel, 1);
    let mut visitor = Visitor::from_kernel(Box::new(kernel));
    let (capture, _) = visitor.capture(&mut machine, Trigger::Dump, None);
    let report = visitor.report(&capture, Source::Dump, Origin::unknown(), 1 << 30);
    let name = "second kernel 1.0".into();
    assert_eq!(report.image.kernel, report::GuestKernel::Known { name });
    assert_eq!(report.warnings, [""; 0]);
    let [hang] = &report.hangs[..] else { panic!("one hang: {report:#?}") };
    assert_eq!((hang.class, &hang.certainty), (Class::Deadlock, &Certainty::Certain));
    assert_eq!(hang.blamed, ["reader", "writer"]);
    let written = text::report(&report, Detail::Folded);
    for wanted in ["deadlock, task reader", "driver_poll+", "read_table", "writer sleeps"] {
        assert!(written.contains(wanted), "{wanted} is not in:\n{written}");
    }
    let json = serde_json::to_string(&report).expect("JSON");
    assert_eq!(serde_json::from_str::<Report>(&json).expect("a report"), report);
}
