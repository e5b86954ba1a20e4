//! References of a log to frames: which symbol of which image is meant, and what is there.
//!
//! Owns the choice among several symbols of one name, and among several files of one module. Owns no
//! text: `grammar` reads the log, and `annotator` and `summary` say what was found. Bounded: what has
//! been looked up is remembered, up to a limit, and an answer has a few matches at most.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

use nmiscope_machine::VirtualAddress;
use nmiscope_report::Frame;
use nmiscope_symbolizer::{Image, NamedSymbol, ProgramCounter, SourceRoots};

use super::grammar::{CodeLocation, Module, Reference, SymbolReference};
use crate::diagnosis::Resolver;
use crate::images::hex;
use crate::images::modules::{self, Modules, NoModule};

/// Start of the upper half of the address space, which kernels have for themselves.
const UPPER_HALF: u64 = 1 << 63;
/// The most answers that are remembered.
const MAX_REMEMBERED: usize = 1 << 16;
/// The most matches that are looked up for one reference.
const MAX_MATCHES: usize = 8;

/// The answer for a reference.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    /// The places that fit. More than one where nothing in the log tells them apart.
    pub matches: Vec<Match>,
    /// Number of places that fit and are not in `matches`.
    pub omitted: usize,
    /// The places themselves were looked up, and not the calls before them.
    pub exact: bool,
    /// The match is the only one of its name, and its size is not the one in the log.
    pub doubt: Option<OtherSize>,
    /// The reason why nothing is known, if so.
    pub missing: Option<Unresolved>,
}

/// A place that fits a reference.
#[derive(Clone, Debug)]
pub struct Match {
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
pub enum Unresolved {
    /// No module of that name is below the directories that were given.
    #[error("module {0} was not found")]
    ModuleNotFound(String),
    /// There are files of that module, and none can be read.
    #[error("module {name} cannot be read: {reason}")]
    ModuleUnreadable {
        /// The module.
        name: String,
        /// The fault of the first of its files.
        reason: String,
    },
    /// There are files of that module, and all are of other builds or other kernels.
    #[error("module {0} was found for another kernel only")]
    ModuleOfOtherKernel(String),
    /// The image has no symbol of that name.
    #[error("no symbol {0}")]
    NoSymbol(String),
    /// The image has several symbols of that name, and none of that size; or one, and the offset is
    /// behind its end.
    #[error("{name} has another size: {size}")]
    OtherSize {
        /// The symbol.
        name: String,
        /// The size of the symbol, and that of the first one of that name in the image.
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

impl Resolution {
    fn missing(reason: Unresolved) -> Self {
        Self { missing: Some(reason), ..Self::default() }
    }

    /// True when the matches are not all the same functions and lines.
    pub fn is_ambiguous(&self) -> bool {
        let (first, rest) = match self.matches.as_slice() {
            [first, rest @ ..] => (first, rest),
            [] => return false,
        };
        self.omitted > 0 || rest.iter().any(|other| !first.is_same_place(other))
    }

    fn is_sure(&self) -> bool {
        self.missing.is_none() && self.doubt.is_none()
    }
}

impl Match {
    fn is_same_place(&self, other: &Self) -> bool {
        self.frame.functions == other.frame.functions
    }
}

/// Looks up references.
pub struct Lookup<'a> {
    image: &'a Image<'a>,
    roots: SourceRoots,
    modules: &'a Modules,
    /// The kernel's release, by the image or by the log.
    release: Option<String>,
    loaded: HashMap<String, Rc<ModuleImages<'a>>>,
    remembered: HashMap<Key, Rc<Resolution>>,
    is_linux: OnceCell<bool>,
}

/// The modules of one name.
struct ModuleImages<'a> {
    modules: Vec<modules::LoadedModule<'a>>,
    /// The fault of the first file that cannot be read.
    fault: Option<NoModule>,
}

/// Everything that decides the answer for a reference.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    /// An address, as the image was linked.
    Address { address: u64, exact: bool },
    /// A place in a function.
    Symbol {
        name: String,
        offset: u64,
        size: Option<u64>,
        module: Option<(String, Option<String>)>,
        exact: bool,
    },
}

