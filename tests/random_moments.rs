//! Host stacks of computing vCPUs at a thousand random moments, on 2 and on 8 vCPUs: each stack is
//! complete, by call frame information alone, wherever the vCPU was stopped.
//!
//! Needs `/dev/kvm`. The seed of the moments is printed; the moments themselves depend on the machine.

use std::thread::sleep;
use std::time::Duration;

use crate::common::vm::ready_vm;
use nmiscope::capture::host_stack::{self, UnwoundStack};
use nmiscope::targets::{Pausing, States};
use nmiscope_symbolizer::{Image, Strategy, UnwoundFrame};

const CAPTURES: u32 = 1000;

/// Returns the symbols of a stack's frames, innermost first.
fn symbols(image: &Image<'_>, stack: &UnwoundStack) -> Vec<String> {
    let name = |frame: &UnwoundFrame| {
        let found = image.symbol_containing(frame.pc.lookup_address());
        found.map_or_else(|| "??".into(), |found| found.symbol.name.into_owned())
    };
    stack.frames.iter().map(name).collect()
}

fn check_every_stack(cpus: u32) {
    let image = Image::parse(nmiscope::bundled::image()).expect("the bundled image");
    let mut vm = ready_vm("busy", cpus);
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15 ^ u64::from(cpus);
    println!("seed {seed:#x}");
    let mut stops = std::collections::BTreeSet::new();
    for capture in 0..CAPTURES {
        // xorshift64
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // A stop that follows at once may find the guest in the same place.
        sleep(Duration::from_micros(seed % 3000));
        let states: States = Pausing::pause(&mut vm, Duration::from_secs(120));
        let stack = |state| host_stack::unwind_vcpu(state, Some(&image), &vm);
        let stacks: Vec<_> = states.iter().map(stack).collect();
        vm.resume();
        assert_eq!(stacks.len(), cpus as usize);
        for (cpu, look) in stacks.iter().enumerate() {
            let place = || format!("cpu{cpu} in capture {capture}");
            let look = look.as_ref().unwrap_or_else(|| panic!("{}: no stack", place()));
            let names = symbols(&image, look);
            let all = || format!("{}: {names:#?}: {}", place(), look.ending);
            assert!(look.ending.is_complete(), "{}", all());
            let by_pointer = |strategy| strategy == Strategy::FramePointer;
            assert!(!look.frames.iter().any(|frame| by_pointer(frame.strategy)), "{}", all());
            assert!(names.iter().any(|name| name.contains("cpu_main")), "{}", all());
            let outermost = names.last().expect("a frame");
            let wanted = if cpu == 0 { "run_on_stack" } else { "ap_start" };
            assert_eq!(outermost, wanted, "{}", all());
            stops.insert(look.frames[0].pc.address().0);
        }
    }
    // The guest ran in between.
    println!("{} different places", stops.len());
    assert!(stops.len() > 10, "{} different places", stops.len());
}

#[test]
fn stacks_of_2_cpus_are_complete_at_1000_random_moments() {
    check_every_stack(2);
}

#[test]
fn stacks_of_8_cpus_are_complete_at_1000_random_moments() {
    check_every_stack(8);
}
