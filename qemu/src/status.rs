//! The state of a VM, as QEMU tells.
//!
//! Owns the run states, which of them allow a capture, and what else forbids one: a migration, a dump,
//! encrypted memory. Refuses to own stopping (`qemu`). Everything here is a query: the guest is not
//! touched, and QEMU's main loop is busy for some 0.1 ms with each.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::qmp::{Qmp, QmpError, unexpected};

/// The run state of a VM (QEMU, qapi/run-state.json, `RunState`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RunState {
    /// A debugger of QEMU's gdb stub stopped it.
    Debug,
    /// It waits for an incoming migration.
    InMigrate,
    /// An emulation error stopped it.
    InternalError,
    /// An error of a disk stopped it.
    IoError,
    /// A command stopped it.
    Paused,
    /// It was migrated to elsewhere.
    PostMigrate,
    /// It has not been started (`-S`).
    PreLaunch,
    /// The last part of a migration is under way.
    FinishMigrate,
    /// A snapshot is being loaded.
    RestoreVm,
    /// It runs.
    Running,
    /// A snapshot or a dump is being written.
    SaveVm,
    /// The guest shut down or reset, and QEMU was told to stay.
    Shutdown,
    /// The guest suspended itself to RAM.
    Suspended,
    /// The watchdog device stopped it.
    Watchdog,
    /// The guest reported a panic.
    GuestPanicked,
    /// A COLO failover is under way.
    Colo,
    /// A state that is not known here, by QEMU's name.
    Other(String),
}

/// The run states by QEMU's names.
const NAMES: [(&str, RunState); 16] = [
    ("debug", RunState::Debug),
    ("inmigrate", RunState::InMigrate),
    ("internal-error", RunState::InternalError),
    ("io-error", RunState::IoError),
    ("paused", RunState::Paused),
    ("postmigrate", RunState::PostMigrate),
    ("prelaunch", RunState::PreLaunch),
    ("finish-migrate", RunState::FinishMigrate),
    ("restore-vm", RunState::RestoreVm),
    ("running", RunState::Running),
    ("save-vm", RunState::SaveVm),
    ("shutdown", RunState::Shutdown),
    ("suspended", RunState::Suspended),
    ("watchdog", RunState::Watchdog),
    ("guest-panicked", RunState::GuestPanicked),
    ("colo", RunState::Colo),
];

impl RunState {
    /// The state of that name.
    pub fn from_name(name: &str) -> Self {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map_or_else(|| Self::Other(name.to_owned()), |(_, state)| state.clone())
    }

    /// QEMU's name of the state.
    pub fn name(&self) -> &str {
        if let Self::Other(name) = self {
            return name;
        }
        NAMES.iter().find(|(_, state)| state == self).map_or("", |(name, _)| name)
    }

    /// The activity that a capture would disturb; `None` for a state that allows one.
    fn operation(&self) -> Option<Operation> {
        match self {
            Self::InMigrate | Self::FinishMigrate => Some(Operation::Migration),
            Self::SaveVm => Some(Operation::SnapshotOrDump),
            Self::RestoreVm => Some(Operation::Restore),
            Self::Colo => Some(Operation::Colo),
            Self::Other(name) => Some(Operation::UnknownState(name.clone())),
            _ => None,
        }
    }
}

/// An activity that a VM is in the middle of and that a capture must not disturb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Operation {
    /// A migration in either direction.
    #[error("it is being migrated")]
    Migration,
    /// A snapshot or a dump is being written.
    #[error("a snapshot or a dump of it is being written")]
    SnapshotOrDump,
    /// A snapshot is being loaded.
    #[error("a snapshot of it is being loaded")]
    Restore,
    /// A COLO failover.
    #[error("a COLO failover is under way")]
    Colo,
    /// A run state that is not known here.
    #[error("its run state {0:?} is not a known one")]
    UnknownState(String),
}

/// A VM that may be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It runs: a capture has to stop it.
    Running,
    /// It is stopped already, and stays so.
    Stopped(RunState),
}

/// The way in which a VM executes its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// KVM.
    Kvm,
    /// Another one; TCG by far the most often. Nothing here depends on which.
    Other,
}

/// Why a VM may not be captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// Something is under way.
    #[error("capture the VM: {0}: try again when that is over")]
    Busy(Operation),
    /// The memory is encrypted with a key that the host does not have.
    #[error("read the VM's memory: it is encrypted ({by}), and only the guest can read it")]
    Encrypted {
        /// The technique, such as `sev-guest`.
        by: String,
    },
    /// The QMP connection or a command on it failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

#[derive(Deserialize)]
struct Status {
    status: String,
}

#[derive(Deserialize)]
struct OptionalStatus {
    status: Option<String>,
}

#[derive(Deserialize)]
struct Enabled {
    enabled: bool,
}

/// Asks for the run state.
pub(crate) fn run_state(qmp: &mut Qmp, within: Duration) -> Result<RunState, QmpError> {
    let answer: Status = query(qmp, "query-status", within)?;
    Ok(RunState::from_name(&answer.status))
}