impl<'a> Lookup<'a> {
    /// For references into `image` and `modules`.
    pub fn new(image: &'a Image<'a>, modules: &'a Modules, roots: SourceRoots) -> Self {
        Self {
            image,
            roots,
            modules,
            release: None,
            loaded: HashMap::new(),
            remembered: HashMap::new(),
            is_linux: OnceCell::new(),
        }
    }

    /// The image.
    pub fn image(&self) -> &'a Image<'a> {
        self.image
    }

    /// Takes modules of this release only, of those that say which they are of.
    pub fn set_release(&mut self, release: Option<String>) {
        if self.release != release {
            self.release = release;
            self.remembered.clear();
        }
    }

    /// True when an address may be that of a kernel that KASLR has moved: Linux can be moved anywhere,
    /// and other kernels lie where their image says, unless the address shows that they do not.
    pub fn may_be_moved(&self, address: u64) -> bool {
        *self.is_linux.get_or_init(|| self.image.symbol("linux_banner").is_some())
            || !self.image.is_text(VirtualAddress(address))
    }

    /// True when an address is of user space, and the image of a kernel in the upper half of the
    /// address space: then it concerns somebody else.
    pub fn is_user_space(&self, address: u64) -> bool {
        let is_kernel = self.image.lowest_text().is_some_and(|lowest| lowest.0 >= UPPER_HALF);
        is_kernel && address < UPPER_HALF
    }

    /// The answer for an address of the image, code or not.
    pub fn place(&self, address: u64, exact: bool) -> Resolution {
        let address = VirtualAddress(address);
        let frame = frame(self.image, &self.roots, address, exact);
        if frame.functions.is_empty() {
            return Resolution::missing(Unresolved::OutsideImage);
        }
        Resolution { matches: vec![Match { address, frame }], exact, ..Resolution::default() }
    }

    /// The answer for a reference, in a kernel that runs `offset` bytes above where its image was
    /// linked.
    pub fn answer(&mut self, reference: &Reference<'_>, offset: u64) -> Rc<Resolution> {
        let key = Key::new(reference, offset);
        if let Some(answer) = self.remembered.get(&key) {
            return confirmed(answer, reference, offset);
        }
        let answer = Rc::new(match &reference.target {
            CodeLocation::Address(address) => {
                self.code_at(address.wrapping_sub(offset), reference.exact)
            }
            CodeLocation::Symbol(symbol) => self.symbol(symbol, reference.exact),
        });
        if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.insert(key, Rc::clone(&answer));
        confirmed(&answer, reference, offset)
    }

    /// The link address of the one place in the image that a symbol of the log can be. `None` for a
    /// symbol of a module, and where several places fit or none.
    pub fn linked_address(&self, symbol: &SymbolReference<'_>) -> Option<u64> {
        if symbol.module.is_some() {
            return None;
        }
        match fits(self.image, symbol).ok()?.0.as_slice() {
            [only] => Some(only.address),
            _ => None,
        }
    }

    fn code_at(&self, address: u64, exact: bool) -> Resolution {
        if !self.image.is_text(VirtualAddress(address)) {
            return Resolution::missing(Unresolved::OutsideImage);
        }
        self.place(address, exact)
    }

    fn symbol(&mut self, symbol: &SymbolReference<'_>, exact: bool) -> Resolution {
        match &symbol.module {
            None => in_image(self.image, &self.roots, symbol, exact),
            Some(module) => self.in_module(module, symbol, exact),
        }
    }

