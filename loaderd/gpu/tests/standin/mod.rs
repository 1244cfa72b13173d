//! Stand-ins for NVIDIA's libraries, built by the tests with the C compiler that builds
//! libjpeg-turbo as well. They drive what goes wrong, and work pictures off in the order of a GPU's
//! queues, byte for byte as the CPU does; nothing is measured with them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds `source` (`cuda` or `nvjpeg`) with these macros, for the test of this name alone:
/// the loader takes the same file for the same library, whose counters tests must not share.
///
/// The file stays, so that no other is ever given its place while it is loaded.
pub(crate) fn build(source: &str, test: &str, defines: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("lib{source}-{test}.so"));
    let fresh = folder.join(format!("lib{source}-{test}.{}", std::process::id()));
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = crates
        .join("../gpu/tests/standin")
        .join(format!("{source}.c"));
    let driver = folder.join(format!("libcuda-{test}.so"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler)
        .args(["-std=gnu11", "-O1", "-ffp-contract=off"])
        .args(["-Wall", "-Werror", "-shared", "-fPIC", "-pthread", "-o"])
        .arg(&fresh)
        .args(defines.iter().map(|define| format!("-D{define}")))
        .arg(format!("-DLIBCUDA=\"{}\"", driver.display()))
        .arg("-I")
        .arg(crates.join("../../kernels/src/cuda"))
        .arg(&code)
        .args(["-lm", "-ldl"])
        .status()
        .unwrap_or_else(|error| panic!("{}: {error}", compiler.to_string_lossy()));
    assert!(status.success(), "{} does not build", code.display());
    std::fs::rename(&fresh, &library).unwrap();
    library
}
