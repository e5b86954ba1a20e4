//! Time to parse the bundled guest's image and look up the addresses of a first backtrace, which is when
//! most of the image is read.

use criterion::{Criterion, criterion_group, criterion_main};
use nmiscope::images::{Access, Files};
use nmiscope::kernel;
use nmiscope_symbolizer::{Image, ProgramCounter};

fn symbolize(criterion: &mut Criterion) {
    let image = nmiscope::bundled::image();
    let files = Files::open(None, Access::Read).expect("the bundled guest");
    let names = ["cpu_main", "trap_entry", "ap_main", "boot_cpu_main", "kernel_main"];
    let addresses: Vec<ProgramCounter> = {
        let parsed = Image::parse(image).expect("the bundled guest");
        let symbols = names.iter().filter_map(|name| parsed.symbol(name));
        symbols.map(|symbol| ProgramCounter::Interrupted(symbol.address)).collect()
    };
    assert!(!addresses.is_empty());
    criterion.bench_function("parse the image", |bencher| {
        bencher.iter(|| files.parse().expect("the bundled guest"));
    });
    criterion.bench_function("find the kernel's structures", |bencher| {
        bencher.iter(|| kernel::recognise(&files.parse().expect("the bundled guest")));
    });
    criterion.bench_function("first backtrace: parse, then look addresses up", |bencher| {
        bencher.iter(|| {
            let parsed = files.parse().expect("the bundled guest");
            addresses.iter().map(|&address| parsed.frames(address).frames.len()).sum::<usize>()
        });
    });
}

criterion_group!(benches, symbolize);
criterion_main!(benches);