    /// The answers of all files of a module that may be meant: without a build-id in the log, two
    /// builds of it can only be told apart by the sizes of their symbols.
    fn in_module(
        &mut self,
        module: &Module<'_>,
        symbol: &SymbolReference<'_>,
        exact: bool,
    ) -> Resolution {
        let images = self.module_images(module.name);
        if images.modules.is_empty() {
            let name = module.name.to_owned();
            return Resolution::missing(match &images.fault {
                None => Unresolved::ModuleNotFound(name),
                Some(reason) => Unresolved::ModuleUnreadable { name, reason: reason.to_string() },
            });
        }
        let mut answers = images
            .modules
            .iter()
            .filter(|found| self.may_be(found, module))
            .map(|found| in_image(&found.image, &self.roots, symbol, exact));
        let Some(mut answer) = answers.next() else {
            return Resolution::missing(Unresolved::ModuleOfOtherKernel(module.name.to_owned()));
        };
        for other in answers.filter(Resolution::is_sure) {
            if !answer.is_sure() {
                answer = other;
                continue;
            }
            for place in other.matches {
                if !answer.matches.iter().any(|known| known.is_same_place(&place)) {
                    answer.matches.push(place);
                }
            }
        }
        answer
    }

    /// True when a module's file may be the one that the log means: its build-id is that in the log, or
    /// its kernel is that of the image.
    fn may_be(&self, found: &modules::LoadedModule<'_>, module: &Module<'_>) -> bool {
        match (module.build_id, found.image.build_id()) {
            (Some(printed), Some(id)) => hex(id).eq_ignore_ascii_case(printed),
            _ => match (&self.release, &found.release) {
                (Some(wanted), Some(release)) => wanted == release,
                _ => true,
            },
        }
    }

    fn module_images(&mut self, name: &str) -> Rc<ModuleImages<'a>> {
        if let Some(images) = self.loaded.get(name) {
            return Rc::clone(images);
        }
        let mut images = ModuleImages { modules: Vec::new(), fault: None };
        for module in self.modules.named(name) {
            match module {
                Ok(module) => images.modules.push(module),
                Err(fault) => {
                    images.fault.get_or_insert(fault);
                }
            }
        }
        if self.loaded.len() >= MAX_REMEMBERED {
            self.loaded.clear();
        }
        let images = Rc::new(images);
        self.loaded.insert(name.to_owned(), Rc::clone(&images));
        images
    }
}

impl Key {
    fn new(reference: &Reference<'_>, offset: u64) -> Self {
        let exact = reference.exact;
        match &reference.target {
            CodeLocation::Address(address) => {
                Self::Address { address: address.wrapping_sub(offset), exact }
            }
            CodeLocation::Symbol(symbol) => Self::Symbol {
                name: symbol.name.to_owned(),
                offset: symbol.offset,
                size: symbol.size,
                module: symbol
                    .module
                    .as_ref()
                    .map(|module| (module.name.to_owned(), module.build_id.map(str::to_owned))),
                exact,
            },
        }
    }
}

/// The answer without its doubt, if the address beside the symbol is the place that was found.
fn confirmed(answer: &Rc<Resolution>, reference: &Reference<'_>, offset: u64) -> Rc<Resolution> {
    if let (Some(_), CodeLocation::Symbol(symbol)) = (answer.doubt, &reference.target)
        && let (Some(address), [only]) = (symbol.address, answer.matches.as_slice())
        && address.wrapping_sub(offset) == only.address.0
    {
        return Rc::new(Resolution { doubt: None, ..(**answer).clone() });
    }
    Rc::clone(answer)
}

/// A place that a symbol, an offset and a size may mean.
struct Fit {
    address: u64,
    /// The place is behind the last instruction of the function, where no call returns to.
    is_behind: bool,
}

