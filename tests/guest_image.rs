//! Tests of the bundled image's contents: only integer instructions, so that interrupted code has no
//! vector state to lose and every backend of KVM can run it; and the parts that the tool, gdb and
//! PVH loaders need.

use crate::common::image::program_headers;
use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, FastFormatter, Instruction, InstructionInfoFactory,
};
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::Image;
use object::read::elf::ProgramHeader as _;
use object::{LittleEndian as LE, Object as _, ObjectSection as _, ObjectSymbol as _};

const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PT_LOAD: u32 = 1;

/// Instructions that an integer-only kernel may use, by their CPUID feature. All others are forbidden, such
/// as SSE, AVX, x87, MMX, BMI, POPCNT, LZCNT, RDTSCP, XSAVE and CMPXCHG16B.
const INTEGER: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CMOV,
    CpuidFeature::CPUID,
    CpuidFeature::CX8,
    CpuidFeature::MSR,
    CpuidFeature::TSC,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::SMM,
    CpuidFeature::CET_IBT,
];

/// Decoder options: F3 0F BC is BSF. A processor without BMI1 runs it so, with the same result for every
/// source but 0, and compilers emit it where the source is known not to be 0. F3 0F BD has another result
/// than BSR, and is forbidden.
const OPTIONS: u32 = DecoderOptions::NO_MPFX_0FBC;

fn image() -> &'static [u8] {
    nmiscope::bundled::image()
}

fn file() -> object::File<'static> {
    object::File::parse(image()).expect("an ELF file")
}

/// A range of code with one operand size, and its address.
struct Code {
    start: u64,
    bytes: &'static [u8],
    bits: u32,
}

/// Returns the executable segments, cut at every symbol. Each part is decoded from its beginning, so that
/// padding or data in one part cannot hide instructions in the next.
fn code() -> Vec<Code> {
    let symbols = file();
    let mut starts: Vec<u64> = symbols.symbols().map(|symbol| symbol.address()).collect();
    starts.sort_unstable();
    starts.dedup();
    let mut found = Vec::new();
    for header in program_headers(image()) {
        if header.p_type(LE).0 != PT_LOAD || header.p_flags(LE).0 & PF_X == 0 {
            continue;
        }
        let (start, size) = (header.p_vaddr(LE), header.p_filesz(LE));
        let bytes = &image()[header.p_offset(LE) as usize..][..size as usize];
        let inside = starts.iter().copied().filter(|at| (start + 1..start + size).contains(at));
        let bounds: Vec<u64> =
            std::iter::once(start).chain(inside).chain(std::iter::once(start + size)).collect();
        found.extend(bounds.windows(2).map(|bounds| Code {
            start: bounds[0],
            bytes: &bytes[(bounds[0] - start) as usize..(bounds[1] - start) as usize],
            bits: bits_at(bounds[0]),
        }));
    }
    found
}

/// Returns the operand size of the code at an address: 32 bits at the PVH entry, 64 bits elsewhere.
fn bits_at(address: u64) -> u32 {
    let entry = file().symbol_by_name("pvh_start").expect("pvh_start").address();
    if address == entry { 32 } else { 64 }
}

fn function_at(address: u64) -> String {
    let image = Image::parse(image()).expect("an image");
    let symbol = image.symbol_containing(VirtualAddress(address));
    symbol.map_or_else(|| "?".into(), |found| format!("{}+{:#x}", found.symbol.name, found.offset))
}

fn is_integer(instruction: &Instruction) -> bool {
    !instruction.is_invalid()
        && instruction.cpuid_features().iter().all(|feature| INTEGER.contains(feature))
}

/// Returns true if an instruction names no vector, mask or x87 register.
fn uses_general_registers_only(
    instruction: &Instruction,
    factory: &mut InstructionInfoFactory,
) -> bool {
    let used = factory.info(instruction).used_registers();
    used.iter().map(|used| used.register()).all(|register| {
        !register.is_vector_register()
            && !register.is_k()
            && !register.is_st()
            && !register.is_mm()
            && !register.is_tmm()
    })
}

fn show(instruction: &Instruction) -> String {
    let mut text = String::new();
    FastFormatter::new().format(instruction, &mut text);
    let address = instruction.ip();
    let features = instruction.cpuid_features();
    format!("{address:#x} {}: {text} {features:?}", function_at(address))
}

#[test]
fn every_instruction_of_the_kernel_is_an_integer_instruction() {
    let mut factory = InstructionInfoFactory::new();
    let mut offenders = Vec::new();
    let mut count = 0;
    for Code { start, bytes, bits } in code() {
        for instruction in &mut Decoder::with_ip(bits, bytes, start, OPTIONS) {
            count += 1;
            if !is_integer(&instruction) || !uses_general_registers_only(&instruction, &mut factory)
            {
                offenders.push(show(&instruction));
            }
        }
    }
    assert!(offenders.is_empty(), "{} of {count}:\n{}", offenders.len(), offenders.join("\n"));
    assert!(count > 5000, "only {count} instructions: the code was not found");
}

