//! Captures on a real `/dev/kvm`, beyond their frames: they can be repeated, the guest continues after
//! them, they share the NMI buffers with the guest's own client, report CPUs that were never started, and
//! work on machines with many CPUs.

use crate::common::*;
use nmiscope_report::{
    Backtrace, BufferReservation, Cpu, CpuFinding, CpuState, GuestKernel, Outcome, Trigger,
};
use rustix::process::Signal;

#[track_caller]
fn everyone_answers(backtrace: &Backtrace) {
    for cpu in &backtrace.cpus {
        assert!(answered(cpu), "cpu{}: {:?}", cpu.cpu, cpu.nmi);
    }
    assert_eq!(backtrace.nmi_answered, backtrace.cpus.len() as u32);
}

fn signal_trigger(name: &str) -> Trigger {
    Trigger::Signal { name: name.into() }
}

#[test]
fn later_backtraces_are_as_good_as_the_first() {
    for cpus in [1, 2, 8] {
        let arguments = ["--hang-after", "0", "--nmi-after", "300ms"];
        let running = run_workload("spin-irqs-off", cpus).args(arguments).start();
        running.wait_for("backtrace requested by --nmi-after", 1);
        running.signal(Signal::USR1);
        running.wait_for("backtrace requested by SIGUSR1", 1);
        running.signal(Signal::QUIT);
        running.wait_for("backtrace requested by SIGQUIT", 1);
        running.signal(Signal::INT);
        let report = running.wait().expect_code(exit::CLEAN).report();
        assert_eq!(report.outcome, Outcome::Stopped { by: "SIGINT".into() });
        let triggers: Vec<Trigger> =
            report.backtraces.iter().map(|backtrace| backtrace.trigger.clone()).collect();
        let expected = [Trigger::Timer, signal_trigger("SIGUSR1"), signal_trigger("SIGQUIT")];
        assert_eq!(triggers, expected);
        let culprit = cpus as usize / 2;
        for backtrace in &report.backtraces {
            everyone_answers(backtrace);
            let found = functions(&backtrace.cpus[culprit]);
            assert!(is_subsequence(&["spin_with_interrupts_off", "cpu_main"], &found), "{found:?}");
            // Nothing is left over from the backtrace before.
            assert!(backtrace.cpus.iter().all(|cpu| cpu.nmi.stale_bytes == 0));
        }
    }
}

#[test]
fn a_guest_continues_after_backtraces_without_a_false_alarm() {
    let running = run_workload("busy", 2).args(["--hang-after", "300ms"]).start();
    running.wait_for("guest ready", 1);
    for count in 1..=5 {
        running.signal(Signal::USR1);
        running.wait_for("backtrace requested by SIGUSR1", count);
    }
    // Long enough after the last one for a false alarm by the pauses to be reported.
    std::thread::sleep(std::time::Duration::from_secs(1));
    running.signal(Signal::INT);
    let report = running.wait().expect_code(exit::CLEAN).report();
    assert_eq!(report.outcome, Outcome::Stopped { by: "SIGINT".into() });
    assert_eq!(report.backtraces.len(), 5);
    report.backtraces.iter().for_each(everyone_answers);
}

#[test]
fn a_hang_is_reported_after_a_backtrace() {
    let arguments = ["--nmi-after", "100ms", "--hang-after", "400ms"];
    let finished = run_workload("spin-irqs-on", 2).args(arguments).run().expect_code(exit::HANG);
    let triggers: Vec<Trigger> =
        finished.report().backtraces.iter().map(|backtrace| backtrace.trigger.clone()).collect();
    assert_eq!(triggers, [Trigger::Timer, Trigger::Hang]);
}

#[test]
fn direct_printing_from_nmi_deadlocks_where_diverted_printing_does_not() {
    for cpus in [1, 2, 8] {
        let arguments = ["--hang-after", "300ms", "--nmi-timeout", "500ms"];
        let direct = run_workload("printk-lock-held", cpus)
            .args(arguments)
            .args(["--append", "nmi_backtrace=direct"])
            .run()
            .expect_code(exit::HANG);
        let report = direct.report();
        let cpu = &report.backtraces[0].cpus[cpus as usize / 2];
        let reason = no_answer(cpu);
        assert!(reason.contains("did not finish"), "{reason}");
        assert_eq!(cpu.nmi.delivered, Some(true), "{:?}", cpu.nmi);
        assert!(!cpu.nmi.handler_finished && cpu.nmi.masked_after, "{:?}", cpu.nmi);
        assert_eq!(cpu.findings, [CpuFinding::HandlerUnfinished]);

        let diverted =
            run_workload("printk-lock-held", cpus).args(arguments).run().expect_code(exit::HANG);
        everyone_answers(&diverted.report().backtraces[0]);
    }
}

