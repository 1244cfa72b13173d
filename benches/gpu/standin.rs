//! Builds the stand-ins of `loaderd-gpu`'s tests for this crate's.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds `source` (`cuda` or `nvjpeg`) with these macros, for the test of this name alone.
pub(crate) fn build(source: &str, test: &str, defines: &[&str]) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let library = program.with_file_name(format!("lib{source}-gpucheck-{test}.so"));
    let fresh = library.with_extension(std::process::id().to_string());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let status = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-std=gnu11", "-O2", "-ffp-contract=off", "-shared", "-fPIC"])
        .args(["-pthread", "-o"])
        .arg(&fresh)
        .args(defines.iter().map(|define| format!("-D{define}")))
        .arg("-I")
        .arg(root.join("kernels/src/cuda"))
        .arg(root.join(format!("loaderd/gpu/tests/standin/{source}.c")))
        .arg("-lm")
        .status()
        .expect("a C compiler");
    assert!(status.success(), "{source}.c does not build");
    std::fs::rename(&fresh, &library).unwrap();
    library
}