/// Applies the check to instructions that must not pass (encodings from the SDM, vol. 2).
#[test]
fn the_check_rejects_instructions_outside_the_integer_set() {
    let mut factory = InstructionInfoFactory::new();
    let foreign: &[(&str, &[u8])] = &[
        ("xorps xmm0, xmm0", &[0x0f, 0x57, 0xc0]),
        ("movq xmm0, rax", &[0x66, 0x48, 0x0f, 0x6e, 0xc0]),
        ("movups xmm0, [rax]", &[0x0f, 0x10, 0x00]),
        ("movnti [rax], ecx", &[0x0f, 0xc3, 0x08]),
        ("emms", &[0x0f, 0x77]),
        ("fld1", &[0xd9, 0xe8]),
        ("fninit", &[0xdb, 0xe3]),
        ("vxorps ymm0, ymm0, ymm0", &[0xc5, 0xfc, 0x57, 0xc0]),
        ("popcnt eax, ecx", &[0xf3, 0x0f, 0xb8, 0xc1]),
        ("lzcnt eax, ecx", &[0xf3, 0x0f, 0xbd, 0xc1]),
        ("blsr eax, ecx", &[0xc4, 0xe2, 0x78, 0xf3, 0xc9]),
        ("andn eax, ecx, edx", &[0xc4, 0xe2, 0x70, 0xf2, 0xc2]),
        ("shlx eax, ecx, edx", &[0xc4, 0xe2, 0x69, 0xf7, 0xc1]),
        ("rdtscp", &[0x0f, 0x01, 0xf9]),
        ("cmpxchg16b [rax]", &[0x48, 0x0f, 0xc7, 0x08]),
        ("xsave [rax]", &[0x0f, 0xae, 0x20]),
        ("fxsave [rax]", &[0x0f, 0xae, 0x00]),
        ("ldmxcsr [rax]", &[0x0f, 0xae, 0x10]),
        ("undecodable", &[0x06]),
    ];
    for (name, bytes) in foreign {
        let instruction = Decoder::new(64, bytes, OPTIONS).decode();
        let passes =
            is_integer(&instruction) && uses_general_registers_only(&instruction, &mut factory);
        assert!(!passes, "{name} passes as {}", show(&instruction));
    }
}

#[test]
fn the_image_has_a_build_id() {
    let id = Image::parse(image()).expect("an image").build_id();
    assert_eq!(id.expect("a build-id").len(), 20, "SHA-1, as the linker makes them");
}

#[test]
fn the_image_has_a_pvh_note_that_names_its_32_bit_entry() {
    // Xen's public header elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY is 18. Name size, descriptor size,
    // type, name, descriptor.
    let mut note = Vec::new();
    [4u32, 4, 18].iter().for_each(|word| note.extend(word.to_le_bytes()));
    note.extend(b"Xen\0");
    let entry = file().symbol_by_name("pvh_start").expect("pvh_start").address();
    let physical = (entry - 0xffff_ffff_8000_0000) as u32;
    note.extend(physical.to_le_bytes());
    const PT_NOTE: u32 = 4;
    let headers = program_headers(image());
    let header = headers.iter().find(|header| header.p_type(LE).0 == PT_NOTE).expect("a PT_NOTE");
    let notes = &image()[header.p_offset(LE) as usize..][..header.p_filesz(LE) as usize];
    assert!(notes.windows(note.len()).any(|window| window == note), "{notes:x?}");
}

#[test]
fn the_image_has_the_sections_that_unwinders_and_symbolizers_read() {
    let file = file();
    for name in [".eh_frame", ".debug_info", ".debug_line", ".debug_abbrev", ".symtab"] {
        let section = file.section_by_name(name).unwrap_or_else(|| panic!("no {name}"));
        assert!(section.size() > 0, "{name} is empty");
    }
}

#[test]
fn the_kernel_is_linked_in_the_higher_half() {
    for header in program_headers(image()) {
        if header.p_type(LE).0 == PT_LOAD {
            assert!(header.p_vaddr(LE) >= 0xffff_ffff_8000_0000, "{:#x}", header.p_vaddr(LE));
        }
    }
    assert!(file().entry() >= 0xffff_ffff_8000_0000);
}

#[test]
fn segments_do_not_overlap_in_either_address_space() {
    let ranges = |start: fn(&object::elf::ProgramHeader64<LE>) -> u64| {
        let headers = program_headers(image()).into_iter();
        let mut ranges: Vec<(u64, u64)> = headers
            .filter(|header| header.p_type(LE).0 == PT_LOAD)
            .map(|header| (start(&header), start(&header) + header.p_memsz(LE)))
            .collect();
        ranges.sort_unstable();
        ranges
    };
    for ranges in [ranges(|header| header.p_vaddr(LE)), ranges(|header| header.p_paddr(LE))] {
        assert!(ranges.len() >= 3);
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:x?}");
    }
}

#[test]
fn no_segment_is_both_writable_and_executable() {
    for header in program_headers(image()) {
        let flags = header.p_flags(LE).0;
        assert!(flags & (PF_X | PF_W) != PF_X | PF_W, "{:#x}", header.p_vaddr(LE));
    }
}

/// `build.rs` maps the directory of the build to a fixed one.
#[test]
fn the_image_does_not_contain_the_directory_of_its_build() {
    let root = env!("CARGO_MANIFEST_DIR").as_bytes();
    assert!(!image().windows(root.len()).any(|window| window == root));
}
