//! Split DWARF: units whose entries lie in files of their own (`.dwo`), or in a package of these (`.dwp`).
//!
//! Owns the step from a skeleton unit in the image to the unit with its entries, in DWARF 5 (7.3.2) and in
//! the GNU extension of DWARF 4. Refuses to open files: the caller of this crate gives a package, or a
//! [`SplitFiles`]. Called by [`DebugInfo`](super::DebugInfo). Files are hostile, like the image.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::rc::Rc;

use gimli::{DwoId, EndianSlice, LittleEndian, SectionId};
use object::CompressionFormat;

use super::entries::{Home, Unit, root, string};
use super::sections::{InflationBudget, Section, Slice, inflate};
use super::units::UnitIndex;
use super::{Dwarf, DwarfError, Work, read};
use crate::elf::Elf;

/// Units that a `.dwo` file may have. Compilers write one; with LTO some write a few.
const MAX_UNITS: usize = 1 << 12;
/// Sections of a `.dwo` file that are read.
const NEEDED: [SectionId; 8] = [
    SectionId::DebugAbbrev,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLoc,
    SectionId::DebugLocLists,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
];
/// Sections that show the DWO IDs of a file's units.
const WITH_ID: [SectionId; 2] = [SectionId::DebugAbbrev, SectionId::DebugInfo];
/// Work for looking into candidate files. The DWO ID of a file is found by some thousand units of it.
const SEARCH_WORK: u64 = 1 << 22;
/// Bytes of candidate files' sections that may be decompressed.
const SEARCH_BYTES: u64 = 64 << 20;
/// Work that a file which matches gives back at most: its abbreviations are read, some 10 KiB.
const MATCH_WORK: u64 = 1 << 16;
/// Bytes that a file which matches gives back at most: the entries of a large C++ source file. A lookup takes
/// them off the image's own budget when it reads the file.
const MATCH_BYTES: u64 = 16 << 20;
/// Bytes that a file which matches gives back for each of its own: ten times what compilers' sections expand to
/// at most. A file that expands more could be looked into without end.
const MATCH_EXPANSION: u64 = 100;
/// Bytes at the start of a file by which, with its length, it is recognised.
const FINGERPRINT: usize = 4096;
/// Sections of a package that are read, its index last.
const PACKAGED: [SectionId; 9] = [
    SectionId::DebugAbbrev,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLoc,
    SectionId::DebugLocLists,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
    SectionId::DebugCuIndex,
];

/// The bytes of a `.dwo` file, kept as long as the image.
pub type SharedBytes = Rc<dyn AsRef<[u8]>>;

/// A unit of the image whose entries lie in a file of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitUnit {
    /// The file's path as the compiler was told it. It comes from the image: check it before using it as a
    /// path.
    pub name: String,
    /// The directory that `name` is relative to; `None` if the image has none. It comes from the image too.
    pub directory: Option<String>,
    /// The DWO ID, by which the file's unit is known.
    pub id: u64,
}

/// A source of `.dwo` files.
pub trait SplitFiles {
    /// Opens the file of a unit; `None` if no file [`matches`](SplitUnit::matches) it. Called for each
    /// unit of an image when a lookup first needs its entries, and again only if that lookup's budget was
    /// spent before it could read them. Keeps account of files that are
    /// missing: a lookup without them gives what the image itself has.
    fn open(&self, unit: &SplitUnit) -> Option<SharedBytes>;
}

impl SplitUnit {
    /// True if the file has this unit. To look into several files, use one [`SplitSearch`] for all of them.
    pub fn matches(&self, file: &[u8]) -> bool {
        SplitSearch::default().matches(self, file)
    }
}

/// A search for the files of an image's split units, with a budget of work and memory for all candidates. A
/// file that matches gives back what a usual one costs, once, so that only others spend the budget: a file that
/// has the units of many DWO IDs is no usual one.
#[derive(Debug)]
pub struct SplitSearch {
    work: Work,
    inflation: InflationBudget,
    is_spent: Cell<bool>,
    /// Lengths and hashes of the files that have given back what they cost.
    matched: RefCell<HashSet<(usize, u64)>>,
}

impl Default for SplitSearch {
    fn default() -> Self {
        Self {
            work: Work::limited(SEARCH_WORK),
            inflation: InflationBudget::limited(SEARCH_BYTES),
            is_spent: Cell::new(false),
            matched: RefCell::default(),
        }
    }
}

