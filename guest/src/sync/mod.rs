//! Locks, what they record for an observer, and the atomics they and printk are made of.
//!
//! Owns mutual exclusion between CPUs, and the words that say from outside who holds what and who
//! waits for whom. Knows of its machine what [`Context`] says. Called by printk, the scheduler and
//! the kernel's workloads.
//!
//! * `lock.rs`: [`Lock`], its guards, and when its record is written; `spinlock.rs` and
//!   `ticket_lock.rs` are the two ways to say who is next.
//! * `cross_call.rs`: functions that one CPU has others run.
//! * `record.rs`: [`LockRecord`] and [`Wait`].
//! * `context.rs`: [`Context`], which CPU this is.

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
