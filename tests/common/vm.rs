//! The bundled guest in a VM of the test's process, for tests that examine it step by step.

use std::sync::mpsc;
use std::time::Duration;

use nmiscope_guest::abi;
use nmiscope_vmm::{Config, Ports, Vm, VmEvent};

/// Starts a VM with a workload, and waits until the guest is ready. Its console output is dropped.
pub fn ready_vm(workload: &str, cpus: u32) -> Vm {
    super::require_kvm();
    let (sender, events) = mpsc::channel();
    let mut vm = Vm::new(Config {
        cpus,
        memory: 64 << 20,
        image: nmiscope::bundled::image(),
        initrd: None,
        cmdline: format!("workload={workload}"),
        serial_output: Box::new(std::io::sink()),
        ports: Ports {
            debug_exit: abi::DEBUG_EXIT_PORT,
            post: abi::POST_PORT,
            nmi_done: abi::NMI_DONE_PORT,
        },
        pit: false,
        events: Box::new(move |event| {
            // Sending fails once the guest is ready, when the receiver is gone.
            let _ = sender.send(event);
        }),
    })
    .expect("a VM");
    vm.start();
    let ready = events.recv_timeout(Duration::from_secs(120)).expect("the guest gets ready");
    assert!(matches!(ready, VmEvent::Post { code: abi::POST_READY, .. }), "{ready:?}");
    vm
}
