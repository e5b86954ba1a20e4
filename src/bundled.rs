//! The bundled guest: the kernel image that is part of this binary with the feature `kvm`, and the source
//! root that its debug information names, which reports of stored cores need without that feature too.

/// The image's bytes, aligned so that its headers can be read in place.
#[cfg(feature = "kvm")]
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

#[cfg(feature = "kvm")]
static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("NMISCOPE_GUEST_IMAGE")));

/// Returns the bundled image: an ELF file with debug information, built by `build.rs`.
#[cfg(feature = "kvm")]
pub fn image() -> &'static [u8] {
    &IMAGE.0
}

/// Returns the bundled image; `None` in a binary without the feature `kvm`.
pub fn embedded() -> Option<&'static [u8]> {
    #[cfg(feature = "kvm")]
    return Some(image());
    #[cfg(not(feature = "kvm"))]
    return None;
}

/// Path of the repository's root in the image's debug information.
pub const SOURCE_ROOT: &str = env!("NMISCOPE_GUEST_SOURCE_ROOT");

/// Workload that the bundled guest runs by default: a demonstration of a deadlock.
pub const DEFAULT_WORKLOAD: &str = "abba-deadlock";
