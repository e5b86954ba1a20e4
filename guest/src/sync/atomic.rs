//! The choice between core's atomics and loom's, in one place.
//!
//! Owns that choice, so that loom checks the same code that the kernel runs, line for line. Refuses to
//! own any algorithm. All code in this crate that shares memory between CPUs imports its atomics and
//! cells from here.

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

// Loom has no compiler fence: it models processors, and a compiler fence orders nothing between them.
pub use core::sync::atomic::compiler_fence;

/// [`core::cell::UnsafeCell`] with the interface of loom's cell, which records where each access begins
/// and ends and so detects two that overlap.
#[cfg(not(loom))]
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct UnsafeCell<T> {
    inner: core::cell::UnsafeCell<T>,
}

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    /// Makes a cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self { inner: core::cell::UnsafeCell::new(value) }
    }

    /// Calls `f` with a pointer for reading. Dereferencing it is sound while there is no writer.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.inner.get())
    }

    /// Calls `f` with a pointer for writing. Dereferencing it is sound while there is no other reader or
    /// writer.
    #[inline(always)]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.inner.get())
    }
}

/// Defines a constructor that is `const`, except under loom, whose atomics do not allow it.
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
