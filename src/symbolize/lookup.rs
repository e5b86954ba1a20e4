//! References of a log to frames: which symbol of which image is meant, and what is there.
//!
//! Owns the choice among several symbols of one name, and among several files of one module. Owns no
//! text: `grammar` reads the log, and `annotator` and `summary` say what was found. Bounded: what has
//! been looked up is remembered, up to a limit, and an answer shows a few candidates at most.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

use nmiscope_symbolizer::{Image, NamedSymbol, ProgramCounter, SourceRoots, VirtualAddress};

use super::grammar::{Module, Reference, SymbolReference, Target};
use crate::diagnosis::Resolver;
use crate::images::hex;
use crate::images::modules::Modules;
use crate::report::Frame;

/// Where the upper half of the address space begins, which kernels have for themselves.
const UPPER_HALF: u64 = 1 << 63;
/// The most answers that are remembered.
const MAX_REMEMBERED: usize = 1 << 16;
/// The most candidates that are looked up for one reference.
const MAX_CANDIDATES: usize = 8;

/// The answer for a reference.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The places that fit. More than one where nothing in the log tells them apart.
    pub candidates: Vec<Candidate>,
    /// How many more fit than are in `candidates`.
    pub omitted: usize,
    /// The places themselves were looked up, and not the calls before them.
    pub exact: bool,
    /// The candidate is the only one of its name, and its size is not the one in the log.
    pub doubt: Option<OtherSize>,
    /// The reason why nothing is known, if so.
    pub missing: Option<Missing>,
}

impl Answer {
    /// Whether anything is known of the place.
    pub fn is_found(&self) -> bool {
        self.candidates.iter().any(|candidate| !candidate.frame.functions.is_empty())
    }
}

/// A place that fits a reference.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The address as the image was linked, or as the module's file was laid out.
    pub address: VirtualAddress,
    /// The functions there, with lines.
    pub frame: Frame,
}

/// A symbol's size in the log, and the one that it has in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("{printed:#x} bytes in the log, {found:#x} in the image")]
pub struct OtherSize {
    /// In the log, in bytes.
    pub printed: u64,
    /// In the image, in bytes.
    pub found: u64,
}

/// The reason why a reference has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Missing {
    /// No module of that name is below the directories that were given.
    #[error("module {0} was not found")]
    ModuleNotFound(String),
    /// There are files of that module, and none can be read.
    #[error("module {name} cannot be read: {reason}")]
    ModuleUnreadable {
        /// The module.
        name: String,
        /// What is wrong with the first of its files.
        reason: String,
    },
    /// There are files of that module, and none has the build-id that the log prints.
    #[error("module {0} was found with another build-id")]
    ModuleOfOtherBuild(String),
    /// The image has no symbol of that name.
    #[error("no symbol {0}")]
    NoSymbol(String),
    /// The image has several symbols of that name, and none of that size; or one, and the offset is
    /// behind its end.
    #[error("{name} has another size: {size}")]
    OtherSize {
        /// The symbol.
        name: String,
        /// Its size, and that of the first one of that name in the image.
        size: OtherSize,
    },
    /// The address is not code of the image.
    #[error("outside the image")]
    OutsideImage,
    /// The symbol is a variable, not code.
    #[error("a variable")]
    Variable,
    /// The place is known, and no debug information covers it.
    #[error("no debug information")]
    NoDebugInfo,
}

/// Looks up references.
pub struct Lookup<'a> {
    image: &'a Image<'a>,
    roots: SourceRoots,
    modules: &'a Modules,
    loaded: HashMap<String, Rc<Files<'a>>>,
    remembered: HashMap<Key, Rc<Answer>>,
    is_linux: OnceCell<bool>,
}

/// The files of one module.
struct Files<'a> {
    images: Vec<Image<'a>>,
    /// What is wrong with the first file that cannot be read.
    fault: Option<String>,
}

/// Everything of a reference that decides its answer. Of an address, as the image was linked.
type Key = (String, u64, Option<u64>, Option<(String, Option<String>)>, bool);

