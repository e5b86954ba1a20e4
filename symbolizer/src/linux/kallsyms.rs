//! kallsyms: the symbol table that a kernel keeps in its read-only data.
//!
//! Owns the search for the table's parts and their decoding (kernel/kallsyms.c, scripts/kallsyms.c). Refuses to
//! own where the kernel's image lies.
//!
//! Names are sequences of indices into 256 tokens. Two orders of the parts exist, told by what lies where:
//!
//! | kernels | order |
//! |---|---|
//! | to 6.3 | offsets, relative_base, **num_syms, names, markers, token_table, token_index** |
//! | from 6.4 | **num_syms, names, markers, token_table, token_index**, offsets, relative_base, seqs_of_names |
//!
//! In 6.1 of Debian, `seqs_of_names` lies between markers and tokens.
//!
//! The search begins with the tokens: `0` to `9` are among the names of every kernel, and so stand at the indices
//! of their own characters. `token_index` repeats where each token begins, `markers` where each 256th name
//! does, and addresses ascend, so that a table that passes was not found by chance.

use std::cell::OnceCell;
use std::fmt;
use std::ops::Range;

use memchr::memmem;
use nmiscope_machine::VirtualAddress;

/// The tokens `0` to `9`, as they lie one after another.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// The number of tokens in a table.
const TOKENS: usize = 256;
/// The most bytes that all tokens take: a token is a part of a name.
const MAX_TOKEN_TABLE: usize = 16 << 10;
/// The number of names between two markers.
const MARKED: usize = 256;
/// The most symbols that a kernel is believed to have; 7.2 of Debian has 187,000.
const MAX_SYMBOLS: usize = 1 << 20;
/// The fewest symbols that a kernel is believed to have.
const MIN_SYMBOLS: usize = 256;
/// The most tokens in a name: a length of two bytes has 15 bits, and KSYM_NAME_LEN is 512.
const MAX_NAME: usize = 512;
/// Bytes before the tokens in which the names are looked for: those of 7.2 of Debian take 4 MiB.
const MAX_NAME_TABLE: usize = 32 << 20;
/// Alignments of the parts (`ALGN` in scripts/kallsyms.c): 8 bytes, and 4 from 7.0 on.
const ALIGNMENTS: [usize; 2] = [8, 4];
/// Tables of tokens that are tried.
const MAX_CANDIDATES: usize = 64;

/// The reason why there is no symbol table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KallsymsError {
    /// No table of tokens is in the image: the kernel was built without CONFIG_KALLSYMS, or has not been
    /// unpacked yet.
    #[error("find kallsyms: the image has no table of tokens")]
    NoTokens,
    /// A table of tokens is there, and no names that match it.
    #[error("find kallsyms: the image has tokens, and no names that are made of them")]
    NoNames,
    /// Names are there, and no addresses for them that ascend.
    #[error("find kallsyms: the image has names, and no addresses for them")]
    NoAddresses,
}

/// A symbol of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSymbol {
    /// The name, without the type.
    pub name: String,
    /// The type as `nm` has it: `T` and `t` are code, `D`, `d`, `B`, `b`, `R`, `r` data.
    pub kind: char,
    /// The guest-virtual address at run time; for a per-CPU variable of older kernels its offset in the per-CPU
    /// area.
    pub address: VirtualAddress,
    /// Bytes to the next symbol, which the kernel prints as the size; `None` for the last symbol.
    pub extent: Option<u64>,
}

/// The symbol table of a kernel, without those of its modules.
#[derive(Clone)]
pub struct Kallsyms {
    tokens: Vec<Vec<u8>>,
    names: Vec<u8>,
    /// Offsets of entries in `names`, in the table's order.
    positions: Vec<u32>,
    /// Addresses with the index of their entry, ascending.
    by_address: Vec<(u64, u32)>,
    /// Hashes of names with indices of `by_address`, ascending.
    by_name: OnceCell<Vec<(u64, u32)>>,
    /// Guest-virtual ranges of the table's parts.
    places: [Range<u64>; 3],
}

/// The tokens and the place behind their index.
struct TokenTable {
    tokens: Vec<Vec<u8>>,
    begin: usize,
    end: usize,
}

/// The names and the places around them.
struct NameTable {
    /// The offset of `num_syms` in the image.
    count_at: usize,
    begin: usize,
    end: usize,
    /// The end of the markers, which follow the names.
    markers_end: usize,
    positions: Vec<u32>,
}

