//! `--locals`, on a real `/dev/kvm`: the arguments that the host reads are those that the guest's CPUs
//! were given, a core has what it takes to read them again, and nobody gets them unasked.

use crate::common::*;
use nmiscope_report::{Availability, Cpu, Function, Report, Source, Variable, VariableKind};
use nmiscope_symbolizer::short_name;

const CPUS: u32 = 4;

/// Invocation of a run that hangs and whose guest has time to answer.
fn hang(workload: &str) -> Invocation {
    run_workload(workload, CPUS).args(["--hang-after", "500ms", "--nmi-timeout", "10s"])
}

fn seen(cpu: &Cpu) -> impl Iterator<Item = &Function> {
    cpu.host_stack.iter().flat_map(|look| &look.frames).flat_map(|frame| &frame.functions)
}

/// Returns the `cpu` parameters of the functions that give every CPU its number.
fn numbers(cpu: &Cpu) -> impl Iterator<Item = &Variable> {
    let name = |function: &Function| function.name.clone().unwrap_or_default();
    let given = seen(cpu)
        .filter(move |function| matches!(short_name(&name(function)), "cpu_main" | "step"));
    let parameters = given.flat_map(|function| &function.variables);
    parameters.filter(|variable| variable.kind == VariableKind::Parameter && variable.name == "cpu")
}

fn has_variables(report: &Report) -> bool {
    let cpus = report.backtraces.iter().flat_map(|backtrace| &backtrace.cpus);
    cpus.flat_map(seen).any(|function| !function.variables.is_empty())
}

#[test]
fn the_cpu_parameter_of_each_vcpu_is_its_number() {
    for workload in ["abba-deadlock", "spin-irqs-off"] {
        let finished = hang(workload).args(["--locals"]).run().expect_code(exit::HANG);
        let report = finished.report();
        let mut known = 0;
        for cpu in &report.backtraces[0].cpus {
            assert!(numbers(cpu).next().is_some(), "cpu{}: {}", cpu.cpu, finished.all());
            for number in numbers(cpu) {
                match number.availability {
                    Availability::Known => {
                        assert_eq!(number.value, cpu.cpu.to_string(), "{}", finished.all());
                        assert_eq!(number.type_name.as_deref(), Some("usize"));
                        known += 1;
                    }
                    Availability::OptimizedOut => assert_eq!(number.value, "<optimized out>"),
                    Availability::Unavailable => {
                        assert!(number.value.starts_with("<unavailable: "), "{}", number.value)
                    }
                }
            }
        }
        assert!(known > 0, "{}", finished.all());
        assert!(finished.stdout.contains("\n        cpu = "), "{}", finished.all());
    }
}

#[test]
fn a_core_gives_the_same_variables_again() {
    let finished =
        hang("abba-deadlock").args(["--locals", "--core", "core"]).run().expect_code(exit::HANG);
    let live = finished.report();
    assert!(has_variables(&live), "{}", finished.all());
    let core = finished.directory.path().join("core");
    let report = |arguments: &[&str]| {
        let again = nmiscope(["report"]).args([&core]).args(arguments).with_report();
        again.run().expect_code(exit::HANG).report()
    };
    let again = report(&["--locals"]);
    assert_eq!(Report { source: Source::Live, ..again }, live);
    assert!(!has_variables(&report(&[])), "variables were not requested");
}

#[test]
fn a_core_made_without_variables_shows_those_in_its_memory() {
    let finished = hang("abba-deadlock").args(["--core", "core"]).run().expect_code(exit::HANG);
    let core = finished.directory.path().join("core");
    let again = nmiscope(["report", "--locals"]).args([&core]).with_report();
    let report = again.run().expect_code(exit::HANG).report();
    let numbers = || report.backtraces[0].cpus.iter().flat_map(numbers);
    assert!(numbers().any(|number| number.availability == Availability::Known), "{report:#?}");
}

#[test]
fn variables_are_shown_only_on_request() {
    let finished = hang("spin-irqs-off").run().expect_code(exit::HANG);
    let path = finished.directory.path().join("report.json");
    let json = std::fs::read_to_string(path).expect("the report");
    assert!(!json.contains("\"variables"), "{json}");
    assert!(!finished.stdout.contains(" = "), "{}", finished.all());
}
