//! Modules of a kernel: their names, symbols and unwind rows.
//!
//! Owns the walk of the list of modules (kernel/module/, include/linux/module.h). Refuses to own the kernel's own
//! symbols (`symbols`) and the places of sections (`sections`). The list is the guest's: its length, and what each
//! module claims to have, is bounded.

use std::collections::HashSet;
use std::ops::Range;

use nmiscope_machine::{ReadError, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{Btf, BtfError, Kallsyms, OrcRow, OrcTable};

use super::sections::{self, SectionsLayout};
use crate::kernel::KernelPart;

/// The most modules that a list is believed to have.
const MAX_MODULES: usize = 4096;
/// The most symbols that a module is believed to have.
const MAX_SYMBOLS: u64 = 1 << 17;
/// The most symbols of all modules that are kept.
const MAX_ALL_SYMBOLS: usize = 1 << 20;
/// The most bytes of names, and of unwind rows, that a module is believed to have.
const MAX_BYTES: u64 = 16 << 20;
/// The longest name of a module with its zero byte: MODULE_NAME_LEN is 56.
const NAME: usize = 64;
/// The most parts of a module: the kernel has seven kinds (include/linux/module.h, `enum mod_mem_type`).
const MAX_PARTS: u64 = 16;
/// The number of a module's symbols that tell where its code lies, where its sections do not.
const ANCHORS: usize = 8;
/// The size of an ELF symbol (gABI, "Symbol Table"): name at 0, section at 6, value at 8.
const ELF_SYMBOL: usize = 24;

/// A module that the kernel has loaded.
#[derive(Debug, Clone)]
pub(super) struct Module {
    /// The guest-virtual address of its `struct module`.
    at: VirtualAddress,
    /// The name, as `lsmod` prints it.
    pub(super) name: String,
    /// The guest-virtual address of its code.
    pub(super) text: VirtualAddress,
    /// The size of its code in bytes.
    pub(super) text_size: u64,
    /// Ranges of guest-virtual addresses of its code and data.
    memory: Vec<Range<u64>>,
    /// Addresses and names of its symbols, ascending.
    symbols: Vec<(u64, String)>,
    /// Unwind rows of the code; `None` where the module has none or they cannot be read.
    rows: Option<OrcTable>,
}

impl Module {
    /// True for an address in the module's code.
    pub(super) fn is_text(&self, address: VirtualAddress) -> bool {
        address.offset_from(self.text).is_some_and(|offset| offset < self.text_size)
    }

    /// True for an address in the module's code or data.
    pub(super) fn contains(&self, address: VirtualAddress) -> bool {
        self.memory.iter().any(|part| part.contains(&address.0))
    }

    /// The row of an instruction of the module.
    pub(super) fn row(&self, address: VirtualAddress) -> Option<OrcRow> {
        self.rows.as_ref()?.row(address)
    }

    /// The name, address and size of the symbol that holds an address of the module. The last symbol of a range ends
    /// with the range.
    pub(super) fn symbol(&self, address: VirtualAddress) -> Option<(&str, VirtualAddress, u64)> {
        let behind = self.symbols.partition_point(|(begin, _)| *begin <= address.0);
        let (begin, name) = self.symbols.get(behind.checked_sub(1)?)?;
        let part = self.memory.iter().find(|part| part.contains(begin))?;
        let next = self.symbols.get(behind).map(|(next, _)| *next);
        let end = next.filter(|next| part.contains(next)).unwrap_or(part.end);
        (address.0 < end).then_some(())?;
        Some((name, VirtualAddress(*begin), end.saturating_sub(*begin)))
    }

    /// The address of the symbol of that name.
    pub(super) fn address_of(&self, name: &str) -> Option<VirtualAddress> {
        let found = self.symbols.iter().find(|(_, symbol)| symbol == name)?;
        Some(VirtualAddress(found.0))
    }
}

/// The places of the members of `struct module`, in bytes.
#[derive(Debug)]
struct Layout {
    list: u64,
    name: u64,
    /// The places of the address and the size of the code.
    text: (u64, u64),
    /// The places of the address and the size of each part.
    parts: Vec<(u64, u64)>,
    kallsyms: u64,
    symbols: [u64; 3],
    rows: Option<[u64; 3]>,
}

impl Layout {
    fn new(btf: &Btf) -> Result<Self, BtfError> {
        let at = |structure: &str, path: &str| Ok(btf.field(structure, path)?.offset);
        let module = |path: &str| at("module", path);
        // The code is the first of several parts where a module has several (MOD_TEXT is 0).
        let (text, parts) = match btf.field("module", "mem") {
            Ok(mem) => {
                let (base, size) = (at("module_memory", "base")?, at("module_memory", "size")?);
                let count = mem.size.checked_div(btf.size_of("module_memory")?).unwrap_or(0);
                let part = |number| {
                    let start = mem.offset + number * (mem.size / count);
                    (start + base, start + size)
                };
                let parts = (0..count.min(MAX_PARTS)).map(part).collect();
                ((mem.offset + base, mem.offset + size), parts)
            }
            Err(_) => {
                let base = module("core_layout.base")?;
                let part = (base, module("core_layout.size")?);
                ((base, module("core_layout.text_size")?), vec![part])
            }
        };
        let kallsyms = |path: &str| at("mod_kallsyms", path);
        let row = |path: &str| module(path).ok();
        let rows = [row("arch.num_orcs"), row("arch.orc_unwind_ip"), row("arch.orc_unwind")];
        Ok(Self {
            list: module("list")?,
            name: module("name")?,
            text,
            parts,
            kallsyms: module("kallsyms")?,
            symbols: [kallsyms("num_symtab")?, kallsyms("symtab")?, kallsyms("strtab")?],
            rows: match rows {
                [Some(count), Some(addresses), Some(rows)] => Some([count, addresses, rows]),
                _ => None,
            },
        })
    }
}

/// The modules of a kernel, and why the list ended early, if it did.
#[derive(Debug, Clone, Default)]
pub(super) struct Modules {
    pub(super) modules: Vec<Module>,
    /// A sentence on modules that are missing here.
    pub(super) fault: Option<String>,
    /// Places of the addresses of a module's sections; `None` where types do not say.
    sections: Option<SectionsLayout>,
}

impl Modules {
    /// Reads the list. `orc` are the kernel's own unwind rows, whose layout those of modules have.
    pub(super) fn read(
        symbols: &Kallsyms,
        btf: &Btf,
        orc: Option<&OrcTable>,
        memory: &dyn VirtualMemory,
    ) -> Self {
        let mut found = Self { sections: SectionsLayout::new(btf).ok(), ..Self::default() };
        if let Some(head) = symbols.address_of("modules") {
            found.fault = found.walk(head, btf, orc, memory).err().map(|fault| {
                format!("the list of modules ends after {}: {fault}", found.modules.len())
            });
        }
        found
    }

    fn walk(
        &mut self,
        head: VirtualAddress,
        btf: &Btf,
        orc: Option<&OrcTable>,
        memory: &dyn VirtualMemory,
    ) -> Result<(), String> {
        let layout = Layout::new(btf).map_err(|error| error.to_string())?;
        let mut at = memory.read_u64(head).map_err(|error| error.to_string())?;
        let mut seen = HashSet::new();
        while at != head.0 {
            if self.modules.len() == MAX_MODULES || !seen.insert(at) {
                return Err("it is longer than any real one, or leads back into itself".into());
            }
            let symbols = self.modules.iter().map(|module| module.symbols.len()).sum::<usize>();
            if symbols > MAX_ALL_SYMBOLS {
                return Err(format!("it has more than {MAX_ALL_SYMBOLS} symbols"));
            }
            let module = at.wrapping_sub(layout.list);
            let module = read_module(module, &layout, orc, memory);
            self.modules.push(module.map_err(|error| error.to_string())?);
            at = memory.read_u64(VirtualAddress(at)).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The module whose code or data holds an address.
    pub(super) fn holding(&self, address: VirtualAddress) -> Option<&Module> {
        self.modules.iter().find(|module| module.contains(address))
    }

    /// The modules as they lie in memory, by name. One whose sections cannot be read has symbols alone.
    pub(super) fn parts(&self, memory: &dyn VirtualMemory) -> Vec<(String, KernelPart)> {
        let part = |module: &Module| {
            let sections = self.sections.as_ref().map(|layout| layout.read(module.at, memory));
            let sections = sections.and_then(Result::ok).unwrap_or_default();
            let symbols = module.symbols.iter().take(ANCHORS);
            let symbols = symbols.map(|(at, name)| (name.clone(), VirtualAddress(*at))).collect();
            let text = module.text.0..module.text.0.saturating_add(module.text_size);
            let build_id = sections::build_id(&sections, memory);
            (module.name.clone(), KernelPart { build_id, text: vec![text], sections, symbols })
        };
        self.modules.iter().map(part).collect()
    }

    /// The module whose code holds an address.
    pub(super) fn containing(&self, address: VirtualAddress) -> Option<&Module> {
        self.modules.iter().find(|module| module.is_text(address))
    }
}

fn read_module(
    module: u64,
    layout: &Layout,
    orc: Option<&OrcTable>,
    memory: &dyn VirtualMemory,
) -> Result<Module, ReadError> {
    let at = |offset: u64| VirtualAddress(module.wrapping_add(offset));
    let mut name = [0; NAME];
    memory.read(at(layout.name), &mut name)?;
    let text = VirtualAddress(memory.read_u64(at(layout.text.0))?);
    let text_size = memory.read_u32(at(layout.text.1))?.into();
    let part = |&(base, size): &(u64, u64)| {
        let (base, size) = (memory.read_u64(at(base))?, memory.read_u32(at(size))?);
        Ok::<_, ReadError>(base..base.saturating_add(size.into()))
    };
    let parts = layout.parts.iter().map(part).collect::<Result<_, _>>()?;
    let symbols = read_symbols(memory.read_u64(at(layout.kallsyms))?, layout, memory);
    let rows = orc.zip(layout.rows).and_then(|(orc, rows)| read_rows(module, rows, orc, memory));
    Ok(Module {
        at: at(0),
        name: text_of(&name),
        text,
        text_size,
        memory: parts,
        symbols: symbols.unwrap_or_default(),
        rows,
    })
}

/// The symbols of a module that have a section and a name; none where the tables cannot be read.
fn read_symbols(
    kallsyms: u64,
    layout: &Layout,
    memory: &dyn VirtualMemory,
) -> Option<Vec<(u64, String)>> {
    let [count, table, names] = layout.symbols.map(|at| VirtualAddress(kallsyms.wrapping_add(at)));
    let count: u64 = memory.read_u32(count).ok()?.into();
    let table =
        read(memory.read_u64(table).ok()?, count.min(MAX_SYMBOLS) * ELF_SYMBOL as u64, memory)?;
    let names_at = memory.read_u64(names).ok()?;
    let mut symbols = Vec::new();
    for symbol in table.as_chunks::<ELF_SYMBOL>().0 {
        let [a, b, c, d, _, _, section_low, section_high, value @ .., _, _, _, _, _, _, _, _] =
            *symbol;
        let (name, section) = (u32::from_le_bytes([a, b, c, d]), [section_low, section_high]);
        let value = u64::from_le_bytes(value);
        if section == [0, 0] || value == 0 || u64::from(name) >= MAX_BYTES {
            continue;
        }
        let mut text = [0; 128];
        let name_at = VirtualAddress(names_at.wrapping_add(name.into()));
        if read_text(name_at, &mut text, memory).is_some() && text[0] != 0 {
            symbols.push((value, text_of(&text)));
        }
    }
    symbols.sort_unstable();
    Some(symbols)
}

/// Reads up to the end of a name, whose page may be the last one that is mapped.
pub(super) fn read_text(
    at: VirtualAddress,
    text: &mut [u8],
    memory: &dyn VirtualMemory,
) -> Option<()> {
    let to_page_end = (4096 - at.0 % 4096) as usize;
    let (first, second) = text.split_at_mut(to_page_end.min(text.len()));
    memory.read(at, first).ok()?;
    if !first.contains(&0) && !second.is_empty() {
        memory.read(at.wrapping_add(first.len() as u64), second).ok()?;
    }
    Some(())
}

fn read_rows(
    module: u64,
    layout: [u64; 3],
    orc: &OrcTable,
    memory: &dyn VirtualMemory,
) -> Option<OrcTable> {
    let [count, addresses, rows] = layout.map(|at| VirtualAddress(module.wrapping_add(at)));
    let count: u64 = memory.read_u32(count).ok()?.into();
    let addresses_at = memory.read_u64(addresses).ok()?;
    let addresses = read(addresses_at, count * 4, memory)?;
    let rows = read(memory.read_u64(rows).ok()?, count * 6, memory)?;
    orc.module(&addresses, VirtualAddress(addresses_at), &rows).ok()
}

fn read(at: u64, size: u64, memory: &dyn VirtualMemory) -> Option<Vec<u8>> {
    if size > MAX_BYTES {
        return None;
    }
    let mut bytes = vec![0; size as usize];
    memory.read(VirtualAddress(at), &mut bytes).ok()?;
    Some(bytes)
}

/// The text before the first zero byte.
pub(super) fn text_of(bytes: &[u8]) -> String {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
