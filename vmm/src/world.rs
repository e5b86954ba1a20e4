//! Control over a whole VM: stop all vCPUs, read their state, run NMI handlers, resume, shut down.
//!
//! Owns every deadline; refuses to own the execution of a command (`vcpu::thread`) and all reads that
//! need no command (`watch`). Called by the controlling thread, through [`Vm`].
//!
//! Each operation sends its command to all vCPUs before it collects the answers, so that it takes as long
//! as the slowest vCPU and not as long as all in turn. No operation waits longer than its bound: a vCPU
//! thread can be held up by the host, or by a serial writer that blocks.

use std::time::{Duration, Instant};

use kvm_bindings::kvm_msi;
use nmiscope_machine::{NmiRun, VcpuState};
use vm_memory::Address;

use crate::collector::{Collector, Slot};
use crate::kvm::KvmError;
use crate::layout;
use crate::vcpu::{Answer, Command, VcpuError};
use crate::vm::{Vm, needs_x2apic};

/// Error of a shutdown: some vCPU threads did not end within the deadline. They, and the guest's memory,
/// exist until they do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "shut the VM down: {} did not end within {} ms; is the serial output blocked, or the host \
     overloaded?",
    Cpus(.cpus), .waited.as_millis()
)]
pub struct ShutdownError {
    /// Numbers of the vCPUs whose threads did not end.
    pub cpus: Vec<u32>,
    /// The deadline that they missed.
    pub waited: Duration,
}

struct Cpus<'a>(&'a [u32]);

