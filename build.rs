//! Builds the bundled guest kernel for bare metal, and passes its path to `src/bundled.rs`, which embeds it.
//! Builds nothing without the feature `kvm`.
//!
//! The kernel is an ordinary package of this workspace, built by a second cargo with its own flags into its
//! own directory. It has no dependencies, so the build needs no network, and is repeated only when
//! something under `guest/` has changed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Target features of the kernel: no vector registers, which it would have to save. `soft-float` makes
/// libcore do without them too.
const FEATURES: &str = "-sse,-sse2,-sse3,-ssse3,-sse4.1,-sse4.2,-avx,-mmx,-x87,+soft-float";

/// Path of the repository in the kernel's debug information, so that the image does not depend on the
/// directory that it is built in.
const SOURCE_ROOT: &str = "/nmiscope";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=NMISCOPE_GUEST_SOURCE_ROOT={SOURCE_ROOT}");
    if env::var_os("CARGO_FEATURE_KVM").is_none() {
        return;
    }
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let output = PathBuf::from(variable("OUT_DIR"));
    for input in
        ["guest/src", "guest/kernel.ld", "guest/build.rs", "guest/Cargo.toml", "Cargo.toml"]
    {
        println!("cargo::rerun-if-changed={input}");
    }

    let image = build_kernel(&root, &output.join("guest"));
    println!("cargo::rustc-env=NMISCOPE_GUEST_IMAGE={}", image.display());
}

fn build_kernel(root: &Path, target_directory: &Path) -> PathBuf {
    let flags = [
        format!("-Ctarget-feature={FEATURES}"),
        "-Crelocation-model=static".into(),
        "-Ccode-model=kernel".into(),
        "-Cno-redzone=yes".into(),
        "-Cforce-frame-pointers=yes".into(),
        "-Cforce-unwind-tables=yes".into(),
        format!("-Clink-arg=-T{}", root.join("guest/kernel.ld").display()),
        "-Clink-args=-nostartfiles -nostdlib -static -no-pie -Wl,--build-id".into(),
        "-Clink-args=-Wl,-z,noexecstack -Wl,-z,norelro -Wl,-z,max-page-size=4096".into(),
        format!("--remap-path-prefix={}={SOURCE_ROOT}", root.display()),
        format!("--remap-path-prefix={}/lib/rustlib/src/rust=/rust", sysroot().display()),
    ];
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(root)
        .args(["build", "--package=nmiscope-guest", "--bin=nmiscope-kernel", "--features=kernel"])
        .args(["--profile=kernel", "--locked", "--offline", "--target", TARGET, "--target-dir"])
        .arg(target_directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // The outer cargo's settings for the host, such as coverage or a wrapper, do not apply to a kernel.
    for variable in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"]
    {
        cargo.env_remove(variable);
    }
    let result = cargo.output().expect("failed to start cargo for the guest kernel");
    assert!(
        result.status.success(),
        "failed to build the guest kernel:\n{}",
        String::from_utf8_lossy(&result.stderr)
    );
    target_directory.join(TARGET).join("kernel").join("nmiscope-kernel")
}

fn sysroot() -> PathBuf {
    let output = Command::new(variable("RUSTC"))
        .args(["--print", "sysroot"])
        .output()
        .expect("failed to ask rustc for its sysroot");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
