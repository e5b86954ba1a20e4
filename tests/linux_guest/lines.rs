//! Lines, inlined calls and variables of a Linux guest with `--image vmlinux`, held against llvm-symbolizer.

use std::path::{Path, PathBuf};

use nmiscope_report::{Availability, Frame, Function, GuestKernel, Report};

use super::{LinuxVm, vmlinux};
use crate::common::llvm::llvm_symbolizer;
use crate::common::*;

/// Returns all frames that the host has found.
fn frames(report: &Report) -> Vec<&Frame> {
    let backtrace = &report.backtraces[0];
    let cpus = backtrace.cpus.iter().filter_map(|cpu| cpu.host_stack.as_ref());
    let tasks = backtrace.tasks.iter().filter_map(|task| task.host_stack.as_ref());
    cpus.chain(tasks).flat_map(|stack| &stack.frames).collect()
}

/// Returns the name, file and line of each function at an address, innermost first.
fn by_llvm(image: &Path, addresses: &[u64]) -> Vec<Vec<(String, String, u32)>> {
    let text = llvm_symbolizer("--functions=linkage", image, addresses);
    let function = |pair: &[&str]| {
        let mut place = pair[1].rsplitn(3, ':');
        let (_column, line) = (place.next(), place.next());
        let line = line.and_then(|line| line.parse().ok()).expect("a line");
        (pair[0].to_owned(), place.next().unwrap_or_default().to_owned(), line)
    };
    let answer =
        |answer: &str| answer.lines().collect::<Vec<_>>().chunks(2).map(function).collect();
    text.trim_end().split("\n\n").map(answer).collect()
}

/// Returns the distance between the guest's addresses and those of the image, as the report has it.
fn kaslr(report: &Report) -> u64 {
    let GuestKernel::Known { name } = &report.image.kernel else { panic!("{report:?}") };
    let offset = name.split("KASLR 0x").nth(1).and_then(|rest| rest.split(',').next());
    u64::from_str_radix(offset.expect("an offset"), 16).expect("a number")
}

fn outermost(frame: &Frame) -> Option<&str> {
    frame.functions.last()?.name.as_deref()
}

#[track_caller]
fn expect_places(functions: &[Function], expected: &[(String, String, u32)], address: u64) {
    assert_eq!(functions.len(), expected.len(), "{address:#x}: {functions:?} {expected:?}");
    for (ours, (name, file, line)) in functions.iter().zip(expected) {
        if ours.inlined {
            assert_eq!(ours.name.as_ref(), Some(name), "{address:#x}");
        }
        // A line of 0 and a file of ?? are unknown.
        assert_eq!(ours.line.unwrap_or(0), *line, "{address:#x}: {ours:?} {file}");
        let known = ours.file.as_deref().unwrap_or("??");
        assert_eq!(Path::new(known).file_name(), Path::new(file).file_name(), "{address:#x}");
    }
}

#[test]
#[ignore = "needs QEMU, a Linux kernel and its debug vmlinux"]
fn lines_of_a_debug_vmlinux_are_those_of_llvm_symbolizer() {
    let vm = LinuxVm::start("crash");
    vm.wait_for("end Kernel panic");
    let plain = vm.report_of_dump(&[]).expect_code(exit::CRASH).report();
    let image = vmlinux();
    let arguments = ["--image", &image.display().to_string(), "--locals"];
    let report = vm.report_of_dump(&arguments).expect_code(exit::CRASH).report();
    let with_image = frames(&report);
    let (ours, own) = (with_image.iter().copied(), frames(&plain));
    let names: Vec<_> = ours.clone().map(outermost).collect();
    assert_eq!(names, own.iter().map(|frame| outermost(frame)).collect::<Vec<_>>());
    assert!(own.iter().all(|frame| frame.functions.iter().all(|function| function.line.is_none())));
    // Modules have files of their own, and a program has none here.
    let in_kernel = |frame: &&Frame| outermost(frame).is_some_and(|name| !name.ends_with(']'));
    let bias = kaslr(&report);
    let compared: Vec<(&Frame, u64)> = ours
        .filter(in_kernel)
        .map(|frame| {
            let address = u64::from_str_radix(&frame.address, 16).expect("an address");
            (frame, address - bias - u64::from(!frame.interrupted))
        })
        .collect();
    let addresses: Vec<u64> = compared.iter().map(|(_, address)| *address).collect();
    let (mut lines, mut inlined) = (0, 0);
    for ((frame, address), expected) in compared.iter().zip(by_llvm(&image, &addresses)) {
        lines += frame.functions.iter().filter(|function| function.line.is_some()).count();
        inlined += frame.functions.iter().filter(|function| function.inlined).count();
        expect_places(&frame.functions, &expected, *address);
    }
    assert!(lines > 20 && inlined > 3, "{lines} lines, {inlined} inlined calls");
    let functions = with_image.iter().flat_map(|frame| &frame.functions);
    let mut variables = functions.flat_map(|function| &function.variables);
    assert!(variables.any(|variable| variable.availability == Availability::Known));
}

#[test]
#[ignore = "needs QEMU and a Linux kernel"]
fn image_of_another_kernel_is_refused_with_both_build_ids() {
    let vm = LinuxVm::start("idle");
    vm.wait_for("test: ready");
    let other = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/offline/guest.elf");
    let bytes = std::fs::read(&other).expect("an image");
    let image = nmiscope_symbolizer::Image::parse(&bytes).expect("an image");
    let id = image.build_id().expect("a build-id").iter().map(|byte| format!("{byte:02x}"));
    let refused =
        vm.report_of_dump(&["--image", &other.display().to_string()]).expect_code(exit::USAGE);
    let message = &refused.stderr;
    assert!(message.contains(&id.collect::<String>()), "{message}");
    let running = message.split("the guest runs ").nth(1).expect("the guest's build-id");
    let digits = running.chars().take_while(char::is_ascii_hexdigit).count();
    assert_eq!(digits, 40, "{message}");
}