/// The addresses of all names, in the table's order, and the places of their offsets and base in the image.
struct AddressTable {
    addresses: Vec<u64>,
    place: Range<usize>,
}

impl Kallsyms {
    /// Finds the table in a kernel's image or a part of it. `image` is memory from the guest-virtual address `base`
    /// on; pages that are not there are zeros.
    ///
    /// # Errors
    /// [`KallsymsError`], of the part that got furthest.
    pub fn find(image: &[u8], base: VirtualAddress) -> Result<Self, KallsymsError> {
        let mut error = KallsymsError::NoTokens;
        for digits in memmem::find_iter(image, DIGITS).take(MAX_CANDIDATES) {
            let Some(tokens) = find_tokens(image, digits) else { continue };
            let Some(names) = find_names(image, &tokens) else {
                if error == KallsymsError::NoTokens {
                    error = KallsymsError::NoNames;
                }
                continue;
            };
            match find_addresses(image, base, &tokens, &names) {
                Some(addresses) => return Ok(Self::new(image, base, tokens, names, addresses)),
                None => error = KallsymsError::NoAddresses,
            }
        }
        Err(error)
    }

    fn new(
        image: &[u8],
        base: VirtualAddress,
        tokens: TokenTable,
        names: NameTable,
        addresses: AddressTable,
    ) -> Self {
        let AddressTable { addresses, place } = addresses;
        let mut by_address: Vec<(u64, u32)> = addresses.into_iter().zip(0..).collect();
        // The table is in this order, but for per-CPU offsets of older kernels.
        by_address.sort_unstable();
        let places = [names.count_at..names.markers_end, tokens.begin..tokens.end, place];
        let places = places.map(|place| base.0 + place.start as u64..base.0 + place.end as u64);
        Self {
            tokens: tokens.tokens,
            names: image[names.begin..names.end].to_vec(),
            positions: names.positions,
            by_address,
            by_name: OnceCell::new(),
            places,
        }
    }

    /// Guest-virtual ranges of the table's parts: memory in which [`find`](Self::find) finds the table again. What
    /// lies between them is not part of any answer.
    pub fn places(&self) -> &[Range<u64>] {
        &self.places
    }

    /// The number of symbols in the table.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// True for a table without symbols, which none is that was found.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// All symbols by ascending address.
    pub fn iter(&self) -> impl Iterator<Item = KernelSymbol> + '_ {
        (0..self.by_address.len()).map(|at| self.symbol(at))
    }

    /// The symbol that holds an address: the last one at or below it, the first in the table of several at one
    /// address (as `get_symbol_pos()` has it).
    pub fn containing(&self, address: VirtualAddress) -> Option<KernelSymbol> {
        let behind = self.by_address.partition_point(|&(begin, _)| begin <= address.0);
        let (begin, _) = *self.by_address.get(behind.checked_sub(1)?)?;
        let first = self.by_address.partition_point(|&(other, _)| other < begin);
        Some(self.symbol(first))
    }

    /// The address of the symbol of that name; of several the first in the table.
    pub fn address_of(&self, name: &str) -> Option<VirtualAddress> {
        let by_name = self.by_name.get_or_init(|| self.index_names());
        let wanted = hash(name.bytes());
        let first = by_name.partition_point(|&(hash, _)| hash < wanted);
        let same = by_name[first..].iter().take_while(|&&(hash, _)| hash == wanted);
        let mut symbols = same.map(|&(_, at)| self.by_address[at as usize]);
        let is_named = |&(_, entry): &(u64, u32)| self.expand(entry).skip(1).eq(name.bytes());
        symbols.find(is_named).map(|(address, _)| VirtualAddress(address))
    }

    fn index_names(&self) -> Vec<(u64, u32)> {
        let entries = self.by_address.iter().zip(0..);
        let hash = |(&(_, entry), at)| (hash(self.expand(entry).skip(1)), at);
        let mut by_name: Vec<(u64, u32)> = entries.map(hash).collect();
        by_name.sort_unstable();
        by_name
    }

    /// The symbol at an index of `by_address`, which is in range.
    fn symbol(&self, at: usize) -> KernelSymbol {
        let (address, entry) = self.by_address[at];
        let mut text = self.expand(entry);
        let kind = text.next().map_or('?', char::from);
        let name = String::from_utf8_lossy(&text.collect::<Vec<u8>>()).into_owned();
        let behind = self.by_address.partition_point(|&(other, _)| other <= address);
        let extent = self.by_address.get(behind).map(|(next, _)| next - address);
        KernelSymbol { name, kind, address: VirtualAddress(address), extent }
    }

    /// The bytes of an entry: the type, then the name.
    fn expand(&self, entry: u32) -> impl Iterator<Item = u8> + '_ {
        let position = self.positions[entry as usize] as usize;
        let indices = entry_at(&self.names, position).map_or(&[][..], |(indices, _)| indices);
        indices.iter().flat_map(|&index| &self.tokens[index as usize]).copied()
    }
}

