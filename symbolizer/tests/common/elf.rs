//! Small ELF files made by hand: sections, symbols, and DWARF written by gimli.

#![allow(dead_code, reason = "each test uses its part")]

use gimli::write::{
    Address, AttributeValue, DwarfUnit, EndianVec, Expression, LineProgram, LineString, Sections,
};
use gimli::{Encoding, Format, LineEncoding, LittleEndian};

pub const TEXT: u64 = 0xffff_ffff_8000_1000;
pub const TEXT_SIZE: u64 = 0x1000;
pub const DATA: u64 = 0xffff_ffff_8000_3000;
/// Load addresses of the sections of these names.
pub const EH_FRAME: u64 = 0xffff_ffff_8000_4000;
pub const EH_FRAME_HDR: u64 = 0xffff_ffff_8001_4000;

pub type Section = (&'static str, Vec<u8>);

#[derive(Clone, Copy)]
pub struct Symbol {
    pub name: &'static str,
    pub address: u64,
    pub size: u64,
    /// Binding of the symbol in the upper four bits, type in the lower four.
    pub info: u8,
}

pub const LOCAL_FUNCTION: u8 = 0x02;
pub const GLOBAL_FUNCTION: u8 = 0x12;
pub const GLOBAL_LABEL: u8 = 0x10;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Compression {
    None,
    /// Compressed as a zlib stream of stored blocks.
    Zlib,
    /// Compressed as a zstd frame of raw blocks, and of runs where a block has one byte only.
    Zstd,
}

/// Makes an ET_EXEC with a code segment at [`TEXT`], a `.text` without bytes, and these sections. A section
/// called `.rela.` and the name of another holds its relocations.
pub fn elf(sections: &[Section], symbols: &[Symbol], compression: Compression) -> Vec<u8> {
    let mut names = vec![0];
    let mut headers = vec![[0_u64; 10]];
    let mut file = vec![0; 64 + 56];
    let mut add = |name: &str, kind: u64, flags: u64, address: u64, bytes: &[u8], link: u64| {
        let info = sections.iter().position(|(other, _)| name == format!(".rela{other}"));
        let at = file.len() as u64;
        file.extend_from_slice(bytes);
        file.resize(file.len().next_multiple_of(8), 0);
        headers.push([
            names.len() as u64,
            kind,
            flags,
            address,
            at,
            bytes.len() as u64,
            link,
            // The sections begin behind the null header, .text, .strtab and .symtab.
            info.map_or(0, |index| index as u64 + 4),
            8,
            if kind == 2 || kind == 4 { 24 } else { 0 },
        ]);
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    };
    add(".text", 1, 6, TEXT, &[0x90; TEXT_SIZE as usize], 0);
    let mut strings = vec![0];
    let mut table = vec![0; 24];
    for symbol in symbols {
        table.extend_from_slice(&(strings.len() as u32).to_le_bytes());
        table.extend_from_slice(&[symbol.info, 0, 1, 0]);
        table.extend_from_slice(&symbol.address.to_le_bytes());
        table.extend_from_slice(&symbol.size.to_le_bytes());
        strings.extend_from_slice(symbol.name.as_bytes());
        strings.push(0);
    }
    add(".strtab", 3, 0, 0, &strings, 0);
    if !symbols.is_empty() {
        add(".symtab", 2, 0, 0, &table, 2);
    }
    for (name, bytes) in sections {
        if name.starts_with(".rela.") {
            add(name, 4, 0, 0, bytes, 3);
            continue;
        }
        match compression {
            _ if *name == ".eh_frame" => add(name, 1, 2, EH_FRAME, bytes, 0),
            _ if *name == ".eh_frame_hdr" => add(name, 1, 2, EH_FRAME_HDR, bytes, 0),
            Compression::None => add(name, 1, 0, 0, bytes, 0),
            Compression::Zlib => add(name, 1, 0x800, 0, &compressed(bytes, 1, &zlib(bytes)), 0),
            Compression::Zstd => add(name, 1, 0x800, 0, &compressed(bytes, 2, &zstd(bytes)), 0),
        }
    }
    let index = headers.len() as u16;
    headers.push([names.len() as u64, 3, 0, 0, file.len() as u64, 0, 0, 0, 1, 0]);
    names.extend_from_slice(b".shstrtab\0");
    headers[usize::from(index)][5] = names.len() as u64;
    file.extend_from_slice(&names);
    file.resize(file.len().next_multiple_of(8), 0);
    let table = file.len() as u64;
    for [name, kind, flags, address, at, size, link, info, align, entry] in &headers {
        file.extend_from_slice(&(*name as u32).to_le_bytes());
        file.extend_from_slice(&(*kind as u32).to_le_bytes());
        for word in [flags, address, at, size] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&(*link as u32).to_le_bytes());
        file.extend_from_slice(&(*info as u32).to_le_bytes());
        file.extend_from_slice(&align.to_le_bytes());
        file.extend_from_slice(&entry.to_le_bytes());
    }
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    for (at, half) in
        [(16, 2), (18, 62), (52, 64), (54, 56), (56, 1), (58, 64), (60, index + 1), (62, index)]
    {
        put(at, &u16::to_le_bytes(half));
    }
    put(20, &1_u32.to_le_bytes());
    put(24, &TEXT.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(40, &table.to_le_bytes());
    put(64, &1_u32.to_le_bytes());
    put(68, &5_u32.to_le_bytes());
    for (at, word) in [(72, 120), (80, TEXT), (96, TEXT_SIZE), (104, TEXT_SIZE), (112, 0x1000)] {
        put(at, &u64::to_le_bytes(word));
    }
    file
}

/// Makes a compressed section: Elf64_Chdr and a stream.
fn compressed(bytes: &[u8], format: u32, stream: &[u8]) -> Vec<u8> {
    let mut section = format.to_le_bytes().to_vec();
    section.extend_from_slice(&[0; 4]);
    section.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    section.extend_from_slice(&1_u64.to_le_bytes());
    section.extend_from_slice(stream);
    section
}

/// RFC 1950 and 1951, stored blocks only.
fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let mut blocks = bytes.chunks(0xffff).peekable();
    if blocks.peek().is_none() {
        stream.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        stream.push(u8::from(blocks.peek().is_none()));
        stream.extend_from_slice(&(block.len() as u16).to_le_bytes());
        stream.extend_from_slice(&(!(block.len() as u16)).to_le_bytes());
        stream.extend_from_slice(block);
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for &byte in bytes {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    stream.extend_from_slice(&(b << 16 | a).to_be_bytes());
    stream
}

/// RFC 8878, a single segment.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    stream.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    let mut left = bytes.len();
    let blocks: Vec<&[u8]> =
        if bytes.is_empty() { vec![bytes] } else { bytes.chunks(128 << 10).collect() };
    for block in blocks {
        left -= block.len();
        let is_run = block.len() > 1 && block.iter().all(|byte| *byte == block[0]);
        let header = (block.len() as u32) << 3 | u32::from(is_run) << 1 | u32::from(left == 0);
        stream.extend_from_slice(&header.to_le_bytes()[..3]);
        stream.extend_from_slice(if is_run { &block[..1] } else { block });
    }
    stream
}

/// Debug sections for this source, laid out by hand:
///
/// ```text
/// /src/../src/lock.rs
///  10  fn lock() {            TEXT+0x100 .. TEXT+0x200
///  12      spin();            inlined at TEXT+0x140 .. TEXT+0x160
///       }
///  20  fn spin() {
///  21      pause();           inlined at TEXT+0x148 .. TEXT+0x150
///       }
///  30  fn pause() {}
/// ```
///
/// `helper` at TEXT+0x400 .. TEXT+0x410, a function inside `lock` and without lines,
/// and `static printk::LOG: Ring { len: Atomic { value: u64 }, cpus: [u32; 4] }` at [`DATA`].
pub fn debug_sections(version: u16) -> Vec<Section> {
    let encoding = Encoding { format: Format::Dwarf32, version, address_size: 8 };
    let mut program = LineProgram::new(
        encoding,
        LineEncoding::default(),
        LineString::String(b"/src/guest".to_vec()),
        None,
        LineString::String(b"main.rs".to_vec()),
        None,
    );
    let directory = program.add_directory(LineString::String(b"../src".to_vec()));
    let file = program.add_file(LineString::String(b"./lock.rs".to_vec()), directory, None);
    program.begin_sequence(Some(Address::Constant(TEXT + 0x100)));
    for (offset, line) in
        [(0, 10), (0x40, 21), (0x48, 30), (0x50, 22), (0x60, 13), (0x70, 0), (0x80, 14)]
    {
        program.row().address_offset = offset;
        program.row().file = file;
        program.row().line = line;
        program.generate_row();
    }
    program.end_sequence(0x100);

    let mut dwarf = DwarfUnit::new(encoding);
    dwarf.unit.line_program = program;
    let unit = &mut dwarf.unit;
    let root = unit.root();
    let text = |text: &str| AttributeValue::String(text.into());
    let mut add = |parent, tag, attributes: &[(gimli::DwAt, AttributeValue)]| {
        let entry = unit.add(parent, tag);
        for (name, value) in attributes {
            unit.get_mut(entry).set(*name, value.clone());
        }
        entry
    };
    let here = |begin: u64, size: u64| {
        [
            (gimli::DW_AT_low_pc, AttributeValue::Address(Address::Constant(TEXT + begin))),
            (gimli::DW_AT_high_pc, AttributeValue::Udata(size)),
        ]
    };
    let pause = add(
        root,
        gimli::DW_TAG_subprogram,
        &[
            (gimli::DW_AT_linkage_name, text("_ZN5guest5pause17h0123456789abcdefE")),
            (gimli::DW_AT_name, text("pause")),
        ],
    );
    let spin = add(root, gimli::DW_TAG_subprogram, &[(gimli::DW_AT_name, text("spin"))]);
    let lock = add(root, gimli::DW_TAG_subprogram, &here(0x100, 0x100));
    let [low, high] = here(0x400, 0x10);
    add(lock, gimli::DW_TAG_subprogram, &[(gimli::DW_AT_name, text("helper")), low, high]);
    let origin = |of| (gimli::DW_AT_abstract_origin, AttributeValue::UnitRef(of));
    let line = |line| (gimli::DW_AT_call_line, AttributeValue::Udata(line));
    let call_file = (gimli::DW_AT_call_file, AttributeValue::FileIndex(Some(file)));
    let block = add(lock, gimli::DW_TAG_lexical_block, &[]);
    let [low, high] = here(0x140, 0x20);
    let outer = add(
        block,
        gimli::DW_TAG_inlined_subroutine,
        &[origin(spin), low, high, line(12), call_file.clone()],
    );
    let [low, high] = here(0x148, 8);
    add(outer, gimli::DW_TAG_inlined_subroutine, &[origin(pause), low, high, line(21), call_file]);
    let sized = |size| (gimli::DW_AT_byte_size, AttributeValue::Udata(size));
    let named = |name| (gimli::DW_AT_name, text(name));
    let unsigned = (gimli::DW_AT_encoding, AttributeValue::Encoding(gimli::DW_ATE_unsigned));
    let of = |ty| (gimli::DW_AT_type, AttributeValue::UnitRef(ty));
    let at = |at| (gimli::DW_AT_data_member_location, AttributeValue::Udata(at));
    let long = add(root, gimli::DW_TAG_base_type, &[named("u64"), sized(8), unsigned.clone()]);
    let int = add(root, gimli::DW_TAG_base_type, &[named("u32"), sized(4), unsigned]);
    let array = add(root, gimli::DW_TAG_array_type, &[of(int)]);
    add(
        array,
        gimli::DW_TAG_subrange_type,
        &[(gimli::DW_AT_upper_bound, AttributeValue::Udata(3))],
    );
    let marker = add(root, gimli::DW_TAG_structure_type, &[named("PhantomData"), sized(0)]);
    let atomic = add(root, gimli::DW_TAG_structure_type, &[named("Atomic"), sized(8)]);
    add(atomic, gimli::DW_TAG_member, &[named("marker"), of(marker), at(0)]);
    add(atomic, gimli::DW_TAG_member, &[named("value"), of(long), at(0)]);
    // An array of nothing, which no compiler makes.
    let broken = add(root, gimli::DW_TAG_array_type, &[]);
    let mut location = Expression::new();
    location.op_addr(Address::Constant(DATA));
    let location = (gimli::DW_AT_location, AttributeValue::Exprloc(location));
    add(root, gimli::DW_TAG_variable, &[named("BROKEN"), of(broken), location]);
    let namespace = add(root, gimli::DW_TAG_namespace, &[named("printk")]);
    let ring = add(namespace, gimli::DW_TAG_structure_type, &[named("Ring"), sized(24)]);
    add(ring, gimli::DW_TAG_member, &[named("cpus"), of(array), at(8)]);
    add(ring, gimli::DW_TAG_member, &[named("len"), of(atomic), at(0)]);
    let mut location = Expression::new();
    location.op_addr(Address::Constant(DATA));
    add(
        namespace,
        gimli::DW_TAG_variable,
        &[named("LOG"), of(ring), (gimli::DW_AT_location, AttributeValue::Exprloc(location))],
    );
    unit.get_mut(root).set(gimli::DW_AT_comp_dir, text("/src/guest"));
    let [low, high] = here(0, TEXT_SIZE);
    for (name, value) in [low, high] {
        unit.get_mut(root).set(name, value);
    }
    // As GCC does and LLVM does not.
    for entry in [pause, spin, lock, block, outer, array, atomic, ring] {
        unit.get_mut(entry).set_sibling(version == 5);
    }
    let mut sections = Sections::new(EndianVec::new(LittleEndian));
    dwarf.write(&mut sections).expect("DWARF");
    let mut written = Vec::new();
    sections
        .for_each(|id, data| {
            if !data.slice().is_empty() {
                written.push((id.name(), data.slice().to_vec()));
            }
            Ok::<_, gimli::Error>(())
        })
        .expect("sections");
    written
}

/// A `.debug_aranges` of these ranges, begin and size, of the unit at each offset.
pub fn aranges(sets: &[(u32, u64, u64)]) -> Section {
    let mut bytes = Vec::new();
    for (unit, begin, size) in sets {
        // The length of what follows, version 2, the unit, 8 bytes per address, none per segment.
        bytes.extend_from_slice(&44_u32.to_le_bytes());
        bytes.extend_from_slice(&2_u16.to_le_bytes());
        bytes.extend_from_slice(&unit.to_le_bytes());
        bytes.extend_from_slice(&[8, 0, 0, 0, 0, 0]);
        for word in [*begin, *size, 0, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    (".debug_aranges", bytes)
}

pub const SYMBOLS: [Symbol; 5] = [
    Symbol { name: "entry_label", address: TEXT, size: 0, info: GLOBAL_LABEL },
    Symbol { name: "local_alias", address: TEXT + 0x100, size: 0x100, info: LOCAL_FUNCTION },
    Symbol { name: "lock.cold", address: TEXT + 0x100, size: 0x100, info: GLOBAL_FUNCTION },
    Symbol { name: "inside", address: TEXT + 0x120, size: 0, info: GLOBAL_LABEL },
    Symbol { name: "after", address: TEXT + 0x300, size: 0x10, info: GLOBAL_FUNCTION },
];
