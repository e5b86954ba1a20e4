//! The lookup of references: the image and symbol that each one means, and the frame there.
//!
//! Owns the choice among several symbols of one name, and among several files of one module. Refuses to
//! own text: `grammar` parses the log; `annotator` and `summary` write the results. Bounded: resolutions
//! are cached up to a limit, and each has a few matches at most.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

use nmiscope_machine::VirtualAddress;
use nmiscope_report::Frame;
use nmiscope_symbolizer::{Image, Missing, NamedSymbol, ProgramCounter, SourceRoots};

use super::grammar::{CodeLocation, Module, Reference, SymbolReference};
use crate::diagnosis::Resolver;
use crate::images::hex;
use crate::images::modules::{self, Modules, NoModule};

/// Start of the upper half of the address space, where kernels are linked.
const UPPER_HALF: u64 = 1 << 63;
/// Largest number of resolutions that are cached.
const MAX_REMEMBERED: usize = 1 << 16;
/// Largest number of matches that are looked up for one reference.
const MAX_MATCHES: usize = 8;

/// Result of looking up one reference.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    /// Places in an image that match the reference; more than one if the log does not
    /// distinguish them.
    pub matches: Vec<Match>,
    /// Number of further matches, which are not in `matches`.
    pub omitted: usize,
    /// True if the places themselves were looked up, not the calls before them.
    pub exact: bool,
    /// Sizes in the log and in the image, if they differ and the match is the only symbol of its name.
    pub doubt: Option<OtherSize>,
    /// Reason why there is no match; `None` if there is one.
    pub missing: Option<Unresolved>,
}

/// A place in an image that matches a reference.
#[derive(Clone, Debug)]
pub struct Match {
    /// Address as linked in the image, or as laid out in the module's file.
    pub address: VirtualAddress,
    /// Functions at the address, with source lines.
    pub frame: Frame,
    /// Reason why lines and inlined calls are missing though the image may have them; `None` if they are not.
    pub incomplete: Option<String>,
}

/// A symbol's size in the log, and its different size in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("{printed:#x} bytes in the log, {found:#x} in the image")]
pub struct OtherSize {
    /// Size in the log, in bytes.
    pub printed: u64,
    /// Size in the image, in bytes.
    pub found: u64,
}

/// Reason why a reference has no match.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Unresolved {
    /// No file of the module is below the given directories.
    #[error("module {0} was not found")]
    ModuleNotFound(String),
    /// The module has files, and none of them can be read.
    #[error("module {name} cannot be read: {reason}")]
    ModuleUnreadable {
        /// Name of the module in the log.
        name: String,
        /// Error of the first of its files.
        reason: String,
    },
    /// The module has files, and all are of other builds or other kernels.
    #[error("module {0} was found for another kernel only")]
    ModuleOfOtherKernel(String),
    /// The image has no symbol of this name.
    #[error("no symbol {0}")]
    NoSymbol(String),
    /// The image has several symbols of this name, and none of the printed size; or it has one, and the
    /// offset is beyond its end.
    #[error("{name} has another size: {size}")]
    OtherSize {
        /// Name of the symbol in the log.
        name: String,
        /// Size in the log, and that of the first symbol of this name in the image.
        size: OtherSize,
    },
    /// The address is not code of the image.
    #[error("outside the image")]
    OutsideImage,
    /// The symbol is a variable, not code.
    #[error("a variable")]
    Variable,
    /// The address is known, and no debug information covers it.
    #[error("no debug information")]
    NoDebugInfo,
    /// The debug information is broken, or takes more work than it gets.
    #[error("no lines: {0}")]
    Incomplete(String),
}

impl Resolution {
    fn missing(reason: Unresolved) -> Self {
        Self { missing: Some(reason), ..Self::default() }
    }

    /// Returns true if the matches are not all the same functions and lines.
    pub fn is_ambiguous(&self) -> bool {
        let (first, rest) = match self.matches.as_slice() {
            [first, rest @ ..] => (first, rest),
            [] => return false,
        };
        self.omitted > 0 || rest.iter().any(|other| !first.is_same_place(other))
    }

    /// Returns the reason why lines and inlined calls of a match are missing though the image may have them.
    pub fn incomplete(&self) -> Option<&str> {
        self.matches.iter().find_map(|found| found.incomplete.as_deref())
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

/// The lookup of references in an image and its modules.
pub struct Lookup<'a> {
    image: &'a Image<'a>,
    roots: SourceRoots,
    modules: &'a Modules,
    /// Release of the kernel, by the image or by the log.
    release: Option<String>,
    loaded: HashMap<String, Rc<ModuleImages<'a>>>,
    remembered: HashMap<Key, Rc<Resolution>>,
    is_linux: OnceCell<bool>,
}

/// The files of all modules of one name.
struct ModuleImages<'a> {
    modules: Vec<modules::LoadedModule<'a>>,
    /// Error of the first file that cannot be read.
    fault: Option<NoModule>,
}