#[test]
fn nmis_without_time_are_undelivered_and_host_stacks_remain() {
    let finished = run_workload("abba-deadlock", 4)
        .args(["--hang-after", "300ms", "--nmi-timeout", "0"])
        .run()
        .expect_code(exit::HANG);
    let report = finished.report();
    let backtrace = &report.backtraces[0];
    for cpu in &backtrace.cpus {
        assert_eq!(cpu.findings, [CpuFinding::NmiNotDelivered], "cpu{}", cpu.cpu);
        assert!(
            cpu.guest_trace.is_none() && cpu.host_stack.as_ref().is_some_and(|look| look.complete)
        );
    }
    let culprit = seen_functions(&backtrace.cpus[0]);
    assert!(is_subsequence(&["lock", "take_second", "take_both", "cpu_main"], &culprit));
    // Grouped by host stacks: the deadlock's two are in different calls. The others are in the same one,
    // unless a tick has just come.
    assert!(backtrace.groups.starts_with(&[vec![0], vec![1]]), "{:?}", backtrace.groups);
    let [.., a, b] = &backtrace.cpus[..] else { panic!("4 vCPUs") };
    let together = (a.state, b.state) == (CpuState::Halted, CpuState::Halted);
    assert_eq!(backtrace.groups.contains(&vec![2, 3]), together, "{:?}", backtrace.groups);
    assert!(finished.stdout.contains("host's stack"), "{}", finished.stdout);
}

#[test]
fn host_and_guest_clients_never_tear_each_others_text() {
    for cpus in [2, 8] {
        let running = run_workload("sysrq-storm", cpus).start();
        running.wait_for("guest ready", 1);
        for count in 1..=10 {
            running.signal(Signal::USR1);
            running.wait_for("backtrace requested by SIGUSR1", count);
        }
        running.signal(Signal::INT);
        let report = running.wait().expect_code(exit::CLEAN).report();
        assert_eq!(report.backtraces.len(), 10);
        for backtrace in &report.backtraces {
            check_race(backtrace);
        }
    }
}

/// Checks that either the buffers were reserved and each CPU's text is one whole answer, or the report
/// says that they were not.
#[track_caller]
fn check_race(backtrace: &Backtrace) {
    let held = match &backtrace.reservation {
        BufferReservation::Held { .. } => true,
        BufferReservation::Refused { holder, .. } => {
            assert_eq!(*holder, Some(0), "cpu0 is the only client inside");
            false
        }
        other => panic!("{other:?}"),
    };
    for cpu in &backtrace.cpus {
        let Some(word) = &cpu.guest_trace else {
            assert!(!held, "cpu{} has no answer: {:?}", cpu.cpu, cpu.nmi);
            continue;
        };
        assert!(!word.text.contains(['\u{fffd}', '\0']), "cpu{}: {}", cpu.cpu, word.text);
        if held {
            assert!(answered(cpu), "cpu{}: {:?}", cpu.cpu, cpu.nmi);
            assert_eq!(word.findings, [""; 0], "cpu{}: {}", cpu.cpu, word.text);
            let first = format!("NMI backtrace for cpu {}\n", cpu.cpu);
            assert!(word.text.starts_with(&first), "cpu{}: {}", cpu.cpu, word.text);
            assert_eq!(word.text.matches("NMI backtrace").count(), 1, "{}", word.text);
            let whole = |line: &str| {
                line.is_empty()
                    || line.contains(':')
                    || line.starts_with("NMI backtrace for cpu ")
                    || line == " --- interrupted ---"
                    || line.starts_with(" [<ffffffff8")
                        && (line.len() == 21 || line.ends_with(" ?"))
            };
            assert!(word.text.lines().all(whole), "cpu{}: {}", cpu.cpu, word.text);
        }
    }
}

