//! Prints what a Linux kernel's image says about itself, for a comparison with other programs
//! (`tests/linux_guest/check.py`).
//!
//! ```text
//! linux_tables kallsyms IMAGE BASE              each symbol: address and name
//! linux_tables btf IMAGE BASE < PATHS           for each "STRUCTURE PATH" of the input: that, offset and size
//! ```
//!
//! IMAGE is a copy of the kernel's image in a guest's memory, BASE the guest-virtual address of its first byte, in
//! hexadecimal digits.

use std::error::Error;
use std::io::Write;

use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::linux::{Btf, Kallsyms};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, image, base] = arguments.as_slice() else {
        return Err("usage: linux_tables kallsyms|btf IMAGE BASE".into());
    };
    let image = std::fs::read(image)?;
    let base = VirtualAddress(u64::from_str_radix(base, 16)?);
    let symbols = Kallsyms::find(&image, base)?;
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    if command == "kallsyms" {
        for symbol in symbols.iter() {
            writeln!(output, "{:016x} {}", symbol.address.0, symbol.name)?;
        }
        return Ok(());
    }
    let offset = |name: &str| {
        let address = symbols.address_of(name).ok_or_else(|| format!("no symbol {name}"))?;
        address.offset_from(base).ok_or_else(|| format!("{name} is outside the image"))
    };
    let (start, end) = (offset("__start_BTF")?, offset("__stop_BTF")?);
    let bytes = image.get(start as usize..end as usize).ok_or("BTF is outside the image")?;
    let btf = Btf::parse(bytes)?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let (structure, path) = line.split_once(' ').ok_or("a line is no STRUCTURE PATH")?;
        match btf.field(structure, path) {
            Ok(field) => writeln!(output, "{line} {} {}", field.offset, field.size)?,
            Err(error) => writeln!(output, "{line} - {error}")?,
        }
    }
    Ok(())
}