impl SplitSearch {
    /// True if the file has this unit. False for every file when the budget is spent.
    pub fn matches(&self, unit: &SplitUnit, file: &[u8]) -> bool {
        if self.is_spent.get() {
            return false;
        }
        let (work, bytes) = (self.work.left(), self.inflation.left());
        let found = SplitFile::find(file, &self.inflation)
            .map(|found| unit_in(file, &found, DwoId(unit.id), &self.work));
        let is_it = matches!(found, Some(Ok(Some(_))));
        if is_it && self.matched.borrow_mut().insert(fingerprint(file)) {
            let usual = MATCH_BYTES.min(file.len() as u64 * MATCH_EXPANSION);
            self.work.give_back((work - self.work.left()).min(MATCH_WORK));
            self.inflation.give_back((bytes - self.inflation.left()).min(usual));
        }
        self.is_spent.set(matches!(found, Some(Err(DwarfError::BudgetSpent { .. }))));
        is_it
    }

    /// True if candidates are no longer looked into, for want of work or memory.
    pub fn is_spent(&self) -> bool {
        self.is_spent.get()
    }
}

/// The length of a file, and a hash of its start.
fn fingerprint(file: &[u8]) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    file[..file.len().min(FINGERPRINT)].hash(&mut hasher);
    (file.len(), hasher.finish())
}

/// The place of a split unit, with the caches for reading it.
#[derive(Debug)]
struct Place {
    /// The file that has the unit; `None` for the package.
    file: Option<Rc<SplitFile>>,
    /// Offset of the unit's header in its `.debug_info.dwo`.
    offset: usize,
    index: UnitIndex,
}

/// The split units of an image.
pub(super) struct SplitUnits<'data> {
    package: Option<Package<'data>>,
    files: Option<&'data dyn SplitFiles>,
    /// Memory for the compressed sections of all files.
    inflation: InflationBudget,
    is_spent: Cell<bool>,
    /// Open files by the addresses of their bytes, which they own: a file with several units, and one whose
    /// unit a question could not afford to look for, is decompressed once.
    open: RefCell<HashMap<*const u8, Rc<SplitFile>>>,
    /// Places by the number of the skeleton unit, made when the first of them is needed.
    places: OnceCell<Vec<OnceCell<Option<Box<Place>>>>>,
}

impl<'data> SplitUnits<'data> {
    pub(super) fn new(package: Option<&Elf<'data>>, files: Option<&'data dyn SplitFiles>) -> Self {
        Self {
            package: package.and_then(Package::find),
            files,
            inflation: InflationBudget::for_file(usize::MAX),
            is_spent: Cell::new(false),
            open: RefCell::default(),
            places: OnceCell::new(),
        }
    }

    /// True if a unit was not read for want of work or memory.
    pub(super) fn is_budget_spent(&self) -> bool {
        self.is_spent.get()
    }

