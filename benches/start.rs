//! Time from the start of a VMM's process to the guest's first instructions, beside QEMU microvm with the
//! same image: until a byte that they write to the first serial port is on the process's standard output.
//! The end of a VM is not measured; run.sh compares whole processes.
//!
//! `cargo bench --bench start -- IMAGE`, with an image made from first_instruction.S. Needs
//! `/dev/kvm` and qemu-system-x86_64.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SAMPLES: usize = 40;

/// Time from before the process exists to the guest's byte. The process is killed then.
fn first_byte(program: &str, arguments: &str) -> Duration {
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("start {program}: {error}"));
    let mut byte = [0];
    let read = child.stdout.take().expect("it is piped").read_exact(&mut byte);
    let elapsed = started.elapsed();
    // The process may have ended by itself.
    let _ = child.kill();
    child.wait().expect("it can be waited for");
    read.unwrap_or_else(|error| panic!("{program} {arguments}: no byte from the guest: {error}"));
    assert_eq!(byte, *b"1", "{program} {arguments} printed something else first");
    elapsed
}

fn median_ms(mut values: Vec<Duration>) -> f64 {
    values.sort();
    values[values.len() / 2].as_secs_f64() * 1e3
}

fn main() {
    let image = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let image = image.expect("the image is wanted: -- IMAGE");
    let ours = format!("run {image} --cpus 1 --no-json --quiet");
    let theirs = format!(
        "-M microvm -accel kvm -smp 1 -m 64 -nodefaults -no-user-config -display none -no-reboot \
         -serial stdio -kernel {image}"
    );
    // In turn, so that other load on the machine affects both.
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..SAMPLES)
        .map(|_| {
            let ours = first_byte(env!("CARGO_BIN_EXE_nmiscope"), &ours);
            (ours, first_byte("qemu-system-x86_64", &theirs))
        })
        .unzip();
    let (ours, theirs) = (median_ms(ours), median_ms(theirs));
    println!("| vCPUs | nmiscope | QEMU microvm | nmiscope / QEMU |");
    println!("|---|---|---|---|");
    println!("| 1 | {ours:.1} ms | {theirs:.1} ms | {:.2} |", ours / theirs);
}
