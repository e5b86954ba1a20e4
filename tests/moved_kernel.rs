//! A kernel that describes itself, with images of its parts: KASLR has moved it, and what is looked up in an image is that
//! of the address where the image was linked. The images are those of tests/linux_logs.

use std::fs;
use std::path::PathBuf;

use nmiscope::kernel::{KernelImages, KernelPart, KernelSymbols, PlacedImage, WithImages};
use nmiscope_machine::{UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{
    End, Frame, Image, Location, ProgramCounter, Resolved, Symbol, SymbolKind, SymbolOffset, Trace,
    link_module_at,
};

const BIAS: u64 = 0x1a40_0000;
const MODULE_TEXT: u64 = 0xffff_ffff_c012_3000;

/// A kernel whose own symbols have one name for all addresses, and no lines.
struct Own;

impl KernelSymbols for Own {
    fn frames(&self, counter: ProgramCounter) -> Resolved<'_> {
        let address = counter.lookup_address();
        let own = Frame {
            function: Some("own_name [module]".into()),
            linkage_name: None,
            location: None,
            inlined: false,
        };
        Resolved {
            address,
            frames: vec![own],
            symbol: self.symbol_containing(address),
            missing: None,
        }
    }

    fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'_>> {
        let symbol =
            Symbol { name: "own_name".into(), address, size: 1, kind: SymbolKind::Function };
        Some(SymbolOffset { symbol, offset: 0 })
    }

    fn address_of(&self, _: &str) -> Option<VirtualAddress> {
        None
    }

    fn unwind(&self, _: &UnwindRegisters, _: &dyn VirtualMemory) -> Trace {
        Trace { frames: Vec::new(), end: End::NoProgramCounter }
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/linux_logs/fixtures/61");
    fs::read(directory.join(name)).expect("a fixture")
}

fn in_image(image: &Image<'_>, name: &str, offset: u64) -> ProgramCounter {
    let symbol = image.symbol(name).unwrap_or_else(|| panic!("no {name}"));
    ProgramCounter::Return(symbol.address.wrapping_add(offset))
}

fn moved(counter: ProgramCounter, bias: u64) -> ProgramCounter {
    ProgramCounter::Return(counter.address().wrapping_add(bias))
}

/// The locations of a call chain, and for each whether it is inlined.
fn places(resolved: &Resolved<'_>) -> Vec<(Option<Location>, bool)> {
    resolved.frames.iter().map(|frame| (frame.location.clone(), frame.inlined)).collect()
}

#[test]
fn moved_kernel_has_the_lines_of_its_image_and_its_own_names() {
    let bytes = fixture("vmlinux.elf");
    let image = Image::parse(&bytes).expect("an image");
    let counter = in_image(&image, "vfs_write", 0x235);
    let expected = image.frames(counter);
    assert!(
        expected.frames.len() > 1 && expected.frames.iter().all(|frame| frame.location.is_some())
    );
    let text = |start: u64| start.wrapping_add(BIAS)..start.wrapping_add(BIAS) + 0xe0_1ef2;
    let mut images = KernelImages::default();
    let open = || Some(PlacedImage { image: Image::parse(&bytes).ok()?, bias: BIAS });
    images.add(vec![text(0xffff_ffff_8100_0000)], Box::new(open));
    let kernel = WithImages::new(&Own, &images, false);
    let found = kernel.frames(moved(counter, BIAS));
    assert_eq!(places(&found), places(&expected));
    let (last, inlined) = found.frames.split_last().expect("frames");
    assert_eq!(last.function.as_deref(), Some("own_name [module]"));
    assert_eq!(inlined[0].function, expected.frames[0].function);
    assert_eq!(found.address, moved(counter, BIAS).lookup_address());
    assert_eq!(found.missing, None);
    // Nothing is known of the address at which the image was linked, nor of assembly.
    assert_eq!(kernel.frames(counter), Own.frames(counter));
    let assembly = moved(in_image(&image, "_stext", 0x10), BIAS);
    assert_eq!(kernel.frames(assembly), Own.frames(assembly));
}

#[test]
fn module_has_the_lines_of_its_file_where_it_is_loaded() {
    let file = fixture("modules/logmod.ko");
    let at = |name: &[u8]| (name == b".text").then_some(VirtualAddress(MODULE_TEXT));
    let loaded = link_module_at(&file, &at).expect("a module");
    let apart = nmiscope_symbolizer::link_module(&file).expect("a module");
    let apart = Image::parse(&apart).expect("an image");
    let start = apart.symbol("fill").expect("the first function").address.0;
    let mut images = KernelImages::default();
    let open = || Some(PlacedImage { image: Image::parse(&loaded).ok()?, bias: 0 });
    images.add(std::iter::once(MODULE_TEXT..MODULE_TEXT + 0x43f).collect(), Box::new(open));
    let kernel = WithImages::new(&Own, &images, false);
    let mut lines = 0;
    for offset in 1..0x430 {
        let counter = ProgramCounter::Return(VirtualAddress(MODULE_TEXT + offset));
        let expected = apart.frames(ProgramCounter::Return(VirtualAddress(start + offset)));
        if expected.frames.iter().any(|frame| frame.location.is_some()) {
            assert_eq!(places(&kernel.frames(counter)), places(&expected), "{offset:#x}");
            lines += 1;
        }
    }
    assert!(lines > 16, "{lines}");
}

#[test]
fn bias_is_what_all_common_symbols_say() {
    let bytes = fixture("vmlinux.elf");
    let image = Image::parse(&bytes).expect("an image");
    let at = |name: &str, bias: u64| {
        (name.to_owned(), image.symbol(name).expect("a symbol").address.wrapping_add(bias))
    };
    let bias = |symbols| KernelPart { symbols, ..KernelPart::default() }.bias(&image);
    let unknown = ("not_in_the_image".to_owned(), VirtualAddress(1));
    assert_eq!(bias(vec![unknown.clone(), at("_stext", BIAS), at("_etext", BIAS)]), Some(BIAS));
    assert_eq!(bias(vec![at("_stext", BIAS), at("_etext", BIAS + 0x1000)]), None);
    assert_eq!(bias(vec![unknown]), None);
    assert_eq!(bias(Vec::new()), None);
}

#[test]
fn files_that_cannot_be_used_leave_the_kernels_own_symbols() {
    let mut images = KernelImages::default();
    images.add(std::iter::once(0x1000..0x2000).collect(), Box::new(|| None));
    let kernel = WithImages::new(&Own, &images, true);
    let counter = ProgramCounter::Interrupted(VirtualAddress(0x1800));
    assert_eq!(kernel.frames(counter), Own.frames(counter));
}
