//! The guest kernel that is part of this binary: its image, and where its sources are. With the feature
//! `kvm`; without it, only the latter, since cores of it can be read all the same.

/// The image's bytes, aligned so that its headers can be read in place.
#[cfg(feature = "kvm")]
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

#[cfg(feature = "kvm")]
static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("NMISCOPE_GUEST_IMAGE")));

/// The image, an ELF file with debug information, as `build.rs` made it.
#[cfg(feature = "kvm")]
pub fn image() -> &'static [u8] {
    &IMAGE.0
}

/// The image, if it is part of this binary.
pub fn embedded() -> Option<&'static [u8]> {
    #[cfg(feature = "kvm")]
    return Some(image());
    #[cfg(not(feature = "kvm"))]
    return None;
}

/// What its debug information calls the root of the repository.
pub const SOURCE_ROOT: &str = env!("NMISCOPE_GUEST_SOURCE_ROOT");

/// What it runs when nobody says what: something to see.
pub const DEFAULT_WORKLOAD: &str = "abba-deadlock";
