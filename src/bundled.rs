//! The guest kernel that is part of this binary: its image, and where its sources are.

/// The image's bytes, aligned so that its headers can be read in place.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("NMISCOPE_GUEST_IMAGE")));

/// The image, an ELF file with debug information, as `build.rs` made it.
pub fn image() -> &'static [u8] {
    &IMAGE.0
}

/// What its debug information calls the root of the repository.
pub const SOURCE_ROOT: &str = env!("NMISCOPE_GUEST_SOURCE_ROOT");

/// What it runs when nobody says what: something to see.
pub const DEFAULT_WORKLOAD: &str = "abba-deadlock";