    /// Reads the unit with the entries of `skeleton`, which is number `number` of `units` in the image.
    /// `None` if that is no skeleton, or its entries are not available.
    pub(super) fn unit<'a>(
        &'a self,
        dwarf: &Dwarf<'a>,
        skeleton: &Unit<'a>,
        number: usize,
        units: usize,
    ) -> Result<Option<Unit<'a>>, DwarfError> {
        let unit = self.read(dwarf, skeleton, number, units);
        if matches!(unit, Err(DwarfError::BudgetSpent { .. })) {
            self.is_spent.set(true);
        }
        unit
    }

    fn read<'a>(
        &'a self,
        dwarf: &Dwarf<'a>,
        skeleton: &Unit<'a>,
        number: usize,
        units: usize,
    ) -> Result<Option<Unit<'a>>, DwarfError> {
        let Some(id) = skeleton.dwo_id else { return Ok(None) };
        let places = self.places.get_or_init(|| (0..units).map(|_| OnceCell::new()).collect());
        let Some(cell) = places.get(number) else { return Ok(None) };
        // A spent budget is not kept: the next question has work again.
        let place = match cell.get() {
            Some(place) => place,
            None => {
                let found = self.find(dwarf, skeleton, id)?.map(Box::new);
                cell.get_or_init(|| found)
            }
        };
        let Some(place) = place else { return Ok(None) };
        let sections = match (&place.file, &self.package) {
            (Some(file), _) => {
                let mut sections = file.sections()?;
                sections.make_dwo(dwarf);
                sections
            }
            (None, Some(package)) => match package.sections(dwarf, id)? {
                Some(sections) => sections,
                None => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        let sections = Dwarf { sections, work: dwarf.work() };
        let mut unit = place.index.unit(&sections, place.offset)?;
        unit.copy_relocated_attributes(skeleton);
        unit.home = Home::Split(Rc::new(sections));
        Ok(Some(unit))
    }

    /// Finds the place of a unit. `None` if no file has it, or the file that should is broken.
    fn find<'a>(
        &'a self,
        dwarf: &Dwarf<'a>,
        skeleton: &Unit<'a>,
        id: DwoId,
    ) -> Result<Option<Place>, DwarfError> {
        if let Some(package) = &self.package
            && let Some(sections) = unless_broken(package.sections(dwarf, id))?
            && let Some(offset) =
                unless_broken(unit_with(&Dwarf { sections, work: dwarf.work() }, id))?
        {
            return Ok(Some(Place { file: None, offset, index: UnitIndex::default() }));
        }
        let (Some(unit), Some(files)) = (request(dwarf, skeleton, id)?, self.files) else {
            return Ok(None);
        };
        let Some(file) = files.open(&unit).and_then(|bytes| self.file(bytes)) else {
            return Ok(None);
        };
        let offset = unit_in((*file.bytes).as_ref(), &file.sections, id, dwarf.work());
        let Some(offset) = unless_broken(offset)? else { return Ok(None) };
        Ok(Some(Place { file: Some(file), offset, index: UnitIndex::default() }))
    }

    /// The file with these bytes, which is kept. `None` if it is no object file.
    fn file(&self, bytes: SharedBytes) -> Option<Rc<SplitFile>> {
        let address = (*bytes).as_ref().as_ptr();
        let mut open = self.open.borrow_mut();
        // A file without bytes shares its address with others.
        if let Some(file) = open.get(&address).filter(|file| Rc::ptr_eq(&file.bytes, &bytes)) {
            return Some(Rc::clone(file));
        }
        let sections = SplitFile::find((*bytes).as_ref(), &self.inflation)?;
        let file = Rc::new(SplitFile { bytes, sections });
        open.insert(address, Rc::clone(&file));
        Some(file)
    }
}

/// The result of a search, with `None` for broken input. A spent budget stays an error, with its reason.
fn unless_broken<T>(found: Result<Option<T>, DwarfError>) -> Result<Option<T>, DwarfError> {
    match found {
        Err(error) if !matches!(error, DwarfError::BudgetSpent { .. }) => Ok(None),
        other => other,
    }
}

impl std::fmt::Debug for SplitUnits<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SplitUnits").field("package", &self.package).finish_non_exhaustive()
    }
}

/// The name and directory of the file with a skeleton's entries. `None` if it names no file.
fn request<'a>(
    dwarf: &Dwarf<'a>,
    skeleton: &Unit<'a>,
    id: DwoId,
) -> Result<Option<SplitUnit>, DwarfError> {
    let root = root(dwarf.work(), skeleton).map(Some);
    let Some(root) = unless_broken(root)? else { return Ok(None) };
    let text = |at| string(dwarf, skeleton, root.attr_value(at)?).map(std::borrow::Cow::into_owned);
    let name = text(gimli::DW_AT_dwo_name).or_else(|| text(gimli::DW_AT_GNU_dwo_name));
    let directory = text(gimli::DW_AT_comp_dir);
    Ok(name.map(|name| SplitUnit { name, directory, id: id.0 }))
}

/// The offset of the unit with this DWO ID in a file. Decompresses only what shows that ID.
fn unit_in(
    file: &[u8],
    found: &FileSections,
    id: DwoId,
    work: &Work,
) -> Result<Option<usize>, DwarfError> {
    let sections = sections(file, found, &WITH_ID)?;
    unit_with(&Dwarf { sections, work }, id)
}

/// The offset of the unit with this DWO ID: in its header, or up to DWARF 4 in its first entry.
fn unit_with(sections: &Dwarf<'_>, id: DwoId) -> Result<Option<usize>, DwarfError> {
    let index = UnitIndex::default();
    let mut headers = sections.units();
    for _ in 0..MAX_UNITS {
        let Some(header) = headers.next().map_err(read("a unit header"))? else { break };
        let Some(offset) = header.debug_info_offset() else { break };
        if index.unit(sections, offset.0)?.dwo_id == Some(id) {
            return Ok(Some(offset.0));
        }
    }
    Ok(None)
}

/// A `.dwo` file that is open, with its sections.
struct SplitFile {
    bytes: SharedBytes,
    sections: FileSections,
}

/// The sections of a file, in the order of [`NEEDED`], as places in its bytes.
type FileSections = [Option<FileSection>; NEEDED.len()];