impl<'a> Lookup<'a> {
    /// For references into `image` and `modules`.
    pub fn new(image: &'a Image<'a>, modules: &'a Modules, roots: SourceRoots) -> Self {
        Self {
            image,
            roots,
            modules,
            loaded: HashMap::new(),
            remembered: HashMap::new(),
            is_linux: OnceCell::new(),
        }
    }

    /// The image.
    pub fn image(&self) -> &'a Image<'a> {
        self.image
    }

    /// Whether an address may be that of a kernel that KASLR has moved: Linux can be moved anywhere,
    /// and other kernels lie where their image says, unless the address shows that they do not.
    pub fn may_be_moved(&self, address: u64) -> bool {
        *self.is_linux.get_or_init(|| self.image.symbol("linux_banner").is_some())
            || !self.image.is_text(VirtualAddress(address))
    }

    /// Whether an address is of user space, and the image of a kernel in the upper half of the
    /// address space: then it concerns somebody else.
    pub fn is_user_space(&self, address: u64) -> bool {
        self.image.lowest_text().is_some_and(|lowest| lowest.0 >= UPPER_HALF)
            && address < UPPER_HALF
    }

    /// What lies at an address of the image, code or not.
    pub fn place(&self, address: u64, exact: bool) -> Answer {
        let address = VirtualAddress(address);
        let frame = frame(self.image, &self.roots, address, exact);
        Answer { candidates: vec![Candidate { address, frame }], exact, ..Answer::default() }
    }

    /// What a reference names, in a kernel that runs `offset` bytes above where its image was linked.
    pub fn answer(&mut self, reference: &Reference<'_>, offset: u64) -> Rc<Answer> {
        let key = key(reference, offset);
        if let Some(answer) = self.remembered.get(&key) {
            return confirmed(answer, reference, offset);
        }
        let answer = Rc::new(match &reference.target {
            Target::Address(address) => self.address(address.wrapping_sub(offset), reference.exact),
            Target::Symbol(symbol) => self.symbol(symbol, reference.exact),
        });
        if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.insert(key, Rc::clone(&answer));
        confirmed(&answer, reference, offset)
    }

    /// Where the image has the one place that a symbol of the log can be. `None` for a symbol of a
    /// module, and where several fit or none.
    pub fn linked_address(&self, symbol: &SymbolReference<'_>) -> Option<u64> {
        if symbol.module.is_some() {
            return None;
        }
        match places(self.image, symbol).ok()?.0.as_slice() {
            [only] => Some(only.address),
            _ => None,
        }
    }

    fn address(&self, address: u64, exact: bool) -> Answer {
        if !self.image.is_text(VirtualAddress(address)) {
            return missing(Missing::OutsideImage);
        }
        self.place(address, exact)
    }

    fn symbol(&mut self, symbol: &SymbolReference<'_>, exact: bool) -> Answer {
        let Some(module) = &symbol.module else {
            return in_image(self.image, &self.roots, symbol, exact);
        };
        let files = self.files(module.name);
        if files.images.is_empty() {
            return missing(match &files.fault {
                None => Missing::ModuleNotFound(module.name.to_owned()),
                Some(reason) => Missing::ModuleUnreadable {
                    name: module.name.to_owned(),
                    reason: reason.clone(),
                },
            });
        }
        let mut answers = files
            .images
            .iter()
            .filter(|image| is_build(image, module))
            .map(|image| in_image(image, &self.roots, symbol, exact));
        // Several files may be those of several kernels: the symbol's size says which is meant.
        let Some(first) = answers.next() else {
            return missing(Missing::ModuleOfOtherBuild(module.name.to_owned()));
        };
        let is_sure = |answer: &Answer| answer.missing.is_none() && answer.doubt.is_none();
        if is_sure(&first) {
            return first;
        }
        answers.find(is_sure).unwrap_or(first)
    }

    fn files(&mut self, name: &str) -> Rc<Files<'a>> {
        if let Some(files) = self.loaded.get(name) {
            return Rc::clone(files);
        }
        let mut files = Files { images: Vec::new(), fault: None };
        for candidate in self.modules.named(name) {
            match candidate.image {
                Ok(image) => files.images.push(image),
                Err(fault) => {
                    files.fault.get_or_insert(fault);
                }
            }
        }
        if self.loaded.len() >= MAX_REMEMBERED {
            self.loaded.clear();
        }
        let files = Rc::new(files);
        self.loaded.insert(name.to_owned(), Rc::clone(&files));
        files
    }
}

