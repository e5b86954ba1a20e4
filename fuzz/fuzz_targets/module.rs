//! Kernel modules from anybody: a module is laid out and relocated, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nmiscope_symbolizer::{Image, ProgramCounter, link_module};

fuzz_target!(|file: &[u8]| {
    let Ok(module) = link_module(file) else { return };
    // Decompressed sections are appended to the file, and are no larger than their format allows.
    assert!(module.len() >= file.len());
    let Ok(image) = Image::parse(&module) else { return };
    for name in ["init_module", "cleanup_module", "f"] {
        for named in image.symbols_named(name) {
            let _ = image.frames(ProgramCounter::Interrupted(named.symbol.address));
        }
    }
});
