//! The bundled guest in a VM of this process, for tests that look at it step by step.

use std::sync::mpsc;
use std::time::Duration;

use nmiscope_guest::abi;
use nmiscope_vmm::{Config, Ports, Vm, VmEvent};

/// A VM that runs a workload, up and ready. What it says after that goes nowhere.
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
            // Nobody listens once the guest is ready.
            let _ = sender.send(event);
        }),
    })
    .expect("a VM");
    vm.start();
    let ready = events.recv_timeout(Duration::from_secs(120)).expect("the guest gets ready");
    assert!(matches!(ready, VmEvent::Post { code: abi::POST_READY, .. }), "{ready:?}");
    vm
}