/// Whether an image has the build-id that the log prints, where it prints one.
fn is_build(image: &Image<'_>, module: &Module<'_>) -> bool {
    match (module.build_id, image.build_id()) {
        (Some(printed), Some(id)) => hex(id).eq_ignore_ascii_case(printed),
        _ => true,
    }
}

fn missing(reason: Missing) -> Answer {
    Answer { missing: Some(reason), ..Answer::default() }
}

/// The answer without its doubt, if the address beside the symbol is the place that was found.
fn confirmed(answer: &Rc<Answer>, reference: &Reference<'_>, offset: u64) -> Rc<Answer> {
    if let (Some(_), Target::Symbol(symbol)) = (answer.doubt, &reference.target)
        && let (Some(address), [only]) = (symbol.address, answer.candidates.as_slice())
        && address.wrapping_sub(offset) == only.address.0
    {
        return Rc::new(Answer { doubt: None, ..(**answer).clone() });
    }
    Rc::clone(answer)
}

/// A place that a symbol, an offset and a size may mean.
struct Place {
    address: u64,
    /// The place is behind the last instruction of the function, where no call returns to.
    is_behind: bool,
}

/// The places in `image` that fit; or the only one of that name, with what does not fit.
fn places(
    image: &Image<'_>,
    symbol: &SymbolReference<'_>,
) -> Result<(Vec<Place>, Option<OtherSize>), Missing> {
    let named = image.symbols_named(symbol.name);
    if named.is_empty() {
        let places = padding(image, symbol);
        return match places {
            Some(places) => Ok((places, None)),
            None => Err(Missing::NoSymbol(symbol.name.to_owned())),
        };
    }
    let code: Vec<&NamedSymbol<'_>> =
        named.iter().filter(|named| image.is_text(named.symbol.address)).collect();
    let Some(first) = code.first() else { return Err(Missing::Variable) };
    let Some(printed) = symbol.size else {
        return Ok((code.iter().map(|named| place(image, named, symbol)).collect(), None));
    };
    let fitting = code.iter().filter(|named| fits(named, printed));
    let found: Vec<Place> = fitting.map(|named| place(image, named, symbol)).collect();
    if !found.is_empty() {
        return Ok((found, None));
    }
    let extent = first.extent.unwrap_or(first.symbol.size);
    let size = OtherSize { printed, found: extent };
    if code.len() == 1 && symbol.offset <= extent {
        return Ok((vec![place(image, first, symbol)], Some(size)));
    }
    Err(Missing::OtherSize { name: symbol.name.to_owned(), size })
}

fn place(image: &Image<'_>, named: &NamedSymbol<'_>, symbol: &SymbolReference<'_>) -> Place {
    let address = named.symbol.address.0.wrapping_add(symbol.offset);
    let is_behind =
        Some(symbol.offset) == symbol.size && !is_returned_to(image, named, symbol.offset);
    Place { address, is_behind }
}

/// Whether a call can return to the end of a function: its last instruction is one, of a function
/// that does not return, and no padding follows. Where the code is not known it may be.
fn is_returned_to(image: &Image<'_>, named: &NamedSymbol<'_>, offset: u64) -> bool {
    if named.symbol.size != 0 && offset > named.symbol.size {
        return false;
    }
    let code = image.loaded_bytes(named.symbol.address);
    let code = code.and_then(|code| code.get(..usize::try_from(offset).ok()?));
    code.is_none_or(ends_in_call)
}

/// Whether the last instruction may be a call (Intel SDM, volume 2A, CALL): `e8` and 4 bytes, or `ff`
/// with 2 in the middle of its ModR/M byte, and 0 to 5 bytes behind that.
fn ends_in_call(code: &[u8]) -> bool {
    let from_end = |distance: usize| code.len().checked_sub(distance).map(|at| code[at]);
    from_end(5) == Some(0xe8)
        || (2..=7).any(|length| {
            from_end(length) == Some(0xff)
                && from_end(length - 1).is_some_and(|modrm| modrm >> 3 & 7 == 2)
        })
}

