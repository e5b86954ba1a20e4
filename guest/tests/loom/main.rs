//! Models of the memory that CPUs share, under loom, which runs every interleaving, and every value that
//! a weakly ordered load may see:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p nmiscope-guest --test loom --release
//! ```
//!
//! The code is the kernel's own. A thread is a CPU, or a CPU's interrupt handler, and declares which.
#![cfg(loom)]

mod cross_call;
mod locks;
mod printk;
mod sched;

use std::cell::Cell;

use nmiscope_guest::printk::{NmiPrintSeq, PrintkFuncCell};
use nmiscope_guest::sync::{Context, Wait};

/// Number of CPUs of the models.
const CPUS: usize = 3;

loom::thread_local! {
    static CPU: Cell<usize> = Cell::new(0);
}

/// Makes this thread the CPU with this number.
fn become_cpu(cpu: usize) {
    CPU.with(|this| this.set(cpu));
}

/// The machine that the models run on.
#[derive(Default)]
struct Machine {
    per_cpu: [(NmiPrintSeq, PrintkFuncCell); CPUS],
}

/// Records of the CPUs' waits. No model depends on them, as no code in the kernel does.
static CPU_WAIT: [Wait; CPUS] = [const { Wait::new() }; CPUS];

impl Context for Machine {
    fn cpu() -> usize {
        CPU.with(Cell::get)
    }

    fn clock_ns() -> u64 {
        0
    }

    fn cpu_wait() -> &'static Wait {
        &CPU_WAIT[Self::cpu()]
    }

    fn irq_save() -> usize {
        0
    }

    fn irq_restore(_flags: usize) {}
}

fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
