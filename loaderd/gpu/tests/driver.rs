//! The CUDA driver: what is said where it is missing, old or broken, and what is asked of it
//! where it is there. A stand-in drives the errors; a real driver is asked where there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use loaderd_gpu::cuda::{self, ComputeMode, Context, Driver, Stream};
use loaderd_gpu::{GpuError, Places, Version};

mod standin;

fn places(library: &Path) -> Places {
    Places {
        libcuda: Some(library.into()),
        ..Places::default()
    }
}

fn build(test: &str, defines: &[&str]) -> PathBuf {
    standin::build("cuda", test, defines)
}

fn open(test: &str, defines: &[&str]) -> Result<Arc<Driver>, GpuError> {
    Driver::open(&places(&build(test, defines)))
}

/// What is said, with the library's path left out, and the mend.
fn words(library: &Path, error: &GpuError) -> (String, &'static str) {
    let text = error.to_string();
    let name = library.to_str().unwrap();
    assert!(text.contains(name), "{text} does not name {name}");
    (text.replace(name, "LIBCUDA"), error.mend())
}

#[test]
fn a_missing_driver_is_said_in_words() {
    let absent = Path::new("/nowhere/libcuda.so.1");
    let error = Driver::open(&places(absent)).unwrap_err();
    let (text, mend) = words(absent, &error);
    assert_eq!(
        text,
        "LIBCUDA can't be opened: cannot open shared object file: No such file or directory"
    );
    assert!(
        mend.contains("install NVIDIA's driver, 525 or later"),
        "{mend}"
    );
    assert!(mend.contains("--gpus all"), "{mend}");
}

#[test]
fn something_else_under_its_name_is_refused() {
    let text = std::env::current_exe().unwrap().with_extension("d");
    std::fs::write(&text, "no library").unwrap();
    let error = Driver::open(&places(&text)).unwrap_err();
    assert!(
        words(&text, &error)
            .0
            .starts_with("LIBCUDA can't be opened: ")
    );
    // A library, but not the driver's.
    let error = Driver::open(&places(Path::new("libc.so.6"))).unwrap_err();
    assert_eq!(error.to_string(), "libc.so.6 lacks cuDriverGetVersion");
    assert!(error.mend().contains("unset LOADERD_LIBCUDA"));
}

#[test]
fn an_old_driver_is_refused_by_its_version() {
    let library = build("old", &["VERSION=11040", "LACKS_EXPORT"]);
    let error = Driver::open(&places(&library)).unwrap_err();
    let (text, mend) = words(&library, &error);
    assert_eq!(text, "LIBCUDA offers CUDA 11.4, and 12.0 is the least");
    assert_eq!(
        mend,
        "install NVIDIA's driver 525 or later (580 or later for CUDA 13)"
    );
    let library = build("no-version", &["VERSION=-1"]);
    let error = Driver::open(&places(&library)).unwrap_err();
    let (text, _) = words(&library, &error);
    assert_eq!(
        text,
        "cuDriverGetVersion: it does not say its version (0), by LIBCUDA"
    );
}

#[test]
fn a_function_that_is_missing_is_named() {
    let library = build("lacks", &["LACKS_EXPORT"]);
    let error = Driver::open(&places(&library)).unwrap_err();
    assert_eq!(
        words(&library, &error).0,
        "LIBCUDA lacks cuMemExportToShareableHandle"
    );
}

#[test]
fn what_the_driver_refuses_is_named_with_its_mend() {
    for (code, name, mend) in [
        (100, "CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"),
        (
            803,
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "different versions",
        ),
        (
            805,
            "CUDA_ERROR_MPS_CONNECTION_FAILED",
            "nvidia-cuda-mps-control -d",
        ),
        (12345, "an error that the driver has no name for", "dmesg"),
    ] {
        let library = build(&format!("init-{code}"), &[&format!("INIT={code}")]);
        let error = Driver::open(&places(&library)).unwrap_err();
        let (text, found) = words(&library, &error);
        assert_eq!(text, format!("cuInit: {name} ({code}), by LIBCUDA"));
        assert!(found.contains(mend), "{found}");
    }
    let error = open("nameless", &["INIT=100", "NAMELESS"]).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cuInit: an error that the driver has no name for (100)"));
}

