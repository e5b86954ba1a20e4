//! Starvation: vCPUs without progress because the host does not run them.
//!
//! Owns when it is reported; starvation is never a hang. Called by `judge`.

use super::ages::{Age, Ages, CpuAges};
use super::bounds::Bounds;
use super::class::boot_stall;
use super::verdict::Starved;
use crate::kernel::Reading;

/// Returns the vCPUs that the host has hardly run for the bound.
pub fn starved(bounds: &Bounds, ages: &Ages, ready: bool, kernel: &Reading) -> Option<Starved> {
    let bound = bounds.starved?;
    let (bound, age): (_, fn(&CpuAges) -> Age) = match kernel {
        // A booting guest has first the time to become ready, and then the bound.
        _ if !ready => (bound.saturating_add(boot_stall::bound(bounds)?), |cpu| cpu.watched),
        // Progress cannot be read; the time that the host gave the vCPU can.
        Reading::Unreadable { .. } => (bound, |cpu| cpu.watched),
        Reading::Known(_) | Reading::Unknown => (bound, |cpu| cpu.no_progress),
    };
    let is_starved = |age: &Age| age.wall >= bound && age.own < age.wall / 2;
    let cpus = (0..).zip(ages.cpus.iter().map(age));
    let starved: Vec<(u32, Age)> = cpus.filter(|(_, age)| is_starved(age)).collect();
    Some(Starved {
        wall: starved.iter().map(|(_, age)| age.wall).max()?,
        ran: starved.iter().map(|(_, age)| age.ran).max()?,
        cpus: starved.into_iter().map(|(cpu, _)| cpu).collect(),
    })
}
