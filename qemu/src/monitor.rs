//! The monitor that a [`Qemu`](crate::Qemu) and the memory behind it share.
//!
//! Owns the one QMP connection and a flag that decides how memory may be read through it: this visit has
//! the VM stopped. Refuses to own commands (`qmp`, `status`, `monitor_memory`).

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;

use crate::qmp::Qmp;

/// A QMP connection shared by the handle and the memory reader of one QEMU.
#[derive(Debug)]
pub(crate) struct SharedMonitor {
    qmp: RefCell<Qmp>,
    vm_is_stopped: Cell<bool>,
}

impl SharedMonitor {
    /// Wraps the connection to a VM that this visit has not stopped.
    pub(crate) fn new(qmp: Qmp) -> Rc<Self> {
        Rc::new(Self { qmp: RefCell::new(qmp), vm_is_stopped: Cell::new(false) })
    }

    /// Borrows the connection for a sequence of commands; the borrow must end before the other user needs it.
    pub(crate) fn qmp(&self) -> RefMut<'_, Qmp> {
        self.qmp.borrow_mut()
    }

    /// True from the answer to `stop` until `cont` is sent.
    pub(crate) fn vm_is_stopped(&self) -> bool {
        self.vm_is_stopped.get()
    }

    /// Records that this visit has stopped the VM, or that the stop is about to end.
    pub(crate) fn set_vm_is_stopped(&self, is_stopped: bool) {
        self.vm_is_stopped.set(is_stopped);
    }
}
