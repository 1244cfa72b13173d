//! The GPU half of `loaderd doctor`, on stand-ins for NVIDIA's libraries: what it says, and
//! that sessions can do without all of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

// One builder for both crates.
#[path = "../../gpu/tests/standin/mod.rs"]
mod standin;

/// Variables that lead to a machine's own libraries and daemons.
const FOREIGN: [&str; 7] = [
    "LOADERD_LIBCUDA",
    "LOADERD_NVJPEG",
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_HOME",
    "CUDA_PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
];

/// Names of the GPU's checks.
const NAMES: [&str; 7] = [
    "gpu_driver",
    "gpu_devices",
    "nvjpeg",
    "gpu_pinned",
    "gpu_export",
    "mps",
    "gpu_decode",
];

/// Name, verdict, what was found, and the mend, of each of the GPU's checks.
fn doctor(variables: &[(&str, &Path)]) -> Vec<(String, String, String, String)> {
    doctor_with(&[], variables)
}

fn doctor_with(
    arguments: &[&str],
    variables: &[(&str, &Path)],
) -> Vec<(String, String, String, String)> {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_loaderd"));
    command
        .args(["doctor", "--json"])
        .args(arguments)
        .env("LOADERD_STATE", home.path().join("state"))
        .env("LOADERD_CACHE", home.path().join("cache"))
        .env("LOADERD_SOCKET", home.path().join("socket"))
        .current_dir(home.path());
    for name in FOREIGN {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed = report["verdict"] == "failed";
    assert_eq!(output.status.success(), !failed, "{report}");
    let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .map(|check| {
            let [name, verdict, found, mend] =
                ["name", "verdict", "found", "mend"].map(|field| text(check, field));
            (name, verdict, found, mend)
        })
        .filter(|check| NAMES.contains(&check.0.as_str()))
        .inspect(|check| assert_ne!(check.1, "failed", "{check:?}"))
        .collect()
}

/// A driver and an nvJPEG under these macros.
fn on(test: &str, cuda: &[&str], nvjpeg: &[&str]) -> Vec<(String, String, String, String)> {
    let [cuda, nvjpeg] = build(test, cuda, nvjpeg);
    doctor(&[("LOADERD_LIBCUDA", &cuda), ("LOADERD_NVJPEG", &nvjpeg)])
}

fn build(test: &str, cuda: &[&str], nvjpeg: &[&str]) -> [PathBuf; 2] {
    let test = format!("doctor-{test}");
    [
        standin::build("cuda", &test, cuda),
        standin::build("nvjpeg", &test, nvjpeg),
    ]
}

#[test]
fn a_whole_gpu_is_described() {
    let [cuda, nvjpeg] = build("whole", &["DEVICES=2"], &[]);
    let found = doctor(&[("LOADERD_LIBCUDA", &cuda), ("LOADERD_NVJPEG", &nvjpeg)]);
    let names: Vec<&str> = found.iter().map(|check| check.0.as_str()).collect();
    assert_eq!(names, NAMES);
    for (place, expected) in [
        format!("CUDA 13.0 by {}", cuda.display()),
        "0 Stand-in 0 (capability 9.0, 1.00 GiB, 132 multiprocessors, 3 copy engines); 1 Stand-in 1 \
         (capability 9.0, 2.00 GiB, 132 multiprocessors, 3 copy engines)"
            .into(),
        format!(
            "13.1.2 for CUDA 13.0: 7 JPEG engines, and CUDA cores, by {}",
            nvjpeg.display()
        ),
        "shared memory can be pinned for the GPU".into(),
        "device memory can be shared by descriptor, in pieces of 2.00 MiB".into(),
        "not used".into(),
        format!(
            "decoding with nvJPEG 13.1.2 on JPEG engines and CUDA cores of Stand-in 0 (driver for CUDA 13.0): GPU 0, \
             7 engines, kernels for sm_90, 1024.00 MiB of its memory, pictures of up to 170.67 MiB; nvJPEG is {}",
            nvjpeg.display()
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let (name, verdict, found, mend) = &found[place];
        assert_eq!((found, verdict.as_str(), mend.as_str()), (&expected, "ok", ""), "{name}");
    }
}

#[test]
fn what_a_gpu_lacks_is_missing_with_its_mend() {
    let found = on("lacking", &["REGISTER=801", "EXPORT=801"], &["CREATE=6"]);
    for (place, words, way_out) in [
        (2, "NVJPEG_STATUS_EXECUTION_FAILED (6)", "LOADERD_NVJPEG"),
        (
            3,
            "cuMemHostRegister: CUDA_ERROR_NOT_SUPPORTED (801)",
            "does not offer",
        ),
        (
            4,
            "cuMemExportToShareableHandle: CUDA_ERROR_NOT_SUPPORTED",
            "does not offer",
        ),
    ] {
        let (name, verdict, found, mend) = &found[place];
        assert_eq!(verdict, "missing", "{name}");
        assert!(found.contains(words), "{found}");
        assert!(mend.contains(way_out), "{mend}");
    }
    let (_, verdict, words, _) = &found[6];
    assert_eq!(verdict, "missing");
    assert!(
        words.ends_with(": images are decoded on CPU cores"),
        "{words}"
    );
    let engines = on("no-engines", &[], &["HARDWARE=7"]);
    let (_, verdict, found, _) = &engines[2];
    assert_eq!(
        verdict, "ok",
        "a GPU without engines has nothing to mend: {found}"
    );
    assert!(found.contains("CUDA cores, but no JPEG engines"), "{found}");
    let newer = on("newer", &["VERSION=12040"], &[]);
    let (_, verdict, found, mend) = &newer[2];
    assert_eq!(verdict, "missing");
    assert!(
        found.ends_with("built for CUDA 13.0, and the driver offers 12.4"),
        "{found}"
    );
    assert!(mend.contains("nvidia-nvjpeg-cu12"), "{mend}");
}

#[test]
fn a_driver_that_can_not_be_used_leaves_one_line() {
    for (test, defines, words, way_out) in [
        (
            "old",
            &["VERSION=11040"],
            "offers CUDA 11.4, and 12.0 is the least",
            "driver 525",
        ),
        (
            "none",
            &["INIT=100"],
            "cuInit: CUDA_ERROR_NO_DEVICE (100)",
            "CUDA_VISIBLE_DEVICES",
        ),
        (
            "mixed",
            &["INIT=803"],
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "restart the machine",
        ),
    ] {
        let found = on(test, defines, &[]);
        let [(name, verdict, found, mend)] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!((name.as_str(), verdict.as_str()), ("gpu_driver", "missing"));
        assert!(found.contains(words), "{found}");
        assert!(
            found.ends_with(": images are decoded on CPU cores"),
            "{found}"
        );
        assert!(mend.contains(way_out), "{mend}");
    }
    let taken = on("taken", &["RETAIN=46"], &[]);
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert!(taken[1].2.starts_with("0 Stand-in 0 ("), "{taken:?}");
    assert!(
        taken[1]
            .2
            .contains("cuDevicePrimaryCtxRetain: CUDA_ERROR_DEVICE_UNAVAILABLE")
    );
    assert!(taken[1].3.contains("nvidia-smi -c DEFAULT"), "{taken:?}");
}

#[test]
fn a_driver_that_does_not_answer_leaves_the_rest_of_the_report() {
    let [cuda, _] = build("wedged", &["WEDGED"], &[]);
    let found = doctor_with(&["--gpu-wait=1"], &[("LOADERD_LIBCUDA", &cuda)]);
    let [(name, verdict, found, mend)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((name.as_str(), verdict.as_str()), ("gpu_driver", "missing"));
    assert_eq!(
        found,
        "the driver does not answer (1 s): images are decoded on CPU cores"
    );
    assert!(mend.contains("nvidia-smi"), "{mend}");
}

#[test]
fn an_mps_folder_without_a_daemon_is_told() {
    let [cuda, nvjpeg] = build("mps", &[], &[]);
    let found = doctor(&[
        ("LOADERD_LIBCUDA", &cuda),
        ("LOADERD_NVJPEG", &nvjpeg),
        ("CUDA_MPS_PIPE_DIRECTORY", Path::new("/nowhere/mps")),
    ]);
    let (_, verdict, found, mend) = &found[5];
    assert_eq!(verdict, "missing");
    assert_eq!(
        found,
        "CUDA_MPS_PIPE_DIRECTORY is /nowhere/mps, without a daemon"
    );
    assert!(mend.contains("unset CUDA_MPS_PIPE_DIRECTORY"), "{mend}");
}

#[test]
fn a_machine_without_a_gpu_has_nothing_to_mend() {
    let found = doctor(&[]);
    if found.len() > 1 || found[0].1 != "ok" {
        eprintln!("skipped: there is a GPU, or a driver: {found:?}");
        return;
    }
    let (_, _, words, mend) = &found[0];
    assert_eq!(words, "no GPU here: images are decoded on CPU cores");
    assert_eq!(mend, "");
}
