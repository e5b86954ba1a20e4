//! A VM of this process as a target, with every power.
//!
//! Owns the translation of the VMM's results into those of a target. Refuses to own the life of the VM
//! (`session`). All addresses ultimately come from the guest, so every access is checked and can fail.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nmiscope_machine::{HostCounts, HostTimes, NmiRun, PhysicalAddress, VcpuState};
use nmiscope_vmm::{ThreadState, VcpuError, Vm};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, VolatileMemory};

use super::{Host, MissingPower, Nmis, NoAnswer, NoSuchWord, Pausing, States, Target, Words};
use crate::elf_core::Extents;

impl Target for Vm {
    fn vcpus(&self) -> u32 {
        self.cpus()
    }

    fn states(&self, cpus: &[u32], deadline: Duration) -> States {
        with_reasons(self.sample(cpus, deadline))
    }

    fn extents(&self) -> Extents {
        let mut extents = Extents::new();
        for region in self.memory().iter() {
            extents.insert(PhysicalAddress(region.start_addr().0), region.len());
        }
        extents
    }

    fn tsc(&self, cpu: u32) -> Option<u64> {
        Vm::tsc(self, cpu).ok()
    }

    fn console_bytes(&self) -> Option<u64> {
        Some(Vm::console_bytes(self))
    }

    fn pausing(&mut self) -> Result<&mut dyn Pausing, MissingPower> {
        Ok(self)
    }

    fn words(&self) -> Result<&dyn Words, MissingPower> {
        Ok(self)
    }

    fn nmis(&mut self) -> Result<&mut dyn Nmis, MissingPower> {
        Ok(self)
    }

    fn host(&self) -> Result<&dyn Host, MissingPower> {
        Ok(self)
    }
}

fn with_reasons<T>(answers: Vec<Result<T, VcpuError>>) -> Vec<Result<T, NoAnswer>> {
    answers.into_iter().map(|answer| answer.map_err(reason)).collect()
}

fn reason(error: VcpuError) -> NoAnswer {
    let text = crate::error_chain(&error);
    match error {
        VcpuError::NoSuchVcpu(cpu) => NoAnswer::NoSuchVcpu(cpu),
        VcpuError::NoAnswer { .. } | VcpuError::NoThreadYet(_) => NoAnswer::Late(text),
        _ => NoAnswer::Refused(text),
    }
}

impl Pausing for Vm {
    fn pause(&mut self, deadline: Duration) -> States {
        with_reasons::<VcpuState>(Vm::pause(self, deadline))
    }

    fn resume(&mut self) {
        Vm::resume(self);
    }
}

impl Words for Vm {
    fn store(&self, address: PhysicalAddress, value: u32) -> Result<(), NoSuchWord> {
        with_atomic(self, address, |word| word.store(value, Ordering::Release))
    }

    fn compare_exchange(
        &self,
        address: PhysicalAddress,
        current: u32,
        new: u32,
    ) -> Result<Result<u32, u32>, NoSuchWord> {
        with_atomic(self, address, |word| {
            word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
        })
    }
}

fn with_atomic<R>(
    vm: &Vm,
    address: PhysicalAddress,
    access: impl FnOnce(&AtomicU32) -> R,
) -> Result<R, NoSuchWord> {
    let none = NoSuchWord(address);
    let slice = vm.memory().get_slice(GuestAddress(address.0), size_of::<u32>());
    let slice = slice.map_err(|_| none)?;
    Ok(access(slice.get_atomic_ref::<AtomicU32>(0).map_err(|_| none)?))
}

impl Nmis for Vm {
    fn run(&mut self, cpus: &[u32], bound: Duration) -> Vec<Result<NmiRun, NoAnswer>> {
        with_reasons(self.run_nmi(cpus, bound))
    }
}

impl Host for Vm {
    fn run_time(&self, cpu: u32) -> Duration {
        Vm::run_time(self, cpu)
    }

    fn times(&self, cpu: u32) -> Option<HostTimes> {
        let times = self.host_times(cpu).ok()?;
        Some(HostTimes {
            run: times.run_time,
            delay: times.run_delay,
            asleep: times.state == ThreadState::Sleeping,
        })
    }

    fn counts(&self, cpu: u32) -> HostCounts {
        let counted = self.statistics(cpu);
        counted.map_or_else(HostCounts::default, |counted| HostCounts {
            interrupts: counted.irq_injections,
            halts: counted.halt_exits,
        })
    }
}