impl std::fmt::Display for Cpus<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, cpu) in self.0.iter().enumerate() {
            write!(f, "{}cpu{cpu}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Vm {
    /// Deadline for a paused vCPU's answer to a command.
    pub const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

    /// Most wall time of [`Vm::run_nmi`], as a multiple of its `bound`, on a host that does not run the
    /// vCPUs.
    pub const NMI_PATIENCE: u32 = 8;

    /// Deadline for ending the vCPU threads when a `Vm` is dropped.
    pub const DROP_DEADLINE: Duration = Duration::from_secs(1);

    /// Stops every vCPU at an instruction boundary and returns their states, in order of their numbers. A
    /// vCPU that has not stopped within `deadline` is [`VcpuError::NoAnswer`]; it stops later. Idempotent.
    pub fn pause(&mut self, deadline: Duration) -> Vec<Result<VcpuState, VcpuError>> {
        let cpus: Vec<u32> = (0..self.cpus()).collect();
        let stopped = self.collect(&cpus, Command::Pause, deadline);
        let is_late = |state: &_| matches!(state, Err(VcpuError::NoAnswer { .. }));
        self.running = stopped.iter().any(is_late);
        stopped
    }

    /// Resumes every vCPU that has not ended, and notifies guests with a kvmclock that they were stopped
    /// (KVM_KVMCLOCK_CTRL). Idempotent. A pause right after it may stop the guest before it has executed
    /// an instruction.
    pub fn resume(&mut self) {
        for vcpu in &self.vcpus {
            vcpu.send(Command::Resume);
        }
        self.running = true;
    }

    /// Returns the states of `cpus`, in their order. A running vCPU stops only while its state is read.
    pub fn states(&self, cpus: &[u32]) -> Vec<Result<VcpuState, VcpuError>> {
        self.sample(cpus, Self::ANSWER_DEADLINE)
    }

    /// Returns the states of `cpus`, as [`Vm::states`] does, but with a deadline of the caller's: a vCPU
    /// that the host does not run within `deadline` is [`VcpuError::NoAnswer`].
    ///
    /// A running vCPU is kicked, which costs it a few microseconds. A halted vCPU's thread wakes up on the
    /// host, but the guest stays halted.
    pub fn sample(&self, cpus: &[u32], deadline: Duration) -> Vec<Result<VcpuState, VcpuError>> {
        self.collect(cpus, Command::Read, deadline)
    }

    /// Returns the state of one vCPU; see [`Vm::states`].
    pub fn state(&self, cpu: u32) -> Result<VcpuState, VcpuError> {
        self.states(&[cpu]).pop().unwrap_or(Err(VcpuError::NoSuchVcpu(cpu)))
    }

    /// Returns a vCPU's time-stamp counter, in cycles. A running vCPU stops only while it is read.
    pub fn tsc(&self, cpu: u32) -> Result<u64, VcpuError> {
        let answer = self.collect(&[cpu], Command::ReadTsc, Self::ANSWER_DEADLINE).pop();
        answer.unwrap_or(Err(VcpuError::NoSuchVcpu(cpu)))
    }

    /// Lets one vCPU of a paused VM execute one instruction (KVM_SET_GUEST_DEBUG), and returns its state
    /// after it. An interrupt's handler that comes first runs as a whole. A vCPU that stays halted for
    /// longer than [`Vm::ANSWER_DEADLINE`] is stopped where it is.
    pub fn step(&mut self, cpu: u32) -> Result<VcpuState, VcpuError> {
        self.run_one(cpu, None)
    }

    /// Lets one vCPU of a paused VM run until the instruction at a guest-virtual address is its next
    /// (KVM_SET_GUEST_DEBUG), at most for [`Vm::ANSWER_DEADLINE`], and returns its state there.
    pub fn run_to(&mut self, cpu: u32, address: u64) -> Result<VcpuState, VcpuError> {
        self.run_one(cpu, Some(address))
    }

    fn run_one(&mut self, cpu: u32, to: Option<u64>) -> Result<VcpuState, VcpuError> {
        let collector = Collector::new();
        self.ask(&[cpu], || Command::Step { to, answer: collector.slot() });
        collector.wait(Instant::now() + Self::ANSWER_DEADLINE);
        if !collector.is_complete() {
            self.kick_late(&[cpu], &collector);
            collector.wait(Instant::now() + Self::ANSWER_DEADLINE);
        }
        let answer =
            self.order_answers(&[cpu], collector.into_answers(), 2 * Self::ANSWER_DEADLINE).pop();
        answer.unwrap_or(Err(VcpuError::NoSuchVcpu(cpu)))
    }

    /// Sends an NMI to each of `cpus` and lets each run until its handler writes the nmi_done port,
    /// then stops it again. Other vCPUs stay stopped. For a paused VM.
    ///
    /// `bound` counts each vCPU's own time, so that a vCPU that the host does not run is not blamed for
    /// it: the CPU time of its thread, or wall time while the vCPU is halted. A handler that is not done
    /// by then is stopped where it is, and in any case after [`Vm::NMI_PATIENCE`] times `bound` of wall
    /// time; the call returns within [`Vm::ANSWER_DEADLINE`] of that. Answers are in the order of `cpus`,
    /// which should name each vCPU once.
    pub fn run_nmi(&mut self, cpus: &[u32], bound: Duration) -> Vec<Result<NmiRun, VcpuError>> {
        let started = Instant::now();
        let until = started + bound * Self::NMI_PATIENCE;
        let collector = Collector::new();
        self.ask(cpus, || Command::RunNmi { bound, until, answer: collector.slot() });
        collector.wait(started + bound);
        // A kick makes a late vCPU's thread check its own time.
        while !collector.is_complete() && Instant::now() < until {
            self.kick_late(cpus, &collector);
            collector.wait((Instant::now() + bound / 8).min(until));
        }
        if !collector.is_complete() {
            self.kick_late(cpus, &collector);
            collector.wait(Instant::now() + Self::ANSWER_DEADLINE);
        }
        self.order_answers(cpus, collector.into_answers(), started.elapsed())
    }

    fn kick_late<T>(&self, cpus: &[u32], collector: &Collector<Answer<T>>) {
        let mut late = cpus.to_vec();
        collector
            .inspect(|found| late.retain(|cpu| found.iter().all(|(answered, _)| answered != cpu)));
        for vcpu in late.iter().filter_map(|cpu| self.vcpus.get(*cpu as usize)) {
            vcpu.kick();
        }
    }

    /// Sends one NMI to every CPU through the local APICs, as a device would (KVM_SIGNAL_MSI), and
    /// returns at once. The VM may be running: this is for comparison with [`Vm::run_nmi`]. Each handler
    /// that finishes is reported as [`crate::VmEvent::NmiDone`].
    pub fn broadcast_nmi_msi(&self) -> Result<(), KvmError> {
        const DELIVER_NMI: u32 = 4 << 8;
        const ALL_XAPIC: u32 = 0xff << 12;
        let msi = kvm_msi {
            address_lo: layout::LOCAL_APIC.raw_value() as u32 | ALL_XAPIC,
            // The upper 24 bits of an x2APIC destination, where APIC ids have that many.
            address_hi: if needs_x2apic(self.cpus()) { 0xffff_ff00 } else { 0 },
            data: DELIVER_NMI,
            ..Default::default()
        };
        self.fd.signal_msi(msi).map_err(KvmError::ioctl("KVM_SIGNAL_MSI"))?;
        Ok(())
    }

    /// Ends every vCPU thread, whatever the guest is doing, and joins it.
    ///
    /// # Errors
    ///
    /// Names the vCPUs whose threads did not end within `deadline`.
    pub fn shutdown(mut self, deadline: Duration) -> Result<(), ShutdownError> {
        self.end_threads(deadline)
    }

    fn end_threads(&mut self, deadline: Duration) -> Result<(), ShutdownError> {
        let mut late: Vec<u32> = (0..self.cpus()).collect();
        let collector = Collector::new();
        self.ask(&late, || Command::Exit(collector.slot()));
        collector.wait(Instant::now() + deadline);
        let ended = collector.into_answers();
        late.retain(|cpu| !ended.contains(cpu));
        for (cpu, vcpu) in (0..).zip(&mut self.vcpus) {
            if !late.contains(&cpu) {
                vcpu.join();
            }
        }
        self.vcpus.clear();
        if late.is_empty() { Ok(()) } else { Err(ShutdownError { cpus: late, waited: deadline }) }
    }

    /// Sends a command to `cpus` and waits for their answers until the deadline.
    fn collect<T>(
        &self,
        cpus: &[u32],
        command: impl Fn(Slot<Answer<T>>) -> Command,
        deadline: Duration,
    ) -> Vec<Result<T, VcpuError>> {
        let until = Instant::now() + deadline;
        let collector = Collector::new();
        self.ask(cpus, || command(collector.slot()));
        collector.wait(until);
        self.order_answers(cpus, collector.into_answers(), deadline)
    }

    /// Queues a command for each of `cpus`, and kicks those that may be in the guest.
    fn ask(&self, cpus: &[u32], command: impl Fn() -> Command) {
        for vcpu in cpus.iter().filter_map(|cpu| self.vcpus.get(*cpu as usize)) {
            vcpu.send(command());
            if self.running {
                vcpu.kick();
            }
        }
    }

    /// Puts answers into the order of `cpus`, with an error for each that is missing.
    fn order_answers<T>(
        &self,
        cpus: &[u32],
        mut found: Vec<Answer<T>>,
        waited: Duration,
    ) -> Vec<Result<T, VcpuError>> {
        let find_answer = |cpu: &u32| match found.iter().position(|(answered, _)| answered == cpu) {
            Some(at) => {
                found.swap_remove(at).1.map_err(|source| VcpuError::Kvm { cpu: *cpu, source })
            }
            None if *cpu >= self.cpus() => Err(VcpuError::NoSuchVcpu(*cpu)),
            None => Err(VcpuError::NoAnswer { cpu: *cpu, waited }),
        };
        cpus.iter().map(find_answer).collect()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Best effort: a thread that has not ended keeps the memory it needs mapped.
        let _ = self.end_threads(Self::DROP_DEADLINE);
    }
}
