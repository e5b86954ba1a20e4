//! The one place that chooses between core's atomics and loom's.
//!
//! Owns that choice, so that the code which the kernel runs is the code which loom checks, line
//! for line. Refuses to own anything else: there is no algorithm here. Everything in this crate
//! that shares memory between CPUs imports its atomics and cells from here and nowhere else.

#[cfg(not(loom))]
pub use core::{
    hint::spin_loop,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

#[cfg(loom)]
pub use loom::{
    cell::UnsafeCell,
    hint::spin_loop,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

// Loom has none: it models processors, and a compiler fence orders nothing between them.
pub use core::sync::atomic::compiler_fence;

/// [`core::cell::UnsafeCell`] with the interface of loom's, which sees each access begin and end
/// and so can tell two that overlap.
#[cfg(not(loom))]
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct UnsafeCell<T> {
    inner: core::cell::UnsafeCell<T>,
}

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self { inner: core::cell::UnsafeCell::new(value) }
    }

    /// Calls `f` with a pointer for reading. Dereferencing it is sound while nobody writes.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.inner.get())
    }

    /// Calls `f` with a pointer for writing. Dereferencing it is sound while nobody else reads or
    /// writes.
    #[inline(always)]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.inner.get())
    }
}

/// Makes a constructor `const` where the atomics allow it, that is everywhere but under loom.
macro_rules! const_fn_unless_loom {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        #[cfg(not(loom))]
        $(#[$attribute])*
        $visibility const fn $($rest)*

        #[cfg(loom)]
        $(#[$attribute])*
        $visibility fn $($rest)*
    };
}

pub(crate) use const_fn_unless_loom;
