//! Kernel modules from anybody: a module is laid out and relocated, alone or where a guest says, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{Image, ProgramCounter, link_module, link_module_at};

fuzz_target!(|file: &[u8]| {
    look_up(file, link_module(file));
    // The guest's addresses are as hostile as the file: here they wrap around.
    let placed = |name: &[u8]| (name.len() % 2 == 1).then_some(VirtualAddress(u64::MAX - 0x20));
    look_up(file, link_module_at(file, &placed));
});

fn look_up(file: &[u8], module: Result<Vec<u8>, nmiscope_symbolizer::ElfError>) {
    let Ok(module) = module else { return };
    // Decompressed sections are appended to the file, and are no larger than their format allows.
    assert!(module.len() >= file.len());
    let Ok(image) = Image::parse(&module) else { return };
    for name in ["init_module", "cleanup_module", "f"] {
        for named in image.symbols_named(name) {
            let _ = image.frames(ProgramCounter::Interrupted(named.symbol.address));
        }
    }
}
