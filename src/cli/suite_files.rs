//! The files that a suite names: checked before its first VM starts.
//!
//! Owns the list of faulty files; refuses to own the conditions for an image (`vmm`). Called by `farm`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use nmiscope_farm::suite::SuiteVm;
use nmiscope_vmm as vmm;

use crate::errors::BadRequest;
use crate::images::{self, Access};

/// Maximum number of faulty files that are named.
const MAX_NAMED: usize = 10;

/// Checks images and RAM disks before anything runs, and reports all that cannot be used at once.
///
/// # Errors
/// An image or a RAM disk cannot be read, or an image cannot be booted in the memory of its VMs.
pub fn check(vms: &[SuiteVm]) -> anyhow::Result<()> {
    let initrds: BTreeSet<&PathBuf> = vms.iter().filter_map(|vm| vm.initrd.as_ref()).collect();
    let images = vms.iter().filter_map(|vm| Some((vm.image.as_ref()?, vm.memory)));
    // An image that fits into the least memory of its VMs fits into the others too.
    let mut least: BTreeMap<&PathBuf, u64> = BTreeMap::new();
    for (image, memory) in images {
        least.entry(image).and_modify(|least| *least = memory.min(*least)).or_insert(memory);
    }
    let check_image = |image: &Path, memory: u64| -> anyhow::Result<()> {
        let bytes = images::open(image, Access::Map)?;
        vmm::check_image(&bytes, memory).with_context(|| image.display().to_string())
    };
    let initrds = initrds.into_iter().filter_map(|file| images::open(file, Access::Map).err());
    let images = least.into_iter().filter_map(|(image, memory)| check_image(image, memory).err());
    let wrong: Vec<String> = images.chain(initrds).map(|error| format!("{error:#}")).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let more = match wrong.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let wrong = wrong[..wrong.len().min(MAX_NAMED)].join("; ");
    Err(BadRequest::from_error(anyhow!("the suite's files cannot be used: {wrong}{more}")))
}
