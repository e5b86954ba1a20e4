//! vCPUs that get nowhere because the host does not let them.
//!
//! Owns when that is reported; no hang, whatever they would do if they ran. Called by `judge`.

use super::ages::{Age, Ages, CpuAges};
use super::bounds::Bounds;
use super::class::boot_stall;
use super::verdict::Starved;
use crate::kernel::Reading;

/// The vCPUs that the host has kept from their work for as long as the bound.
pub fn starved(bounds: &Bounds, ages: &Ages, ready: bool, kernel: &Reading) -> Option<Starved> {
    let bound = bounds.starved?;
    let (bound, age): (_, fn(&CpuAges) -> Age) = match kernel {
        // One that boots has had the time to become ready by the clock, and then that which it may
        // starve.
        _ if !ready => (bound.saturating_add(boot_stall::bound(bounds)?), |cpu| cpu.watched),
        // Whether it gets on cannot be seen: the time that the host gave it can.
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