/// FNV-1a, which is short: a name that collides costs one comparison.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Prints the number of symbols: there are too many to read.
impl fmt::Debug for Kallsyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kallsyms").field("symbols", &self.len()).finish_non_exhaustive()
    }
}

/// The indices of the entry at a position, and the position behind it. A length of 128 or more has a second byte,
/// with its higher bits.
fn entry_at(names: &[u8], position: usize) -> Option<(&[u8], usize)> {
    let first = *names.get(position)? as usize;
    let (length, begin) = match first & 0x80 {
        0 => (first, position + 1),
        _ => (first & 0x7f | (*names.get(position + 1)? as usize) << 7, position + 2),
    };
    let end = begin + length;
    let indices = names.get(begin..end)?;
    (1..=MAX_NAME).contains(&length).then_some((indices, end))
}

/// The table of tokens around the ten that are at `digits`.
fn find_tokens(image: &[u8], digits: usize) -> Option<TokenTable> {
    let mut begin = digits;
    for _ in 0..b'0' {
        let before = image.get(..begin.checked_sub(1)?)?;
        let from = before.len().saturating_sub(MAX_NAME);
        begin = from + memchr::memrchr(0, &before[from..])? + 1;
    }
    // Bytes of the part before need not end with a zero (`kallsyms_seqs_of_names`): they look like the beginning of the
    // first token.
    let rest = &image[begin..digits];
    let first = begin + memchr::memchr(0, &rest[..rest.len().min(MAX_NAME)])?;
    let mut begins = (begin.next_multiple_of(4)..first).step_by(4);
    begins.find_map(|begin| tokens_at(image, begin))
}

/// The table of tokens that begins at an offset, if their index follows.
fn tokens_at(image: &[u8], begin: usize) -> Option<TokenTable> {
    let mut tokens = Vec::with_capacity(TOKENS);
    let mut index = Vec::with_capacity(2 * TOKENS);
    let mut at = begin;
    for _ in 0..TOKENS {
        let rest = image.get(at..)?;
        let rest = &rest[..rest.len().min(MAX_NAME)];
        let token = &rest[..memchr::memchr(0, rest)?];
        index.extend_from_slice(&u16::try_from(at - begin).ok()?.to_le_bytes());
        at += token.len() + 1;
        tokens.push(token.to_vec());
    }
    if at - begin > MAX_TOKEN_TABLE {
        return None;
    }
    ALIGNMENTS.into_iter().find_map(|alignment| {
        let index_at = at.next_multiple_of(alignment);
        let end = index_at + index.len();
        let tokens = || tokens.clone();
        (image.get(index_at..end)? == index).then(|| TokenTable { tokens: tokens(), begin, end })
    })
}

/// The names before a table of tokens: the nearest number of symbols that as many names and their markers follow.
fn find_names(image: &[u8], tokens: &TokenTable) -> Option<NameTable> {
    let last = tokens.begin - tokens.begin % 4;
    let first = last.saturating_sub(MAX_NAME_TABLE);
    (first..last).step_by(4).rev().find_map(|count_at| {
        let count = word(image, count_at)? as usize;
        if !(MIN_SYMBOLS..=MAX_SYMBOLS).contains(&count) {
            return None;
        }
        // `num_syms` is 32 bits wide, and what follows is aligned like all parts.
        let begins = ALIGNMENTS.map(|alignment| (count_at + 4).next_multiple_of(alignment));
        let mut begins = begins.into_iter().take(if begins[0] == begins[1] { 1 } else { 2 });
        begins.find_map(|begin| names_at(image, count_at, begin, count, tokens))
    })
}

