//! Files that an image refers to, or that were split from it.
//!
//! Owns their list. Refuses to find them: the caller knows directories, and whom to trust. Used to parse
//! an image ([`Image::parse_with`](crate::Image::parse_with)).

use std::fmt;

use crate::dwarf::SplitFiles;

/// The bytes of the files that supply what an image lacks. The caller checks that each belongs to the image.
#[derive(Clone, Copy, Default)]
pub struct Companions<'data> {
    /// The separate debug file: debug information, `.debug_frame`, and the full symbol table. It is
    /// checked by [`build_id`](crate::Image::build_id) or
    /// [`DebugLink::matches`](crate::DebugLink::matches).
    pub debug: Option<&'data [u8]>,
    /// The supplementary file that several images share, checked by
    /// [`SupplementaryLink::matches`](crate::SupplementaryLink::matches).
    pub supplementary: Option<&'data [u8]>,
    /// The package of the image's split units (`.dwp`). Units are found in it by their DWO IDs.
    pub package: Option<&'data [u8]>,
    /// The contents of the section `.gnu_debugdata`, decompressed: a file with the symbols of functions
    /// that the image's dynamic symbol table lacks.
    pub minimal: Option<&'data [u8]>,
    /// The source of files with split units (`.dwo`) that the package lacks.
    pub split: Option<&'data dyn SplitFiles>,
}

impl fmt::Debug for Companions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |file: Option<&[u8]>| file.map(<[u8]>::len);
        f.debug_struct("Companions")
            .field("debug", &length(self.debug))
            .field("supplementary", &length(self.supplementary))
            .field("package", &length(self.package))
            .field("minimal", &length(self.minimal))
            .finish_non_exhaustive()
    }
}