/// The places in `image` that fit; or the only one of that name, with what does not fit.
fn fits(
    image: &Image<'_>,
    symbol: &SymbolReference<'_>,
) -> Result<(Vec<Fit>, Option<OtherSize>), Unresolved> {
    let named = image.symbols_named(symbol.name);
    if named.is_empty() {
        return match padding(image, symbol) {
            Some(fits) => Ok((fits, None)),
            None => Err(Unresolved::NoSymbol(symbol.name.to_owned())),
        };
    }
    let code: Vec<&NamedSymbol<'_>> =
        named.iter().filter(|named| image.is_text(named.symbol.address)).collect();
    let Some(first) = code.first() else { return Err(Unresolved::Variable) };
    let fit = |named: &&NamedSymbol<'_>| fit(image, named, symbol);
    let Some(printed) = symbol.size else { return Ok((code.iter().map(fit).collect(), None)) };
    // A kernel prints the distance to the next symbol. Not all that it knows is in the image, so the
    // symbol's own size is a second choice.
    for size_of in [printed_size, own_size] {
        let fitting = code.iter().filter(|named| size_of(named, printed));
        let found: Vec<Fit> = fitting.map(fit).collect();
        if !found.is_empty() {
            return Ok((found, None));
        }
    }
    let extent = first.extent.unwrap_or(first.symbol.size);
    let size = OtherSize { printed, found: extent };
    if code.len() == 1 && symbol.offset <= extent {
        return Ok((vec![fit(first)], Some(size)));
    }
    Err(Unresolved::OtherSize { name: symbol.name.to_owned(), size })
}

/// True when the kernel would print that size for the symbol. Of a section's last symbol only its own
/// size is known, and the kernel's number is not less.
fn printed_size(named: &NamedSymbol<'_>, size: u64) -> bool {
    match named.extent {
        Some(extent) => extent == size,
        None => size >= named.symbol.size,
    }
}

fn own_size(named: &NamedSymbol<'_>, size: u64) -> bool {
    size == named.symbol.size
}

fn fit(image: &Image<'_>, named: &NamedSymbol<'_>, symbol: &SymbolReference<'_>) -> Fit {
    let address = named.symbol.address.0.wrapping_add(symbol.offset);
    let is_end = Some(symbol.offset) == symbol.size;
    Fit { address, is_behind: is_end && !image.is_returned_to(&named.symbol, symbol.offset) }
}

/// `__pfx_func+0x10/0x10`, of the padding before a function, in an image without such symbols
/// (objtool makes them, from Linux 6.3 on): the start of the function.
fn padding(image: &Image<'_>, symbol: &SymbolReference<'_>) -> Option<Vec<Fit>> {
    let name = symbol.name.strip_prefix("__pfx_").filter(|_| Some(symbol.offset) == symbol.size)?;
    let functions = image.symbols_named(name);
    let starts = functions.iter().map(|named| named.symbol.address);
    let fits: Vec<Fit> = starts
        .filter(|&address| image.is_text(address))
        .map(|address| Fit { address: address.0, is_behind: false })
        .collect();
    (!fits.is_empty()).then_some(fits)
}

fn in_image(
    image: &Image<'_>,
    roots: &SourceRoots,
    symbol: &SymbolReference<'_>,
    exact: bool,
) -> Resolution {
    let (fits, doubt) = match fits(image, symbol) {
        Ok(found) => found,
        Err(reason) => return Resolution::missing(reason),
    };
    // No call returns to what is behind a function: it is a pointer to the next one that lay on the
    // stack.
    let exact = exact || fits.iter().all(|fit| fit.is_behind);
    let matches: Vec<Match> = fits
        .iter()
        .take(MAX_MATCHES)
        .map(|fit| {
            let address = VirtualAddress(fit.address);
            Match { address, frame: frame(image, roots, address, exact) }
        })
        .collect();
    // The log has the function's name already.
    let has_lines =
        |found: &Match| found.frame.functions.iter().any(|function| function.file.is_some());
    if !matches.iter().any(has_lines) {
        return Resolution::missing(Unresolved::NoDebugInfo);
    }
    let omitted = fits.len() - matches.len();
    Resolution { matches, omitted, exact, doubt, missing: None }
}

fn frame(image: &Image<'_>, roots: &SourceRoots, address: VirtualAddress, exact: bool) -> Frame {
    let counter =
        if exact { ProgramCounter::Interrupted(address) } else { ProgramCounter::Return(address) };
    Resolver::new(Some(image), roots.clone()).frame(counter, true)
}
