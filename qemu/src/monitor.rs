//! The monitor that a [`Qemu`](crate::Qemu) and the memory behind it share.
//!
//! Owns the one QMP connection and the fact that decides how memory may be read through it: whether this
//! visit has the VM stopped. Refuses to own commands (`qmp`, `status`, `monitor_memory`).

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;

use crate::qmp::Qmp;

/// A QMP connection with two users.
#[derive(Debug)]
pub(crate) struct SharedMonitor {
    qmp: RefCell<Qmp>,
    vm_is_stopped: Cell<bool>,
}

impl SharedMonitor {
    /// Shares a connection to a VM that this visit has not stopped.
    pub(crate) fn new(qmp: Qmp) -> Rc<Self> {
        Rc::new(Self { qmp: RefCell::new(qmp), vm_is_stopped: Cell::new(false) })
    }

    /// The connection, for one command after another: no user keeps it while it calls the other.
    pub(crate) fn qmp(&self) -> RefMut<'_, Qmp> {
        self.qmp.borrow_mut()
    }

    /// True from the answer to `stop` until `cont` is sent.
    pub(crate) fn vm_is_stopped(&self) -> bool {
        self.vm_is_stopped.get()
    }

    /// Records a stop or its end.
    pub(crate) fn set_vm_is_stopped(&self, is_stopped: bool) {
        self.vm_is_stopped.set(is_stopped);
    }
}
