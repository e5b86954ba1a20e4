//! Symbols by name, for the `func` of a kernel's log.
//!
//! Owns the index that makes thousands of such lookups cheap, and the spellings of a name that count as the
//! same. Called by [`Symbols::named`](super::Symbols::named) alone.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use nmiscope_names::{demangle, short_name};

use super::{NamedSymbol, Symbols};

/// Symbols of one name that are examined. Debian's kernels have up to some fifty.
const MAX_NAMESAKES: usize = 1024;
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
}

impl NameIndex {
    pub(super) fn new(symbols: &Symbols<'_>) -> Self {
        let mut index = Self::default();
        for (symbol, address) in symbols.places() {
            let Some(name) = symbols.name(symbol) else { continue };
            index.exact.push((hash(&name), symbol));
            for spelling in spellings(&name) {
                index.spellings.entry(spelling).or_default().push(symbol);
            }
            if !NOT_IN_KALLSYMS.iter().any(|prefix| name.starts_with(prefix)) {
                index.starts.push(address);
            }
        }
        index.exact.sort_unstable();
        index.starts.sort_unstable();
        index.starts.dedup();
        index
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

/// Other spellings of a symbol's name: the path of a mangled name and the last part of that; the name
/// without its hash for a symbol that LTO made global.
fn spellings(name: &str) -> Vec<String> {
    if let Some((plain, _)) = name.split_once(".llvm.") {
        return vec![plain.to_owned()];
    }
    if !name.starts_with("_R") && !name.starts_with("_Z") {
        return Vec::new();
    }
    let path = demangle(name);
    if path == name {
        return Vec::new();
    }
    let last = short_name(&path).to_owned();
    if last == path { vec![path] } else { vec![path, last] }
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