#[test]
fn cpus_that_were_never_started_are_reported_as_such() {
    let finished = run_workload("spin-irqs-off", 4)
        .args(["--append", "nr_cpus=2", "--hang-after", "300ms"])
        .run()
        .expect_code(exit::HANG);
    let report = finished.report();
    let backtrace = &report.backtraces[0];
    for cpu in &backtrace.cpus[2..] {
        assert_eq!(cpu.state, CpuState::NotStarted, "cpu{}", cpu.cpu);
        let reason = no_answer(cpu);
        assert!(reason.contains("not started"), "{reason}");
        assert!(!cpu.nmi.sent && cpu.guest_trace.is_none() && cpu.host_stack.is_none());
    }
    assert!(backtrace.cpus[..2].iter().all(answered));
    assert_eq!((backtrace.nmi_sent, backtrace.nmi_answered), (2, 2));
    assert!(backtrace.groups.contains(&vec![2, 3]), "{:?}", backtrace.groups);
    assert_eq!(only_hang(&report).blamed, ["cpu1"]);
}

#[test]
fn nmis_reach_cpus_whose_apic_is_used_through_memory() {
    for cpus in [1, 2, 8] {
        let finished = run_workload("spin-irqs-off", cpus)
            .args(["--append", "nox2apic", "--hang-after", "300ms"])
            .run()
            .expect_code(exit::HANG);
        everyone_answers(&finished.report().backtraces[0]);
    }
}

#[test]
fn text_has_the_blamed_cpu_first_and_idle_ones_in_a_line() {
    let finished = run_workload("spin-irqs-off", 8)
        .args(["--hang-after", "300ms", "--serial", "none"])
        .run()
        .expect_code(exit::HANG);
    let backtrace = &finished.report().backtraces[0];
    let is_idle =
        |cpu: &&Cpu| cpu.state == CpuState::Halted && cpu.interrupts_enabled == Some(true);
    assert!(backtrace.cpus.iter().filter(is_idle).count() > 1, "{}", finished.all());
    let place = |wanted: &str| finished.stdout.find(wanted).expect(wanted);
    assert!(place("\ncpu4  running, interrupts off") < place("  idle (halted, interrupts on)"));
    assert_eq!(finished.stdout.matches("idle (halted").count(), 1, "{}", finished.stdout);
    assert_eq!(finished.stdout.matches("wait_for_interrupt").count(), 0, "{}", finished.stdout);
}

#[test]
fn equal_stacks_are_one_group_and_are_printed_once() {
    let finished = run_workload("spin-irqs-off", 8)
        .args(["--hang-after", "300ms", "--serial", "none", "--verbose"])
        .run()
        .expect_code(exit::HANG);
    let backtrace = &finished.report().backtraces[0];
    assert!(backtrace.groups.contains(&vec![4]), "{:?}", backtrace.groups);
    let shown = finished.stdout.matches("spin_with_interrupts_off").count();
    assert_eq!(shown, 1, "{}", finished.stdout);
    // A tick may just have woken one of the others.
    let is_idle = |group: &&Vec<u32>| {
        functions(&backtrace.cpus[group[0] as usize]).contains(&"wait_for_interrupt".to_owned())
    };
    let idle: Vec<&Vec<u32>> = backtrace.groups.iter().filter(is_idle).collect();
    assert!(idle.iter().any(|group| group.len() > 1), "{:?}", backtrace.groups);
    let shown = finished.stdout.matches("wait_for_interrupt").count();
    assert_eq!(shown, idle.len(), "{}", finished.stdout);
}

#[test]
fn the_report_describes_the_machine_and_the_image() {
    let finished = run_workload("exit", 2).args(["--memory", "32M"]).run().expect_code(exit::CLEAN);
    let report = finished.report();
    assert_eq!(report.machine.vcpus, 2);
    assert_eq!(report.machine.memory_bytes, 32 << 20);
    assert_eq!(report.image.path, None);
    assert_eq!(report.image.command_line, "workload=exit");
    // The kernel is examined only if the guest takes long enough to exit.
    assert!(matches!(report.image.kernel, GuestKernel::NotExamined | GuestKernel::Bundled));
    assert_eq!(report.tool.name, "nmiscope");
    assert!(report.backtraces.is_empty());

    let image = nmiscope_symbolizer::Image::parse(nmiscope::bundled::image()).expect("an image");
    let id = image.build_id().expect("a build-id");
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(report.image.build_id, Some(id));
}

