//! Time to plan a suite of 10,000 VMs, each written out: reading it, and filtering, partitioning and
//! ordering it.

use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use nmiscope_farm::plan::{Plan, PlanOptions};
use nmiscope_farm::suite::Suite;

const VMS: usize = 10_000;

fn text() -> String {
    let vm = |vm| {
        format!(
            "[[vm]]\nname = \"group{}/vm-{vm}\"\nimage = \"kernel.elf\"\ncpus = {}\nmemory = \"64M\"\n\
             append = \"test={vm}\"\ntags = [\"smoke\", \"group{}\"]\nexpect = {{ exit = 3 }}\n\
             console = {{ must = [\"test {vm} (done|skipped)\"], must-not = [\"WARNING|BUG: \"] }}\n\n",
            vm % 10,
            vm % 4 + 1,
            vm % 10,
        )
    };
    (0..VMS).map(vm).collect()
}

fn plan(criterion: &mut Criterion) {
    let text = text();
    let load = || {
        let suite = Suite::parse(text.clone(), Path::new("suite.toml"), Path::new("/"));
        suite.unwrap_or_else(|error| panic!("{error}"))
    };
    criterion.bench_function("load 10,000 VMs", |bencher| bencher.iter(load));
    let suite = load();
    let options = PlanOptions {
        filter: "tag(smoke) and not name(^group[57]/)".parse().expect("a filter"),
        partition: Some("hash:1/2".parse().expect("a partition")),
        seed: Some(1),
        ..PlanOptions::default()
    };
    criterion.bench_function("plan 10,000 VMs", |bencher| {
        bencher.iter(|| Plan::new(&suite.vms, &options).expect("a plan"));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = plan
}
criterion_main!(benches);