#[test]
fn devices_are_described() {
    let driver = open("devices", &["DEVICES=2", "MODE=3", "VERSION=12080"]).unwrap();
    assert_eq!(
        driver.version(),
        Version {
            major: 12,
            minor: 8
        }
    );
    let devices = driver.devices().unwrap();
    assert_eq!(devices.len(), 2);
    let second = &devices[1];
    assert_eq!((second.ordinal, second.name.as_str()), (1, "Stand-in 1"));
    assert_eq!(second.capability, (9, 0));
    assert_eq!(second.memory_bytes, 2 << 30);
    assert_eq!((second.multiprocessors, second.copy_engines), (132, 3));
    assert_eq!(second.mode, ComputeMode::ExclusiveProcess);
    assert!(second.registers_host_memory && second.exports_descriptors);
    assert!(!second.is_part());
    let part = cuda::Device {
        name: "NVIDIA H100 80GB HBM3 MIG 1g.10gb".into(),
        ..second.clone()
    };
    assert!(part.is_part());
    assert_eq!(open("none", &["DEVICES=0"]).unwrap().devices(), Ok(vec![]));
    let refusing = open("refusing", &["REGISTER=801", "EXPORT=801"]).unwrap();
    let device = &refusing.devices().unwrap()[0];
    assert!(!device.registers_host_memory && !device.exports_descriptors);
}

/// On a stand-in or a real device.
fn memory_holds_what_is_put_there(context: &Context, stream: &Stream) {
    let mut memory = context.allocate(1000).unwrap();
    assert_eq!((memory.address() % 256, memory.bytes()), (0, 1000));
    for value in [0xab, 0x17] {
        // SAFETY: the stream is waited for before anything else.
        unsafe { memory.fill(value, stream) }.unwrap();
        stream.synchronize().unwrap();
        let mut out = [0; 100];
        memory.read(900, &mut out, stream).unwrap();
        assert_eq!(out, [value; 100]);
    }
    let text = context.allocate(0).err().unwrap().to_string();
    assert!(text.starts_with("cuMemAlloc: CUDA_ERROR_INVALID_VALUE (1)"));
}

#[test]
fn trials_leave_nothing_behind() {
    // The stand-in ends the process where anything is left when a context goes.
    let driver = open("trials", &[]).unwrap();
    let context = driver.context(0).unwrap();
    let shared = context.clone();
    context.try_registration(1 << 20).unwrap();
    assert_eq!(context.try_export(), Ok(2 << 20));
    let stream = context.stream().unwrap();
    memory_holds_what_is_put_there(&context, &stream);
    drop(context);
    std::thread::spawn(move || {
        shared.try_registration(4096).unwrap();
    })
    .join()
    .unwrap();
    drop(stream);
    assert!(driver.context(0).is_ok());
    let text = driver.context(1).err().unwrap().to_string();
    assert!(text.starts_with("cuDeviceGet: an error that the driver has no name for (101)"));
}

#[test]
fn failed_trials_are_said_and_undone() {
    let driver = open("refused", &["REGISTER=801", "EXPORT=801"]).unwrap();
    let context = driver.context(0).unwrap();
    let register = context.try_registration(1 << 20).unwrap_err();
    assert!(
        register
            .to_string()
            .starts_with("cuMemHostRegister: CUDA_ERROR_NOT_SUPPORTED (801)"),
        "{register}"
    );
    let export = context.try_export().unwrap_err();
    assert!(
        export
            .to_string()
            .starts_with("cuMemExportToShareableHandle: CUDA_ERROR_NOT_SUPPORTED"),
        "{export}"
    );
    let full = open("full", &["REGISTER=2"]).unwrap().context(0).unwrap();
    let error = full.try_registration(4096).unwrap_err();
    assert!(error.mend().contains("pin memory"), "{}", error.mend());
    let taken = open("taken", &["RETAIN=46"])
        .unwrap()
        .context(0)
        .err()
        .unwrap();
    assert!(
        taken.mend().contains("nvidia-smi -c DEFAULT"),
        "{}",
        taken.mend()
    );
}

#[test]
fn a_real_gpu_passes_the_trials() {
    if !cuda::is_plugged_in(Path::new("/")) {
        eprintln!("skipped: no GPU here");
        return;
    }
    let driver = match Driver::open(&Places::of_process()) {
        Ok(driver) => driver,
        Err(error) => {
            eprintln!("skipped: {error}; mend: {}", error.mend());
            return;
        }
    };
    for device in driver.devices().unwrap() {
        eprintln!("{device:?}");
        let context = driver.context(device.ordinal).unwrap();
        if device.registers_host_memory {
            context.try_registration(1 << 20).unwrap();
        }
        if device.exports_descriptors {
            assert!(context.try_export().unwrap() > 0);
        }
        memory_holds_what_is_put_there(&context, &context.stream().unwrap());
    }
}
