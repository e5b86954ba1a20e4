//! Time of a backtrace of all vCPUs while all of them spin, from the trigger to the last buffer read: as a
//! ratio to the run time of the guest's NMI handlers themselves, and to the time of the same NMIs when all
//! vCPUs run freely.
//!
//! Prints a table row per number of vCPUs beside criterion's measurements. Needs `/dev/kvm`.

use std::sync::mpsc::{self, Receiver};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use nmiscope::capture::{Capture, CaptureRequest, NmiCapture, StoppedGuest, Timeouts};
use nmiscope::images::{Access, Files};
use nmiscope::kernel;
use nmiscope_guest::abi;
use nmiscope_report::Trigger;
use nmiscope_vmm::{Config, Ports, Vm, VmEvent};

/// Starts a VM whose vCPUs all compute, and waits until it is ready.
fn spinning_vm(cpus: u32) -> (Vm, Receiver<VmEvent>) {
    let (sender, events) = mpsc::channel();
    let mut vm = Vm::new(Config {
        cpus,
        memory: 64 << 20,
        image: nmiscope::bundled::image(),
        initrd: None,
        cmdline: "workload=busy".into(),
        serial_output: Box::new(std::io::sink()),
        ports: Ports {
            debug_exit: abi::DEBUG_EXIT_PORT,
            post: abi::POST_PORT,
            nmi_done: abi::NMI_DONE_PORT,
        },
        pit: false,
        events: Box::new(move |event| {
            // The receiver is gone when the benchmark has seen enough.
            let _ = sender.send(event);
        }),
    })
    .expect("start a VM; does /dev/kvm work?");
    vm.start();
    let ready = events.recv_timeout(Duration::from_secs(30)).expect("the guest gets ready");
    assert!(matches!(ready, VmEvent::Post { code: abi::POST_READY, .. }), "{ready:?}");
    (vm, events)
}

/// The total run time of the handlers, divided by the cores that can run them.
fn handlers_over_cores(capture: &Capture) -> Duration {
    let run_time: Duration = capture
        .cpus
        .iter()
        .map(|cpu| match &cpu.nmi {
            NmiCapture::Run(run) => {
                assert!(run.finished(), "cpu{} did not answer", run.cpu);
                run.run_time
            }
            NmiCapture::NotSent(reason) => panic!("{reason}"),
        })
        .sum();
    let cores = available_parallelism().map_or(1, usize::from).min(capture.cpus.len());
    run_time / cores as u32
}

/// Time from a broadcast NMI to the last handler's end, with all vCPUs running.
fn run_free(vm: &Vm, events: &Receiver<VmEvent>) -> Duration {
    let started = Instant::now();
    vm.broadcast_nmi_msi().expect("KVM_SIGNAL_MSI");
    let mut done = 0;
    while done < vm.cpus() {
        let event = events.recv_timeout(Duration::from_secs(120)).expect("all handlers finish");
        done += u32::from(matches!(event, VmEvent::NmiDone { .. }));
    }
    started.elapsed()
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

fn capture(criterion: &mut Criterion) {
    let files = Files::open(None, Access::Read).expect("the bundled guest");
    let kernel = kernel::recognise(&files.parse().expect("the bundled guest"));
    println!("| vCPUs | capture | handlers / cores | ratio | run free | capture / run free |");
    println!("|---|---|---|---|---|---|");
    for cpus in [2, 8, 64] {
        let (mut vm, events) = spinning_vm(cpus);
        let one = |vm: &mut Vm| {
            let started = Instant::now();
            let request = CaptureRequest {
                trigger: Trigger::Timer,
                at: Duration::ZERO,
                found: None,
                history: None,
                nmis: true,
                // Host stacks are left out: only the stacks that the handlers print are measured.
                symbols: None,
                core: None,
                sampling: None,
            };
            let stopped = StoppedGuest::stop(vm, &*kernel, None, Timeouts::for_vcpus(cpus));
            let (capture, _) = stopped.capture(vm, request);
            let elapsed = started.elapsed();
            vm.resume();
            (elapsed, handlers_over_cores(&capture))
        };
        const SAMPLES: usize = 15;
        let (captures, handlers): (Vec<_>, Vec<_>) = (0..SAMPLES).map(|_| one(&mut vm)).unzip();
        let free = median((0..3).map(|_| run_free(&vm, &events)).collect());
        let (capture, handlers) = (median(captures), median(handlers));
        println!(
            "| {cpus} | {:.1} ms | {:.1} ms | {:.2} | {:.1} ms | {:.2} |",
            capture.as_secs_f64() * 1e3,
            handlers.as_secs_f64() * 1e3,
            capture.as_secs_f64() / handlers.as_secs_f64(),
            free.as_secs_f64() * 1e3,
            capture.as_secs_f64() / free.as_secs_f64(),
        );
        criterion.bench_function(&format!("capture of {cpus} spinning vCPUs"), |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| one(&mut vm).0).sum());
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3));
    targets = capture
}
criterion_main!(benches);