/// The names that begin at an offset, if there are `count` of them before the tokens and their markers follow.
fn names_at(
    image: &[u8],
    count_at: usize,
    begin: usize,
    count: usize,
    tokens: &TokenTable,
) -> Option<NameTable> {
    let names = image.get(begin..tokens.begin)?;
    // Most numbers are no `num_syms`, and are recognised as such by the first few names.
    let mut positions = Vec::new();
    let mut markers = Vec::new();
    let mut at = 0;
    for number in 0..count {
        if number % MARKED == 0 {
            markers.extend_from_slice(&(at as u32).to_le_bytes());
        }
        let (indices, next) = entry_at(names, at)?;
        // The first character is the type.
        let kind = *tokens.tokens[indices[0] as usize].first()?;
        kind.is_ascii_alphabetic().then_some(())?;
        positions.push(at as u32);
        at = next;
    }
    let end = begin + at;
    let markers_end = ALIGNMENTS.into_iter().find_map(|alignment| {
        let markers_at = end.next_multiple_of(alignment);
        let markers_end = markers_at + markers.len();
        (image.get(markers_at..markers_end)? == markers).then_some(markers_end)
    })?;
    Some(NameTable { count_at, begin, end, markers_end, positions })
}

/// The addresses of all names.
fn find_addresses(
    image: &[u8],
    base: VirtualAddress,
    tokens: &TokenTable,
    names: &NameTable,
) -> Option<AddressTable> {
    let count = names.positions.len();
    let size = 4 * count;
    let kernel = base.0..base.0.checked_add(image.len() as u64)?;
    let pointer = |at: usize| {
        let bytes = image.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    // Offsets before `num_syms`, with the base between them.
    let before = names.count_at.checked_sub(8);
    let before =
        before.and_then(|at| Some((at.checked_sub(size.next_multiple_of(8))?, pointer(at)?)));
    // Offsets behind the index of tokens, with the base behind them.
    let behind_at = |alignment: usize| tokens.end.next_multiple_of(alignment);
    let behind = ALIGNMENTS.map(|alignment| {
        let at = behind_at(alignment);
        Some((at, pointer((at + size).next_multiple_of(8))?))
    });
    let with_base = [before, behind[0], behind[1]].into_iter().flatten();
    let with_base = with_base.filter(|(_, relative_base)| kernel.contains(relative_base));
    for (at, relative_base) in with_base {
        let offsets = offsets_at(image, at, count)?;
        // CONFIG_KALLSYMS_ABSOLUTE_PERCPU: an offset that is not negative is an address of its own.
        let percpu = |offset: i32| match u32::try_from(offset) {
            Ok(absolute) => u64::from(absolute),
            Err(_) => relative_base.wrapping_sub(1).wrapping_add_signed(-i64::from(offset)),
        };
        let plain = |offset: i32| relative_base.wrapping_add(u64::from(offset as u32));
        for address in [&percpu as &dyn Fn(i32) -> u64, &plain] {
            let addresses: Vec<u64> = offsets.iter().map(|&offset| address(offset)).collect();
            if are_addresses(&addresses, &kernel) {
                let place = at..(at + size).next_multiple_of(8) + 8;
                return Some(AddressTable { addresses, place });
            }
        }
    }
    // CONFIG_KALLSYMS without a base, from 7.0 on: each offset is relative to its own place.
    ALIGNMENTS.into_iter().find_map(|alignment| {
        let at = behind_at(alignment);
        let place = |index: usize| base.0.wrapping_add((at + 4 * index) as u64);
        let offsets = offsets_at(image, at, count)?;
        let addresses = offsets.iter().enumerate();
        let addresses = addresses
            .map(|(index, &offset)| place(index).wrapping_add_signed(offset.into()))
            .collect::<Vec<u64>>();
        let place = at..at + size;
        are_addresses(&addresses, &kernel).then_some(AddressTable { addresses, place })
    })
}

fn offsets_at(image: &[u8], at: usize, count: usize) -> Option<Vec<i32>> {
    let bytes = image.get(at..at.checked_add(4 * count)?)?;
    Some(bytes.as_chunks::<4>().0.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect())
}

/// True for addresses in the table's order, nearly all of which ascend and lie in the image. Absolute symbols
/// are elsewhere, and so are the per-CPU offsets of older kernels.
fn are_addresses(addresses: &[u64], kernel: &Range<u64>) -> bool {
    let all = addresses.len();
    let ascending = addresses.windows(2).filter(|pair| pair[0] <= pair[1]).count() + 1;
    let inside = addresses.iter().filter(|address| kernel.contains(address)).count();
    ascending >= all - all / 100 && inside >= all - all / 4
}

fn word(image: &[u8], at: usize) -> Option<u32> {
    let bytes = image.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}
