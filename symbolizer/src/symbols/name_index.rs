//! Symbols by name, for the `func` of a kernel's log.
//!
//! Owns the index that makes thousands of such lookups cheap, and the spellings of a name that count as the
//! same. Called by [`Symbols::named`](super::Symbols::named) alone.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use nmiscope_names::{demangle, short_name, without_parameters};

use super::{NamedSymbol, Symbols};

/// Symbols of one name that are examined. Debian's kernels have up to some fifty.
const MAX_NAMESAKES: usize = 1024;
/// Bytes of names that are read, where those of a mangled name count [`MANGLED`] times.
const MAX_READ: usize = 1 << 30;
/// The cost of demangling a byte, in bytes that are only read.
const MANGLED: usize = 8;
/// Bytes of memory that other spellings may take. A short name unfolds to 4 KiB of them.
const MAX_SPELLED: usize = 128 << 20;
/// Bytes of memory that a spelling takes beside its text: its place in the map and the list of its symbols.
const SPELLING: usize = 96;
/// Prefixes of symbols that kernels leave out of kallsyms (`is_ignored_symbol()` in scripts/kallsyms.c, 6.1
/// and 6.12, and `is_mapping_symbol()` for modules), so that they do not end the symbol before them.
const NOT_IN_KALLSYMS: [&str; 10] = [
    "$",
    ".L",
    "L0",
    "__crc_",
    "__efistub_",
    "__kcfi_typeid_",
    "__kstrtab",
    "__kvm_nvhe_",
    "__pi_",
    "kallsyms_",
];

/// Symbols of a table, by all spellings of their names.
#[derive(Clone, Debug, Default)]
pub(super) struct NameIndex {
    /// Hash of the linkage name and index of the symbol, sorted.
    exact: Vec<(u64, u32)>,
    /// Indices of symbols by other spellings of the name. C symbols have no other.
    spellings: HashMap<String, Vec<u32>>,
    /// Addresses of symbols, sorted and without duplicates.
    starts: Vec<u64>,
    /// True if names or other spellings are missing for want of work or memory.
    is_budget_spent: bool,
}

impl NameIndex {
    pub(super) fn new(symbols: &Symbols<'_>) -> Self {
        let mut index = Self::default();
        // Names may overlap in the table, so that a small file has a lot of them.
        let mut left_to_read = MAX_READ;
        // `None` once other spellings have spent their budget: no further name is demangled.
        let mut left_to_spell = Some(MAX_SPELLED);
        for (symbol, address) in symbols.places() {
            let Some(name) = symbols.name(symbol) else { continue };
            let is_demangled = is_mangled(&name) && left_to_spell.is_some();
            let cost = name.len() * if is_demangled { MANGLED } else { 1 };
            let Some(left) = left_to_read.checked_sub(cost) else {
                index.is_budget_spent = true;
                break;
            };
            left_to_read = left;
            index.exact.push((hash(&name), symbol));
            left_to_spell = left_to_spell.and_then(|left| index.spell(&name, symbol, left));
            if !NOT_IN_KALLSYMS.iter().any(|prefix| name.starts_with(prefix)) {
                index.starts.push(address);
            }
        }
        index.is_budget_spent |= left_to_spell.is_none();
        index.exact.sort_unstable();
        index.starts.sort_unstable();
        index.starts.dedup();
        index
    }

    /// Adds the other spellings of a symbol's name. Returns the memory that is left of `left` bytes; `None` if
    /// it is too little.
    fn spell(&mut self, name: &str, symbol: u32, mut left: usize) -> Option<usize> {
        for spelling in spellings(name) {
            left = left.checked_sub(SPELLING + spelling.len())?;
            self.spellings.entry(spelling).or_default().push(symbol);
        }
        Some(left)
    }

    /// True if names or other spellings are missing for want of work or memory.
    pub(super) fn is_budget_spent(&self) -> bool {
        self.is_budget_spent
    }

    pub(super) fn find<'data>(
        &self,
        symbols: &Symbols<'data>,
        name: &str,
    ) -> Vec<NamedSymbol<'data>> {
        let wanted = hash(name);
        let from = self.exact.partition_point(|&(hash, _)| hash < wanted);
        let mut found: Vec<NamedSymbol<'data>> = self.exact[from..]
            .iter()
            .take_while(|&&(hash, _)| hash == wanted)
            .take(MAX_NAMESAKES)
            .filter_map(|&(_, index)| self.symbol(symbols, index))
            .filter(|named| named.symbol.name == name)
            .collect();
        if found.is_empty() {
            let spelled = self.spellings.get(name).map(Vec::as_slice).unwrap_or_default();
            let spelled = spelled.iter().take(MAX_NAMESAKES);
            found.extend(spelled.filter_map(|&index| self.symbol(symbols, index)));
        }
        found
    }

    fn symbol<'data>(&self, symbols: &Symbols<'data>, index: u32) -> Option<NamedSymbol<'data>> {
        let symbol = symbols.symbol(index)?;
        let next = self.starts.partition_point(|&start| start <= symbol.address.0);
        // Behind a section's last symbol the distance depends on where the kernel has put the rest.
        let section_end = symbols.section_end(index)?;
        let extent = self
            .starts
            .get(next)
            .filter(|&&next| next < section_end)
            .map(|next| next - symbol.address.0);
        Some(NamedSymbol { symbol, extent })
    }
}

/// Other spellings of a symbol's name: the path of a mangled name, that without C++ parameters, and its last
/// part; the name without its hash for a symbol that LTO made global.
fn spellings(name: &str) -> Vec<String> {
    if let Some((plain, _)) = name.split_once(".llvm.") {
        return vec![plain.to_owned()];
    }
    if !is_mangled(name) {
        return Vec::new();
    }
    let path = demangle(name);
    if path == name {
        return Vec::new();
    }
    let bare = without_parameters(&path).to_owned();
    let last = short_name(&path).to_owned();
    let mut spellings = vec![path];
    for other in [bare, last] {
        if !spellings.contains(&other) {
            spellings.push(other);
        }
    }
    spellings
}

fn is_mangled(name: &str) -> bool {
    name.starts_with("_R") || name.starts_with("_Z")
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
