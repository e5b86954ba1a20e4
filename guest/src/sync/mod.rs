//! Locks, their records for an observer, and the atomics that they and printk are made of.
//!
//! Owns mutual exclusion between CPUs, and the records of holders and waiters that the host reads.
//! Refuses to know the machine, except through [`Context`]. Called by printk, the scheduler and
//! the kernel's workloads.
//!
//! * `lock.rs`: [`Lock`], its guards, and the writing of its record; `spinlock.rs` and `ticket_lock.rs`
//!   are the two kinds of mutual exclusion.
//! * `cross_call.rs`: functions that one CPU runs on others.
//! * `record.rs`: [`LockRecord`] and [`Wait`].
//! * `context.rs`: [`Context`], the current CPU.

pub mod atomic;
mod context;
mod cross_call;
mod lock;
mod record;
mod spinlock;
mod ticket_lock;

pub use context::Context;
pub use cross_call::{
    Call, CallSlot, Calls, MAX_CPUS, answer_calls, smp_call_function_many, smp_call_function_single,
};
pub use lock::{Guard, IrqGuard, Lock, RawLock};
pub use record::{LockRecord, Wait, WaitFor, WaitGuard};
pub use spinlock::{RawSpinLock, SpinGuard, SpinLock};
pub use ticket_lock::{RawTicketLock, TicketGuard, TicketLock};