#[derive(Debug)]
struct FileSection {
    range: Range<usize>,
    compression: Option<(CompressionFormat, u64)>,
    budget: InflationBudget,
    inflated: OnceCell<Result<Vec<u8>, DwarfError>>,
}

impl SplitFile {
    /// Finds the sections of a file. `None` if it is no object file.
    fn find(file: &[u8], inflation: &InflationBudget) -> Option<FileSections> {
        let elf = Elf::parse_object(file).ok()?;
        let find =
            |section: SectionId| FileSection::find(&elf, file, section.dwo_name()?, inflation);
        Some(NEEDED.map(find))
    }

    fn sections(&self) -> Result<gimli::Dwarf<Slice<'_>>, DwarfError> {
        sections((*self.bytes).as_ref(), &self.sections, &NEEDED)
    }
}

impl std::fmt::Debug for SplitFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SplitFile").field("sections", &self.sections).finish_non_exhaustive()
    }
}

/// The `wanted` sections of a file; the others are empty, and are not decompressed.
fn sections<'a>(
    file: &'a [u8],
    sections: &'a FileSections,
    wanted: &[SectionId],
) -> Result<gimli::Dwarf<Slice<'a>>, DwarfError> {
    let mut dwarf = gimli::Dwarf::load(|id| {
        let at = NEEDED.iter().position(|&needed| needed == id && wanted.contains(&id));
        let section = at.and_then(|at| Some((sections[at].as_ref()?, id.dwo_name()?)));
        let bytes = match section {
            Some((section, name)) => section.bytes(file, name)?,
            None => &[],
        };
        Ok(EndianSlice::new(bytes, LittleEndian))
    })?;
    dwarf.file_type = gimli::DwarfFileType::Dwo;
    Ok(dwarf)
}

impl FileSection {
    fn find(
        elf: &Elf<'_>,
        file: &[u8],
        name: &'static str,
        budget: &InflationBudget,
    ) -> Option<Self> {
        let section = elf.section(name)?;
        // It is a part of the file.
        let start = (section.bytes.as_ptr() as usize).checked_sub(file.as_ptr() as usize)?;
        let range = start..start.checked_add(section.bytes.len())?;
        let (compression, budget) = (section.compression, budget.clone());
        Some(Self { range, compression, budget, inflated: OnceCell::new() })
    }

    fn bytes<'a>(&'a self, file: &'a [u8], name: &'static str) -> Result<&'a [u8], DwarfError> {
        let bytes = file.get(self.range.clone()).unwrap_or_default();
        let Some((format, size)) = self.compression else { return Ok(bytes) };
        let inflated = self.inflated.get_or_init(|| {
            if !self.budget.spend(size) {
                return Err(DwarfError::BudgetSpent { what: name });
            }
            inflate(bytes, format, size)
                .map_err(|reason| DwarfError::Compressed { section: name, reason })
        });
        inflated.as_deref().map_err(Clone::clone)
    }
}

/// A package of split units.
#[derive(Debug)]
struct Package<'data> {
    sections: [Option<Section<'data>>; PACKAGED.len()],
}

impl<'data> Package<'data> {
    /// Finds the sections of a package. `None` if the file has no index of units.
    fn find(elf: &Elf<'data>) -> Option<Self> {
        let sections = PACKAGED.map(|id| Section::find(elf, id.dwo_name()?));
        sections.last()?.is_some().then_some(Self { sections })
    }

    fn section(&self, id: SectionId) -> Result<Slice<'_>, DwarfError> {
        let at = PACKAGED.iter().position(|&needed| needed == id);
        let section = at.and_then(|at| Some((self.sections[at].as_ref()?, id.dwo_name()?)));
        let bytes = match section {
            Some((section, name)) => section.bytes(name)?,
            None => &[],
        };
        Ok(EndianSlice::new(bytes, LittleEndian))
    }

    /// The sections of the unit with this DWO ID, for the image with the sections `image`. `None` if the
    /// package does not have it.
    fn sections<'a>(
        &'a self,
        image: &Dwarf<'a>,
        id: DwoId,
    ) -> Result<Option<gimli::Dwarf<Slice<'a>>>, DwarfError> {
        for id in PACKAGED {
            self.section(id)?;
        }
        let what = "the index of a package";
        let empty = EndianSlice::new(&[], LittleEndian);
        let section = |id| Ok(self.section(id).unwrap_or(empty));
        let package = gimli::DwarfPackage::load(section, empty).map_err(read(what))?;
        package.find_cu(id, image).map_err(read(what))
    }
}