/// Key of the cache: the parts of a reference that determine its resolution.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    /// An address as linked in the image.
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
    /// Creates a lookup in `image` and `modules`; source paths are shown relative to `roots`.
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

    /// Returns the image of the kernel.
    pub fn image(&self) -> &'a Image<'a> {
        self.image
    }

    /// Restricts modules with a known release to this one; `None` for no restriction.
    pub fn set_release(&mut self, release: Option<String>) {
        if self.release != release {
            self.release = release;
            self.remembered.clear();
        }
    }

    /// Returns true if KASLR may have moved an address: always for Linux; for another kernel, if the
    /// address is not code of the image.
    pub fn may_be_moved(&self, address: u64) -> bool {
        *self.is_linux.get_or_init(|| self.image.symbol("linux_banner").is_some())
            || !self.image.is_text(VirtualAddress(address))
    }

    /// Returns true if an address is of user space: below the upper half, where the image's kernel is
    /// linked. Such an address is not the kernel's.
    pub fn is_user_space(&self, address: u64) -> bool {
        let is_kernel = self.image.lowest_text().is_some_and(|lowest| lowest.0 >= UPPER_HALF);
        is_kernel && address < UPPER_HALF
    }

    /// Looks up a link address of the image, without a check that it is code.
    pub fn place(&self, address: u64, exact: bool) -> Resolution {
        let address = VirtualAddress(address);
        let found = match_at(self.image, &self.roots, address, exact);
        if found.frame.functions.is_empty() {
            return Resolution::missing(match found.incomplete {
                Some(reason) => Unresolved::Incomplete(reason),
                None => Unresolved::OutsideImage,
            });
        }
        Resolution { matches: vec![found], exact, ..Resolution::default() }
    }

    /// Looks up a reference of a kernel that runs `offset` bytes above its link addresses.
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

    /// Returns the link address of a symbol of the log. `None` for a symbol of a module, and if no place
    /// or several match.
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

    /// Looks up a symbol in all files that may be the module, and merges the matches: without a build-id in
    /// the log, two builds of a module differ only in the sizes of their symbols.
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

    /// Returns true if a file may be the module of the log: by its build-id if both have one, otherwise by
    /// the release of its kernel.
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

/// Returns the resolution without its doubt if the log prints the match's address beside the symbol.
fn confirmed(answer: &Rc<Resolution>, reference: &Reference<'_>, offset: u64) -> Rc<Resolution> {
    if let (Some(_), CodeLocation::Symbol(symbol)) = (answer.doubt, &reference.target)
        && let (Some(address), [only]) = (symbol.address, answer.matches.as_slice())
        && address.wrapping_sub(offset) == only.address.0
    {
        return Rc::new(Resolution { doubt: None, ..(**answer).clone() });
    }
    Rc::clone(answer)
}

/// A place in an image that matches a symbol, an offset and a size.
struct Fit {
    address: u64,
    /// True if the place is beyond the function's last instruction, where no call returns to.
    is_behind: bool,
}

/// Finds the places in `image` that match a symbol; or the only place of its name, with the sizes that
/// differ.
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
    // A kernel prints the distance to the next symbol. The image may lack that symbol, so the symbol's
    // own size is tried second.
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

/// Returns true if the kernel would print this size for the symbol. For the last symbol of a section only
/// its own size is known, and the kernel prints at least that.
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

/// Finds the start of a function by the end of the padding before it, `__pfx_func+0x10/0x10`, in an image
/// without such symbols, which objtool makes from Linux 6.3 on.
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
    // No call returns to the end of a function: the value is a pointer on the stack to the next function.
    let exact = exact || fits.iter().all(|fit| fit.is_behind);
    let matches: Vec<Match> = fits
        .iter()
        .take(MAX_MATCHES)
        .map(|fit| match_at(image, roots, VirtualAddress(fit.address), exact))
        .collect();
    // The log has the function's name already.
    let has_lines =
        |found: &Match| found.frame.functions.iter().any(|function| function.file.is_some());
    if !matches.iter().any(has_lines) {
        let incomplete = matches.into_iter().find_map(|found| found.incomplete);
        let reason = incomplete.map_or(Unresolved::NoDebugInfo, Unresolved::Incomplete);
        return Resolution::missing(reason);
    }
    let omitted = fits.len() - matches.len();
    Resolution { matches, omitted, exact, doubt, missing: None }
}

fn match_at(image: &Image<'_>, roots: &SourceRoots, address: VirtualAddress, exact: bool) -> Match {
    let counter =
        if exact { ProgramCounter::Interrupted(address) } else { ProgramCounter::Return(address) };
    let found = image.frames(counter);
    let incomplete = match &found.missing {
        Some(reason @ (Missing::Malformed(_) | Missing::BudgetSpent(_))) => {
            Some(crate::error_chain(reason))
        }
        _ => None,
    };
    let frame = Resolver::new(Some(image), roots.clone()).show_frame(counter, true, found);
    Match { address, frame, incomplete }
}