/// Asks whatever may forbid a capture.
pub(crate) fn readiness(qmp: &mut Qmp, within: Duration) -> Result<Readiness, StatusError> {
    let state = run_state(qmp, within)?;
    if let Some(operation) = state.operation() {
        return Err(StatusError::Busy(operation));
    }
    let migration: Option<OptionalStatus> = if_known(query(qmp, "query-migrate", within))?;
    if migration.and_then(|migration| migration.status).is_some_and(|status| is_under_way(&status))
    {
        return Err(StatusError::Busy(Operation::Migration));
    }
    let dump: Option<Status> = if_known(query(qmp, "query-dump", within))?;
    if dump.is_some_and(|dump| dump.status == "active") {
        return Err(StatusError::Busy(Operation::SnapshotOrDump));
    }
    Ok(if state == RunState::Running { Readiness::Running } else { Readiness::Stopped(state) })
}

/// True for every status of a migration that is neither over nor was never begun (qapi/migration.json,
/// `MigrationStatus`), those of later versions included.
fn is_under_way(status: &str) -> bool {
    !matches!(status, "none" | "cancelled" | "completed" | "failed")
}

/// Refuses a VM whose memory the host cannot read.
pub(crate) fn refuse_encrypted(qmp: &mut Qmp, within: Duration) -> Result<(), StatusError> {
    let sev: Option<Enabled> = if_known(query(qmp, "query-sev", within))?;
    if sev.is_some_and(|sev| sev.enabled) {
        return Err(StatusError::Encrypted { by: "AMD SEV".into() });
    }
    // TDX and what may follow: since QEMU 6.0 a link, empty where there is none.
    let property = |path: &str, property: &str| json!({ "path": path, "property": property });
    let arguments = property("/machine", "confidential-guest-support");
    let link = if_known(qmp.execute_with("qom-get", &arguments, within))?;
    let Some(path) = link.as_ref().and_then(Value::as_str).filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let kind = if_known(qmp.execute_with("qom-get", &property(path, "type"), within))?;
    let by = kind.as_ref().and_then(Value::as_str).unwrap_or("confidential guest").to_owned();
    Err(StatusError::Encrypted { by })
}

/// True where libvirt has a monitor of this QEMU, by the name that it gives to that character device
/// (libvirt, src/qemu/qemu_alias.c, `charmonitor`).
pub(crate) fn has_libvirt(qmp: &mut Qmp, within: Duration) -> Result<bool, QmpError> {
    #[derive(Deserialize)]
    struct CharacterDevice {
        label: String,
    }
    let devices: Vec<CharacterDevice> = query(qmp, "query-chardev", within)?;
    Ok(devices.iter().any(|device| device.label == "charmonitor"))
}

/// Asks for the accelerator.
pub(crate) fn accelerator(qmp: &mut Qmp, within: Duration) -> Result<Accelerator, QmpError> {
    let kvm: Option<Enabled> = if_known(query(qmp, "query-kvm", within))?;
    let is_kvm = kvm.is_some_and(|kvm| kvm.enabled);
    Ok(if is_kvm { Accelerator::Kvm } else { Accelerator::Other })
}

/// Asks for the number of vCPUs.
pub(crate) fn vcpus(qmp: &mut Qmp, within: Duration) -> Result<u32, QmpError> {
    const COMMAND: &str = "query-cpus-fast";
    let answer = qmp.execute(COMMAND, within)?;
    let count = answer.as_array().and_then(|cpus| u32::try_from(cpus.len()).ok());
    count.ok_or_else(|| unexpected(COMMAND, &answer))
}

/// The answer to a query in its type.
pub(crate) fn query<T: DeserializeOwned>(
    qmp: &mut Qmp,
    command: &str,
    within: Duration,
) -> Result<T, QmpError> {
    let answer = qmp.execute(command, within)?;
    T::deserialize(&answer).map_err(|_| unexpected(command, &answer))
}

/// `None` for a command that this QEMU does not have, or refuses because the VM has no such thing.
fn if_known<T>(answer: Result<T, QmpError>) -> Result<Option<T>, QmpError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(QmpError::Command { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_state_has_the_name_that_qemu_uses() {
        // qapi/run-state.json of QEMU 7.2.
        let names = "debug inmigrate internal-error io-error paused postmigrate prelaunch \
                     finish-migrate restore-vm running save-vm shutdown suspended watchdog \
                     guest-panicked colo";
        for name in names.split_whitespace() {
            let state = RunState::from_name(name);
            assert!(!matches!(state, RunState::Other(_)), "{name}");
            assert_eq!(state.name(), name);
        }
        assert_eq!(RunState::from_name("asleep").name(), "asleep");
    }

    #[test]
    fn state_with_an_operation_under_way_is_refused() {
        for name in ["inmigrate", "finish-migrate", "save-vm", "restore-vm", "colo", "asleep"] {
            assert!(RunState::from_name(name).operation().is_some(), "{name}");
        }
        for name in ["running", "prelaunch", "paused", "postmigrate", "guest-panicked"] {
            assert!(RunState::from_name(name).operation().is_none(), "{name}");
        }
    }

    #[test]
    fn unknown_migration_status_counts_as_under_way() {
        assert!(!is_under_way("completed"));
        assert!(is_under_way("postcopy-recover-setup"));
    }
}
