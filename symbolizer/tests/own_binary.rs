//! The test binary symbolizes itself: expected values come from the compiler (`line!()`, addresses
//! of functions) and from addr2line, another reader of the same bytes.

mod common;

use addr2line::gimli;
use common::{load_bias, normalized, own_image, plain, text_addresses};
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{Image, Missing, ProgramCounter, SymbolKind};
use object::{Object, ObjectSection, ObjectSymbol};

#[inline(never)]
fn known_function(argument: u32) -> u32 {
    std::hint::black_box(argument) + 1
}

const KNOWN_LINE: u32 = line!() - 4;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn plain_name_for_the_symbol_table() -> u32 {
    std::hint::black_box(7)
}

fn known_address() -> VirtualAddress {
    let pointer: fn(u32) -> u32 = std::hint::black_box(known_function);
    VirtualAddress(pointer as usize as u64 - load_bias())
}

#[test]
fn a_function_has_its_name_file_and_line() {
    assert_eq!(known_function(1), 2);
    let bytes = own_image();
    let image = Image::parse(&bytes).expect("an image");
    let resolved = image.frames(ProgramCounter::Interrupted(known_address()));
    assert_eq!(resolved.missing, None);
    let [frame] = &resolved.frames[..] else { panic!("one frame: {resolved:?}") };
    assert_eq!(frame.function.as_deref(), Some("own_binary::known_function"));
    assert!(!frame.inlined);
    let location = frame.location.as_ref().expect("a location");
    assert!(location.file.ends_with(file!()), "{location:?}");
    assert_eq!(location.line, Some(KNOWN_LINE));
    let symbol = resolved.symbol.expect("a symbol");
    assert_eq!(symbol.offset, 0);
    assert_eq!(symbol.symbol.kind, SymbolKind::Function);
}

#[test]
fn a_return_address_at_a_function_start_belongs_to_the_previous_function() {
    let bytes = own_image();
    let image = Image::parse(&bytes).expect("an image");
    let address = known_address();
    let before = image.frames(ProgramCounter::Return(address));
    assert_eq!(before.address.0, address.0 - 1);
    let same = image.frames(ProgramCounter::Interrupted(VirtualAddress(address.0 - 1)));
    assert_eq!(before, same);
    assert_ne!(
        before.symbol.map(|found| found.symbol.name),
        image.symbol_containing(address).map(|found| found.symbol.name)
    );
}

#[test]
fn a_symbol_is_found_by_its_name() {
    let pointer: extern "C" fn() -> u32 = std::hint::black_box(plain_name_for_the_symbol_table);
    assert_eq!(pointer(), 7);
    let bytes = own_image();
    let image = Image::parse(&bytes).expect("an image");
    let symbol = image.symbol("plain_name_for_the_symbol_table").expect("a symbol");
    assert_eq!(symbol.address.0, pointer as usize as u64 - load_bias());
    assert!(symbol.size > 0);
    assert_eq!(image.symbol("plain_name_for_the_symbol"), None);
    assert_eq!(image.symbol(""), None);
}

#[test]
fn unresolved_addresses_carry_a_reason() {
    let bytes = own_image();
    let image = Image::parse(&bytes).expect("an image");
    for address in [u64::MAX, 1 << 60, bytes.len() as u64 * 1000] {
        for pc in [ProgramCounter::Interrupted, ProgramCounter::Return] {
            let resolved = image.frames(pc(VirtualAddress(address)));
            assert_eq!(resolved.missing, Some(Missing::OutsideImage));
            assert!(resolved.frames.is_empty() && resolved.symbol.is_none());
        }
    }
    assert!(image.is_text(known_address()));
    assert!(!image.is_text(VirtualAddress(0)));
}

#[test]
fn the_build_id_agrees_with_the_object_crate() {
    let bytes = own_image();
    let expected = object::File::parse(&bytes[..]).expect("ELF").build_id().expect("notes");
    assert_eq!(Image::parse(&bytes).expect("an image").build_id(), expected);
}

#[test]
fn every_symbol_is_found_by_its_address() {
    let bytes = own_image();
    let image = Image::parse(&bytes).expect("an image");
    let file = object::File::parse(&bytes[..]).expect("ELF");
    let functions = file.symbols().filter(|symbol| {
        symbol.kind() == object::SymbolKind::Text && symbol.size() > 0 && symbol.is_definition()
    });
    for symbol in functions.step_by(7) {
        let last = VirtualAddress(symbol.address() + symbol.size() - 1);
        let found = image.symbol_containing(last).expect("a symbol").symbol;
        // Another one may share the address, identical functions are folded.
        assert_eq!((found.address.0, found.size), (symbol.address(), symbol.size()));
    }
}

/// Compares frames with the addr2line crate: names, files, lines and inline depth.
#[test]
fn frames_agree_with_addr2line_at_two_thousand_addresses() {
    let bytes = own_image();
    let image = Image::parse(&bytes).expect("an image");
    let file = object::File::parse(&bytes[..]).expect("ELF");
    let sections = gimli::DwarfSections::load(|id| {
        let section = file.section_by_name(id.name());
        let data = section.map(|section| section.uncompressed_data().expect("a section"));
        Ok::<_, gimli::Error>(data.unwrap_or_default())
    })
    .expect("debug sections");
    let dwarf = sections.borrow(|data| gimli::EndianSlice::new(data, gimli::LittleEndian));
    let context = addr2line::Context::from_dwarf(dwarf).expect("DWARF");
    let mut inlined = 0;
    for address in text_addresses(&bytes, 2000) {
        let pc = ProgramCounter::Interrupted(VirtualAddress(address));
        let found = plain(&image.frames(pc));
        let mut expected = Vec::new();
        let mut frames = context.find_frames(address).skip_all_loads().expect("frames");
        while let Some(frame) = frames.next().expect("a frame") {
            let name = frame
                .function
                .map_or("??".into(), |name| name.raw_name().expect("a name").into_owned());
            let place = frame.location.as_ref();
            let file = place.and_then(|place| place.file).map_or("??".into(), normalized);
            expected.push((name, file, place.and_then(|place| place.line).unwrap_or(0)));
        }
        if let (Some(expected), Some(symbol)) =
            (expected.last_mut(), image.symbol_containing(VirtualAddress(address)))
        {
            // The outermost has the symbol's name: `.cold` parts and folded functions differ.
            expected.0 = symbol.symbol.name.into_owned();
        }
        if !expected.is_empty() {
            assert_eq!(found, expected, "at {address:#x}");
        }
        inlined += usize::from(found.len() > 1);
    }
    assert!(inlined > 20, "only {inlined} addresses had inlined calls");
}