/// Whether the kernel would print that size for the symbol: the distance to the next symbol. Of a
/// section's last symbol only its own size is known, and the kernel's number is not less.
fn fits(named: &NamedSymbol<'_>, size: u64) -> bool {
    size == named.symbol.size
        || match named.extent {
            Some(extent) => extent == size,
            None => size >= named.symbol.size,
        }
}

/// `__pfx_func+0x10/0x10`, of the padding before a function, in an image without such symbols
/// (objtool makes them, from Linux 6.3 on): the start of the function.
fn padding(image: &Image<'_>, symbol: &SymbolReference<'_>) -> Option<Vec<Place>> {
    let name = symbol.name.strip_prefix("__pfx_").filter(|_| Some(symbol.offset) == symbol.size)?;
    let functions = image.symbols_named(name);
    let starts = functions.iter().map(|named| named.symbol.address);
    let places: Vec<Place> = starts
        .filter(|&address| image.is_text(address))
        .map(|address| Place { address: address.0, is_behind: false })
        .collect();
    (!places.is_empty()).then_some(places)
}

fn in_image(
    image: &Image<'_>,
    roots: &SourceRoots,
    symbol: &SymbolReference<'_>,
    exact: bool,
) -> Answer {
    let (places, doubt) = match places(image, symbol) {
        Ok(found) => found,
        Err(reason) => return missing(reason),
    };
    // No call returns to what is behind a function: it is a pointer to the next one that lay on the
    // stack.
    let exact = exact || places.iter().all(|place| place.is_behind);
    let candidates: Vec<Candidate> = places
        .iter()
        .take(MAX_CANDIDATES)
        .map(|place| {
            let address = VirtualAddress(place.address);
            Candidate { address, frame: frame(image, roots, address, exact) }
        })
        .collect();
    // The log has the function's name already.
    let has_lines = |candidate: &Candidate| {
        candidate.frame.functions.iter().any(|function| function.file.is_some())
    };
    if !candidates.iter().any(has_lines) {
        return Answer { missing: Some(Missing::NoDebugInfo), ..Answer::default() };
    }
    let omitted = places.len() - candidates.len();
    Answer { candidates, omitted, exact, doubt, missing: None }
}

fn frame(image: &Image<'_>, roots: &SourceRoots, address: VirtualAddress, exact: bool) -> Frame {
    let counter =
        if exact { ProgramCounter::Interrupted(address) } else { ProgramCounter::Return(address) };
    Resolver::new(Some(image), roots.clone()).frame(counter, true)
}

fn key(reference: &Reference<'_>, offset: u64) -> Key {
    match &reference.target {
        Target::Address(address) => {
            (String::new(), address.wrapping_sub(offset), None, None, reference.exact)
        }
        Target::Symbol(symbol) => {
            let module = symbol.module.as_ref();
            let module =
                module.map(|module| (module.name.to_owned(), module.build_id.map(str::to_owned)));
            (symbol.name.to_owned(), symbol.offset, symbol.size, module, reference.exact)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends of functions, as objdump shows them.
    #[test]
    fn calls_at_the_end_of_a_function_are_seen() {
        for call in [
            &[0x90, 0xe8, 0xeb, 0xdf, 0xfa, 0xff][..],
            &[0xff, 0xd0],                               // call *%rax
            &[0x41, 0xff, 0xd2],                         // call *%r10
            &[0xff, 0x53, 0x08],                         // call *0x8(%rbx)
            &[0xff, 0x14, 0xc5, 0x00, 0x10, 0x20, 0x82], // call *-0x7ddff000(,%rax,8)
            &[0xff, 0x15, 0x10, 0x20, 0x30, 0x40],       // call *0x40302010(%rip)
        ] {
            assert!(ends_in_call(call), "{call:x?}");
        }
        for other in [
            &[0x5d, 0xc3][..],
            &[0xe9, 0x4e, 0x4d, 0x95, 0x00], // jmp
            &[0xff, 0xe0],                   // jmp *%rax
            &[0x0f, 0x0b],
            &[],
        ] {
            assert!(!ends_in_call(other), "{other:x?}");
        }
    }
}