#[test]
fn an_image_file_is_run_like_the_bundled_one() {
    require_kvm();
    let arguments = ["run", "guest.elf", "--workload", "spin-irqs-on", "--hang-after", "300ms"];
    let finished = nmiscope(arguments)
        .with_report()
        .with_file("guest.elf", nmiscope::bundled::image())
        .run()
        .expect_code(exit::HANG);
    let report = finished.report();
    assert_eq!(report.image.path.as_deref(), Some("guest.elf"));
    assert_eq!(report.image.kernel, GuestKernel::Bundled);
    everyone_answers(&report.backtraces[0]);
}

#[test]
fn the_guest_warns_of_an_unknown_kernel_parameter() {
    let finished =
        run_workload("exit", 1).args(["--append", "colour=red"]).run().expect_code(exit::CLEAN);
    assert!(
        finished.stdout.contains("unknown kernel parameter or bad value: colour=red"),
        "{}",
        finished.all()
    );
}

#[test]
fn the_guest_fails_on_an_unknown_workload() {
    require_kvm();
    // As an image of its own: only the bundled guest's workloads are checked before boot.
    let image = nmiscope::bundled::image();
    let arguments = ["run", "guest.elf", "--workload", "make-coffee", "--cpus", "1"];
    let run = nmiscope(arguments).with_file("guest.elf", image).with_report();
    let finished = run.run().expect_code(exit::GUEST_FAILED);
    assert!(finished.stdout.contains("unknown workload: make-coffee"), "{}", finished.all());
    let report = finished.report();
    let Outcome::Exit { code } = report.outcome else { panic!("{:?}", report.outcome) };
    assert_ne!(code, 0);
}

#[test]
fn a_nonzero_exit_code_of_the_guest_is_reported() {
    let finished = run_workload("exit", 1).args(["--append", "exit_code=7"]).run().expect_code(1);
    assert_eq!(finished.report().outcome, Outcome::Exit { code: 7 });
}

/// Panics have an exit code that does not fit in a byte.
#[test]
fn no_exit_code_of_a_workload_is_reported_as_a_panic() {
    for code in [101, 255] {
        let append = format!("exit_code={code}");
        let finished = run_workload("exit", 1).args(["--append", &append]).run().expect_code(1);
        assert_eq!(finished.report().outcome, Outcome::Exit { code });
    }
}

/// NMIs before there is a handler would reset the machine: booting CPUs get none.
#[test]
fn a_backtrace_does_not_harm_a_booting_guest() {
    let finished = run_workload("exit", 300)
        .args(["--memory", "256M", "--serial", "none", "--nmi-after", "20ms"])
        .run()
        .expect_code(exit::CLEAN);
    let report = finished.report();
    assert_eq!(report.outcome, Outcome::Exit { code: 0 });
    let backtrace = &report.backtraces[0];
    assert!(Some(backtrace.at_ms) < report.ready_after_ms, "it was taken too late");
    assert!(backtrace.cpus[0].host_stack.is_some());
    for cpu in backtrace.cpus.iter().filter(|cpu| !cpu.nmi.sent) {
        let reason = no_answer(cpu);
        let known = ["no NMI handler", "not started"];
        assert!(known.iter().any(|known| reason.contains(known)), "cpu{}: {reason}", cpu.cpu);
    }
}

#[test]
fn sixty_four_vcpus_all_answer() {
    let finished = run_workload("spin-irqs-on", 64)
        .args(["--memory", "256M", "--serial", "none", "--hang-after", "300ms"])
        .run()
        .expect_code(exit::HANG);
    let report = finished.report();
    let backtrace = &report.backtraces[0];
    everyone_answers(backtrace);
    let found = functions(&backtrace.cpus[32]);
    assert!(is_subsequence(&["spin_with_interrupts_on", "cpu_main"], &found), "{found:?}");
}

/// More than 255 vCPUs, so that there are APIC ids that only an x2APIC has.
#[test]
fn three_hundred_vcpus_all_answer() {
    let running = run_workload("idle", 300)
        .args(["--memory", "256M", "--serial", "none", "--hang-after", "0"])
        .start();
    running.wait_for("guest ready", 1);
    running.signal(Signal::USR1);
    running.wait_for("backtrace requested by SIGUSR1", 1);
    running.signal(Signal::INT);
    let report = running.wait().expect_code(exit::CLEAN).report();
    let backtrace = &report.backtraces[0];
    everyone_answers(backtrace);
    for cpu in &backtrace.cpus {
        let text = &cpu.guest_trace.as_ref().expect("a word").text;
        let first = format!("NMI backtrace for cpu {}\n", cpu.cpu);
        assert!(text.starts_with(&first), "cpu{}: {text}", cpu.cpu);
    }
}
