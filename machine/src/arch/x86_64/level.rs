//! The names of the paging levels.
//!
//! Owns the names alone, so that the errors can carry one without knowing a page walk.

use std::fmt;

/// A level of the x86-64 paging hierarchy, named after the table whose entry is meant (Intel SDM
/// volume 3, section 5.5; AMD APM volume 2, section 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Page table: an entry maps 4 KiB.
    Pt,
    /// Page directory: an entry maps 2 MiB or names a page table.
    Pd,
    /// Page-directory-pointer table: an entry maps 1 GiB or names a page directory.
    Pdpt,
    /// Page-map level 4: an entry names a page-directory-pointer table.
    Pml4,
    /// Page-map level 5, with CR4.LA57: an entry names a table of level 4.
    Pml5,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pt => "PT",
            Self::Pd => "PD",
            Self::Pdpt => "PDPT",
            Self::Pml4 => "PML4",
            Self::Pml5 => "PML5",
        })
    }
}
