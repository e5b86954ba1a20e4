//! Tests of debug files for the VMs of a farm.

use std::process::Command;

use super::site::{Run, Site};
use crate::common::{nmiscope, require_kvm};

/// Each VM's process runs in a directory of its own; the option is relative to the farm's.
#[test]
#[ignore = "needs objcopy"]
fn debug_directories_reach_the_vms_of_a_farm() {
    require_kvm();
    let suite = "[[vm]]\nname = 'mine'\nimage = 'mine.elf'\nappend = 'workload=abba-deadlock'\n\
                 cpus = 2\nhang-after = '500ms'\n";
    let lines = |option: &[&str]| {
        let site = Site::new(suite);
        let image = site.path("mine.elf");
        nmiscope(["guest", &image]).run();
        let id = bundled_build_id();
        let folder = site.path(&format!("debug/.build-id/{}", &id[..2]));
        std::fs::create_dir_all(&folder).expect("a folder");
        let debug = format!("{folder}/{}.debug", &id[2..]);
        for arguments in [&["--only-keep-debug", &image, &debug][..], &["--strip-debug", &image]] {
            assert!(Command::new("objcopy").args(arguments).status().expect("objcopy").success());
        }
        let mut farm = site.farm(option);
        farm.command.current_dir(site.path(""));
        let run = Run::from_output(&farm.run());
        let report = site.report(&run.finished("mine").directory);
        let stacks = report.backtraces[0].cpus.iter().flat_map(|cpu| &cpu.host_stack);
        let functions = stacks.flat_map(|stack| &stack.frames).flat_map(|frame| &frame.functions);
        functions.filter(|function| function.line.is_some()).count()
    };
    assert_eq!(lines(&[]), 0);
    assert!(lines(&["--debug-dir", "none", "--debug-dir", "debug"]) > 2);
}

fn bundled_build_id() -> String {
    let image = nmiscope_symbolizer::Image::parse(::nmiscope::bundled::image()).expect("an image");
    ::nmiscope::images::hex(image.build_id().expect("a build-id"))
}
