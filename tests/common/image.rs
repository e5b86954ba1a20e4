//! The bundled image with some of its bytes changed, to make guests and files with one defect each.

use nmiscope_symbolizer::{Image, Types};
use object::elf::{FileHeader64, ProgramHeader64};
use object::endian::LittleEndian as LE;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// Bytes of the bundled image, with changes.
pub struct Patched(pub Vec<u8>);

/// Sizes of ELF-64 headers, and offsets of a program header's fields, in bytes (System V gABI, chapter 4).
pub const PROGRAM_HEADERS: usize = 64;
pub const PROGRAM_HEADER: usize = 56;
pub const P_OFFSET: usize = 8;
pub const P_PADDR: usize = 24;
pub const P_FILESZ: usize = 32;
pub const P_MEMSZ: usize = 40;

/// Returns the bundled image without changes.
pub fn bundled() -> Patched {
    Patched(nmiscope::bundled::image().to_vec())
}

/// Returns the program headers of an image.
pub fn program_headers(bytes: &[u8]) -> Vec<ProgramHeader64<LE>> {
    let header = FileHeader64::<LE>::parse(bytes).expect("an ELF file");
    header.program_headers(LE, bytes).expect("program headers").to_vec()
}

impl Patched {
    /// Writes bytes at a file offset.
    pub fn at_offset(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Writes a value to a field of a program header.
    pub fn program_header(self, index: usize, field: usize, value: u64) -> Self {
        let offset = PROGRAM_HEADERS + index * PROGRAM_HEADER + field;
        self.at_offset(offset, &value.to_le_bytes())
    }

    /// Writes bytes at a guest-virtual address.
    pub fn at_address(self, address: u64, bytes: &[u8]) -> Self {
        let holds = |header: &&ProgramHeader64<LE>| {
            let start = header.p_vaddr(LE);
            (start..start + header.p_filesz(LE)).contains(&address)
        };
        let headers = program_headers(&self.0);
        let header = headers.iter().find(holds).expect("an address in the image's data");
        let offset = header.p_offset(LE) + (address - header.p_vaddr(LE));
        self.at_offset(offset as usize, bytes)
    }

    /// Writes bytes to a member of a variable; for a per-CPU variable, to the initial value of all copies.
    pub fn variable(self, name: &str, member: &str, bytes: &[u8]) -> Self {
        let address = address_of(name, member);
        self.at_address(address, bytes)
    }

    /// Replaces the start of a function's machine code.
    pub fn function(self, part_of_name: &str, code: &[u8]) -> Self {
        let (address, size) = function(part_of_name);
        assert!(code.len() as u64 <= size, "{part_of_name} has {size} bytes only");
        self.at_address(address, code)
    }
}

thread_local! {
    /// The parsed bundled image, one for each thread: parsing takes longer than a lookup.
    static IMAGE: &'static Image<'static> =
        Box::leak(Box::new(Image::parse(nmiscope::bundled::image()).expect("an image")));
    static TYPES: &'static Types<'static> =
        Box::leak(Box::new(Types::new(IMAGE.with(|image| *image)).expect("debug information")));
}

/// Returns the address of a variable of the bundled guest, or of a member of it.
pub fn address_of(name: &str, member: &str) -> u64 {
    let types = TYPES.with(|types| *types);
    let variable = types.variable(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let place = if member.is_empty() { Ok(variable) } else { variable.field(member) };
    place.unwrap_or_else(|error| panic!("{name}.{member}: {error}")).address().0
}

/// Returns the address of a member of an array's element in the bundled guest.
pub fn address_in(array: &str, index: u64, member: &str) -> u64 {
    let types = TYPES.with(|types| *types);
    let element = types.variable(array).and_then(|array| array.index(index));
    let member = element.and_then(|element| element.field(member));
    member.unwrap_or_else(|error| panic!("{array}[{index}]: {error}")).address().0
}

/// Returns the address and size of the only function whose symbol contains `part_of_name`.
pub fn function(part_of_name: &str) -> (u64, u64) {
    use object::{Object as _, ObjectSymbol as _};
    let file = object::File::parse(nmiscope::bundled::image()).expect("an ELF file");
    let symbols = file.symbols();
    let mut matching = symbols.filter(|symbol| {
        symbol.size() > 0 && symbol.name().is_ok_and(|name| name.contains(part_of_name))
    });
    let symbol = matching.next().unwrap_or_else(|| panic!("no symbol has {part_of_name}"));
    assert!(matching.next().is_none(), "several symbols have {part_of_name} in their names");
    (symbol.address(), symbol.size())
}

/// Returns the file offset and size of a section of the bundled guest.
pub fn section(name: &str) -> (usize, usize) {
    use object::{Object as _, ObjectSection as _};
    let file = object::File::parse(nmiscope::bundled::image()).expect("an ELF file");
    let section = file.section_by_name(name).unwrap_or_else(|| panic!("no section {name}"));
    let (offset, size) = section.file_range().expect("a section with bytes in the file");
    (offset as usize, size as usize)
}
