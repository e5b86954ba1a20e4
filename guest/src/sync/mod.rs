//! Locks, what they record for an observer, and the atomics they and printk are made of.
//!
//! Owns mutual exclusion between CPUs, and the words that say from outside who holds what and who
//! waits for whom. Knows of its machine what [`Context`] says. Called by printk, the scheduler and
//! the kernel's workloads.
//!
//! * `lock.rs`: [`Lock`], its guards, and when its record is written; `spinlock.rs` is the lock
//!   itself.
//! * `record.rs`: [`LockRecord`] and [`Wait`].
//! * `context.rs`: [`Context`], which CPU this is.

pub mod atomic;
mod context;
mod lock;
mod record;
mod spinlock;

pub use context::Context;
pub use lock::{Guard, IrqGuard, Lock, RawLock};
pub use record::{LockRecord, Wait, WaitFor, Waiting};
pub use spinlock::{RawSpinLock, SpinGuard, SpinLock};
