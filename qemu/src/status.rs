//! The state of a VM, as QEMU reports it.
//!
//! Owns the run states, which of them allow a capture, and the other conditions that forbid one: a
//! migration, a dump, encrypted memory. Refuses to own stopping (`qemu`). All functions here are
//! queries: they do not affect the guest, and each occupies QEMU's main loop for some 0.1 ms.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::qmp::{Qmp, QmpError, unexpected};

/// The run state of a VM (QEMU, qapi/run-state.json, `RunState`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RunState {
    /// A debugger stopped the VM through QEMU's gdb stub.
    Debug,
    /// The VM waits for an incoming migration.
    InMigrate,
    /// An emulation error stopped the VM.
    InternalError,
    /// A disk error stopped the VM.
    IoError,
    /// A monitor command, such as `stop`, stopped the VM.
    Paused,
    /// The VM was migrated to another QEMU.
    PostMigrate,
    /// The VM has not been started yet (`-S`).
    PreLaunch,
    /// The last part of a migration is under way.
    FinishMigrate,
    /// A snapshot is being loaded.
    RestoreVm,
    /// The VM executes its guest.
    Running,
    /// A snapshot or a dump is being written.
    SaveVm,
    /// The guest shut down or reset, and QEMU is configured not to exit.
    Shutdown,
    /// The guest suspended itself to RAM.
    Suspended,
    /// The emulated watchdog device stopped the VM.
    Watchdog,
    /// The guest reported a panic to QEMU.
    GuestPanicked,
    /// A COLO failover is under way.
    Colo,
    /// A run state unknown to this crate, by QEMU's name.
    Other(String),
}

/// Names that QEMU gives to the run states.
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
    /// Returns the state that QEMU calls `name`.
    pub fn from_name(name: &str) -> Self {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map_or_else(|| Self::Other(name.to_owned()), |(_, state)| state.clone())
    }

    /// The name that QEMU gives to the state.
    pub fn name(&self) -> &str {
        if let Self::Other(name) = self {
            return name;
        }
        NAMES.iter().find(|(_, state)| state == self).map_or("", |(name, _)| name)
    }

    /// The operation that forbids a capture in this state; `None` for a state that allows one.
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

/// An operation on the VM that a capture must not disturb.
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
    /// A COLO failover is under way.
    #[error("a COLO failover is under way")]
    Colo,
    /// The run state is unknown to this crate, by QEMU's name.
    #[error("its run state {0:?} is not a known one")]
    UnknownState(String),
}

/// State of a VM that may be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The VM runs: a capture has to stop it.
    Running,
    /// The VM is already stopped, in this run state, and stays so.
    Stopped(RunState),
}

/// The mechanism by which QEMU executes the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Hardware virtualization through Linux's KVM.
    Kvm,
    /// Another accelerator, usually TCG. Nothing in this crate depends on which.
    Other,
}

/// Error of a VM that may not be captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// An operation on the VM is under way.
    #[error("capture the VM: {0}: try again afterwards")]
    Busy(Operation),
    /// Guest memory is encrypted with a key that the host does not have.
    #[error("read the VM's memory: it is encrypted ({by}), and only the guest can read it")]
    Encrypted {
        /// The technique, such as `AMD SEV` or `tdx-guest`.
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

/// Queries the run state of the VM.
pub(crate) fn run_state(qmp: &mut Qmp, within: Duration) -> Result<RunState, QmpError> {
    let answer: Status = query(qmp, "query-status", within)?;
    Ok(RunState::from_name(&answer.status))
}

/// Queries the conditions that may forbid a capture, memory encryption excepted.
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

/// True for every status of a migration that has begun and not ended (qapi/migration.json,
/// `MigrationStatus`). An unknown status, of a later QEMU version, counts as under way.
fn is_under_way(status: &str) -> bool {
    !matches!(status, "none" | "cancelled" | "completed" | "failed")
}

/// Refuses a VM whose memory is encrypted.
pub(crate) fn refuse_encrypted(qmp: &mut Qmp, within: Duration) -> Result<(), StatusError> {
    let sev: Option<Enabled> = if_known(query(qmp, "query-sev", within))?;
    if sev.is_some_and(|sev| sev.enabled) {
        return Err(StatusError::Encrypted { by: "AMD SEV".into() });
    }
    // TDX and later techniques: since QEMU 6.0 a link in the object tree, empty where none is used.
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

/// True if libvirt has a monitor of this QEMU, recognised by the name of the character device (libvirt,
/// src/qemu/qemu_alias.c, `charmonitor`).
pub(crate) fn has_libvirt(qmp: &mut Qmp, within: Duration) -> Result<bool, QmpError> {
    #[derive(Deserialize)]
    struct CharacterDevice {
        label: String,
    }
    let devices: Vec<CharacterDevice> = query(qmp, "query-chardev", within)?;
    Ok(devices.iter().any(|device| device.label == "charmonitor"))
}

/// Queries the accelerator of the VM.
pub(crate) fn accelerator(qmp: &mut Qmp, within: Duration) -> Result<Accelerator, QmpError> {
    let kvm: Option<Enabled> = if_known(query(qmp, "query-kvm", within))?;
    let is_kvm = kvm.is_some_and(|kvm| kvm.enabled);
    Ok(if is_kvm { Accelerator::Kvm } else { Accelerator::Other })
}

/// Queries the number of vCPUs.
pub(crate) fn vcpus(qmp: &mut Qmp, within: Duration) -> Result<u32, QmpError> {
    const COMMAND: &str = "query-cpus-fast";
    let answer = qmp.execute(COMMAND, within)?;
    let count = answer.as_array().and_then(|cpus| u32::try_from(cpus.len()).ok());
    count.ok_or_else(|| unexpected(COMMAND, &answer))
}

/// Executes a command without arguments and deserializes its answer.
pub(crate) fn query<T: DeserializeOwned>(
    qmp: &mut Qmp,
    command: &str,
    within: Duration,
) -> Result<T, QmpError> {
    let answer = qmp.execute(command, within)?;
    T::deserialize(&answer).map_err(|_| unexpected(command, &answer))
}

/// Maps a refusal to `None`: this QEMU lacks the command, or its VM lacks the feature.
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
