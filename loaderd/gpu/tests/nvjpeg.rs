//! nvJPEG: which library is taken, what is said of those that are not, and what its owners do
//! when it fails. Stand-ins drive the errors; the real library is opened where there is one.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use loaderd_decode::encode::{self, Encoder};
use loaderd_decode::{Decoder, Limits, Options};
use loaderd_gpu::cuda::{self, Context, DeviceMemory, Driver, Stream};
use loaderd_gpu::nvjpeg::{
    Backend, BatchDecoder, Destination, Engines, Handle, HybridDecoder, JpegStream, Nvjpeg, Params,
    Scale, Subsampling,
};
use loaderd_gpu::{GpuError, Places, Version};

mod standin;

/// What the stand-in writes to an image's first three bytes.
const WRITTEN: [u8; 3] = [0x5a; 3];
const POISON: [u8; 3] = [0xab; 3];
const JPEG: &[u8] = &[0xff, 0xd8, 0xff, 0xd9];
const CUDA_13: Version = Version {
    major: 13,
    minor: 0,
};

fn given(library: impl Into<OsString>) -> Places {
    Places {
        nvjpeg: Some(library.into()),
        ..Places::default()
    }
}

fn context(test: &str) -> Context {
    let places = Places {
        libcuda: Some(standin::build("cuda", test, &[]).into()),
        ..Places::default()
    };
    Driver::open(&places).unwrap().context(0).unwrap()
}

/// A handle on stand-ins of both libraries, whose counters are this test's alone.
fn handle(test: &str, backend: Backend, defines: &[&str]) -> Result<Arc<Handle>, GpuError> {
    let library = standin::build("nvjpeg", test, defines);
    let library = Nvjpeg::open(&given(library), Some(CUDA_13))?;
    Handle::new(&library, backend, &context(test))
}

/// Memory full of poison for `images` images of `bytes` bytes, and where each of them goes.
fn poisoned(handle: &Handle, images: usize, bytes: usize, pitch_bytes: usize) -> Poisoned {
    let stream = handle.context().stream().unwrap();
    let mut memory = handle.context().allocate(images * bytes).unwrap();
    // SAFETY: the stream is waited for before anything else.
    unsafe { memory.fill(POISON[0], &stream) }.unwrap();
    // The engines don't wait for it.
    stream.synchronize().unwrap();
    let destinations = (0..images)
        .map(|image| Destination {
            address: memory.address() + (image * bytes) as u64,
            pitch_bytes,
        })
        .collect();
    Poisoned {
        stream,
        memory,
        destinations,
        bytes,
    }
}

struct Poisoned {
    stream: Stream,
    memory: DeviceMemory,
    destinations: Vec<Destination>,
    bytes: usize,
}

impl Poisoned {
    /// What was written, image by image: of each, the first bytes.
    fn images(&self, first: usize) -> Vec<Vec<u8>> {
        self.stream.synchronize().unwrap();
        (0..self.destinations.len())
            .map(|image| {
                let mut out = vec![0; first];
                let from = image * self.bytes;
                self.memory.read(from, &mut out, &self.stream).unwrap();
                out
            })
            .collect()
    }
}

/// Decodes a batch on stand-ins; the answer has three bytes of each image.
fn decode(
    decoder: &mut BatchDecoder,
    handle: &Handle,
    images: usize,
    params: &[&Params],
) -> Result<Vec<Vec<u8>>, GpuError> {
    let out = poisoned(handle, images, 512, 512);
    // SAFETY: the stand-in is done when it returns, and writes three bytes an image.
    unsafe { decoder.decode(&vec![JPEG; images], &out.destinations, params, &out.stream) }?;
    Ok(out.images(3))
}

#[test]
fn without_a_library_it_is_said_what_was_tried() {
    let error = Nvjpeg::open(&Places::default(), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no nvJPEG: no toolkit, no Python environment that has it"
    );
    assert!(error.mend().contains("pip install nvidia-nvjpeg"));
    let error = Nvjpeg::open(&given("/nowhere/libnvjpeg.so"), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no nvJPEG: /nowhere/libnvjpeg.so: cannot open shared object file: No such file or directory"
    );
    assert!(error.mend().contains("LOADERD_NVJPEG"));
    let error = Nvjpeg::open(&given("libc.so.6"), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no nvJPEG: libc.so.6: it lacks nvjpegGetProperty"
    );
}

#[test]
fn libraries_that_do_not_fit_are_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let wheel = root.path().join("lib/python3.12/site-packages/nvidia");
    let newer = wheel.join("cu13/lib/libnvjpeg.so.13");
    let fits = wheel.join("nvjpeg/lib/libnvjpeg.so.12");
    for (path, test, defines) in [
        (&newer, "newer", &["MAJOR=13", "BUILT_FOR=13"]),
        (&fits, "fits", &["MAJOR=12", "BUILT_FOR=12"]),
    ] {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(standin::build("nvjpeg", test, defines), path).unwrap();
    }
    let places = Places {
        environments: vec![root.path().into()],
        ..Places::default()
    };
    let open = |driver| Nvjpeg::open(&places, driver);
    let twelve = Version {
        major: 12,
        minor: 4,
    };
    let found = open(Some(twelve)).unwrap();
    assert_eq!(found.path(), fits.to_str().unwrap());
    assert_eq!(found.version(), [12, 1, 2]);
    assert_eq!(found.built_for().to_string(), "12.0");
    for driver in [None, Some(CUDA_13)] {
        assert_eq!(open(driver).unwrap().path(), newer.to_str().unwrap());
    }
    // The highest version wins, wherever it lies; of equal ones the first.
    let toolkit = root.path().join("cuda/lib64/libnvjpeg.so.12");
    std::fs::create_dir_all(toolkit.parent().unwrap()).unwrap();
    let same = standin::build("nvjpeg", "toolkit-12", &["MAJOR=12", "BUILT_FOR=12"]);
    std::os::unix::fs::symlink(same, &toolkit).unwrap();
    let with_toolkit = Places {
        toolkits: vec![root.path().join("cuda")],
        ..places.clone()
    };
    let open_all = |driver| Nvjpeg::open(&with_toolkit, Some(driver)).unwrap();
    assert_eq!(open_all(CUDA_13).path(), newer.to_str().unwrap());
    assert_eq!(open_all(twelve).path(), toolkit.to_str().unwrap());
    // What was named is taken, be it older.
    let named = Places {
        nvjpeg: Some(fits.clone().into()),
        ..with_toolkit.clone()
    };
    let named = Nvjpeg::open(&named, Some(CUDA_13)).unwrap();
    assert_eq!(named.path(), fits.to_str().unwrap());

    std::fs::remove_file(&fits).unwrap();
    let text = open(Some(twelve)).unwrap_err().to_string();
    let expected = format!(
        "no nvJPEG: {}: built for CUDA 13.0, and the driver offers 12.4",
        newer.display()
    );
    assert_eq!(text, expected);
}

#[test]
fn a_function_that_is_missing_is_named() {
    let library = standin::build("nvjpeg", "lacks", &["LACKS_BATCHES"]);
    let text = Nvjpeg::open(&given(library), None).unwrap_err().to_string();
    assert!(text.ends_with("it lacks nvjpegDecodeBatchedEx"), "{text}");
}

#[test]
fn a_backend_that_is_not_there_is_an_error_in_words() {
    let hardware = handle("no-engines", Backend::Hardware, &["HARDWARE=7"]);
    let error = hardware.err().unwrap();
    let text = error.to_string();
    assert!(
        text.starts_with("nvjpegCreateEx: NVJPEG_STATUS_ARCH_MISMATCH (7), by "),
        "{text}"
    );
    assert!(error.mend().contains("no such decoder"), "{}", error.mend());
    let cuda = handle("no-engines-cuda", Backend::GpuHybrid, &["HARDWARE=7"]).unwrap();
    assert_eq!(cuda.backend(), Backend::GpuHybrid);
    let failing = handle("broken", Backend::GpuHybrid, &["CREATE=6"]);
    let error = failing.err().unwrap();
    assert!(error.to_string().contains("NVJPEG_STATUS_EXECUTION_FAILED"));
    assert!(error.mend().contains("older than the library"));
    let strange = handle("strange", Backend::GpuHybrid, &["CREATE=99"]);
    let text = strange.err().unwrap().to_string();
    assert!(text.contains("a status that nvjpeg.h"), "{text}");
}

#[test]
fn batches_are_decoded_with_what_was_made_for_them() {
    let context = context("batches");
    let library = standin::build("nvjpeg", "batches", &[]);
    let library = Nvjpeg::open(&given(library), Some(CUDA_13)).unwrap();
    let handle = Handle::new(&library, Backend::Hardware, &context).unwrap();
    let engines = Engines {
        count: 7,
        cores_each: 1,
    };
    assert_eq!(handle.engines(), Ok(engines));
    let mut decoder = BatchDecoder::new(&handle).unwrap();
    decoder
        .pre_allocate(4, 512, 512, Subsampling::S420)
        .unwrap();
    let params = Params::new(&handle, Scale::Half).unwrap();
    for images in [4, 4, 3, 7] {
        let plain = decode(&mut decoder, &handle, images, &[]).unwrap();
        assert_eq!(plain, vec![WRITTEN; images]);
        let scaled = decode(&mut decoder, &handle, images, &vec![&params; images]).unwrap();
        assert_eq!(scaled, vec![WRITTEN; images]);
    }
    // Whatever the order: what was made holds its handle, and the stand-in counts.
    drop(handle);
    drop(context);
    drop(decoder);
    drop(params);
}

#[test]
fn a_failed_batch_is_begun_anew() {
    let test = "failing-batch";
    let handle = handle(test, Backend::Hardware, &["DECODE=8"]).unwrap();
    let mut decoder = BatchDecoder::new(&handle).unwrap();
    let error = decode(&mut decoder, &handle, 3, &[]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("nvjpegDecodeBatched: NVJPEG_STATUS_INTERNAL_ERROR (8), by "),
        "{text}"
    );
    let again = decode(&mut decoder, &handle, 3, &[]).unwrap();
    assert_eq!(again, [WRITTEN; 3]);
    let error = decoder
        .pre_allocate(0, 1, 1, Subsampling::Grey)
        .unwrap_err();
    assert!(error.to_string().contains("INVALID_PARAMETER"), "{error}");
    decode(&mut decoder, &handle, 3, &[]).unwrap();
}

#[test]
fn a_skipped_image_is_reported_as_a_success() {
    let handle = handle("skipping", Backend::Hardware, &["SKIPS"]).unwrap();
    let mut decoder = BatchDecoder::new(&handle).unwrap();
    let written = decode(&mut decoder, &handle, 3, &[]).unwrap();
    // Why whoever decodes poisons destinations and looks at them.
    assert_eq!(written, [WRITTEN, POISON, WRITTEN]);
}

#[test]
fn headers_are_asked_for_what_they_hold() {
    let handle = handle("headers", Backend::Hardware, &[]).unwrap();
    let mut stream = JpegStream::new(&handle).unwrap();
    let error = stream.parse_header(b"no").err().unwrap();
    assert!(error.to_string().contains("NVJPEG_STATUS_BAD_JPEG (3)"));
    assert!(error.mend().contains("on the CPU"), "{}", error.mend());
    let parsed = stream.parse_header(JPEG).unwrap();
    let frame = parsed.frame().unwrap();
    assert_eq!((frame.marker, frame.width, frame.height), (0xc0, 120, 90));
    assert_eq!(frame.subsampling, Some(Subsampling::S420));
    let params = Params::new(&handle, Scale::Full).unwrap();
    assert_eq!(parsed.is_supported(None), Ok(true));
    assert_eq!(parsed.is_supported(Some(&params)), Ok(true));
}

#[test]
fn support_is_the_librarys_to_grant() {
    let handle = handle("unsupported", Backend::GpuHybrid, &["UNSUPPORTED"]).unwrap();
    let mut stream = JpegStream::new(&handle).unwrap();
    let decoder = HybridDecoder::new(&handle).unwrap();
    let parsed = stream.parse(JPEG).unwrap();
    assert_eq!(parsed.is_supported(None), Ok(false));
    assert_eq!(decoder.is_supported(&parsed), Ok(false));
}

#[test]
fn a_decoder_that_is_not_finished_leaves_in_order() {
    // The stand-in ends the process where a buffer goes before the state that has it.
    let handle = handle("attach", Backend::GpuHybrid, &["ATTACH=5"]).unwrap();
    let error = HybridDecoder::new(&handle).err().unwrap().to_string();
    assert!(
        error.starts_with("nvjpegStateAttachDeviceBuffer: NVJPEG_STATUS_ALLOCATOR_FAILURE"),
        "{error}"
    );
}

#[test]
fn phases_follow_each_other_and_begin_anew_after_an_error() {
    let handle = handle("phases", Backend::GpuHybrid, &[]).unwrap();
    let mut jpeg = JpegStream::new(&handle).unwrap();
    let mut decoder = HybridDecoder::new(&handle).unwrap();
    let parsed = jpeg.parse(JPEG).unwrap();
    assert_eq!(decoder.is_supported(&parsed), Ok(true));
    for _ in 0..2 {
        let out = poisoned(&handle, 1, 512, 512);
        // SAFETY: the stand-in is done when it returns, and writes three bytes.
        unsafe {
            decoder.host(&parsed).unwrap();
            decoder.transfer(&parsed, &out.stream).unwrap();
            decoder.device(&out.destinations[0], &out.stream).unwrap();
        }
        assert_eq!(out.images(3), [WRITTEN]);
    }
}

#[test]
#[should_panic(expected = "the transfer comes first")]
fn a_failed_phase_ends_the_image() {
    let handle = handle("failed-phase", Backend::GpuHybrid, &["PHASE=6"]).unwrap();
    let mut jpeg = JpegStream::new(&handle).unwrap();
    let mut decoder = HybridDecoder::new(&handle).unwrap();
    let parsed = jpeg.parse(JPEG).unwrap();
    let out = poisoned(&handle, 1, 512, 512);
    // SAFETY: as above.
    unsafe {
        decoder.host(&parsed).unwrap();
        let error = decoder.transfer(&parsed, &out.stream).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("nvjpegDecodeJpegTransferToDevice")
        );
        let _ = decoder.device(&out.destinations[0], &out.stream);
    }
}

/// The real library: of this process's places, or of the environment that the tests use.
fn real() -> Option<Arc<Nvjpeg>> {
    let mut places = Places::of_process();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv");
    places.environments.push(tests);
    match Nvjpeg::open(&places, None) {
        Ok(found) => Some(found),
        Err(error) => {
            eprintln!("skipped: {error}; mend: {}", error.mend());
            None
        }
    }
}

#[test]
fn the_real_library_is_whole_and_says_its_version() {
    let Some(library) = real() else { return };
    eprintln!("{library:?}");
    assert!(library.version()[0] >= 11, "{library:?}");
    assert!(library.built_for().major >= 11, "{library:?}");
}

#[test]
fn the_real_library_makes_no_handle_without_a_gpu() {
    let Some(library) = real() else { return };
    if cuda::is_plugged_in(Path::new("/")) {
        eprintln!("skipped: there is a GPU");
        return;
    }
    let context = context("real");
    type Make = fn(&Arc<Nvjpeg>, Backend, &Context) -> Result<Arc<Handle>, GpuError>;
    let make = |backend| {
        let all: [Make; 3] = [Handle::new, Handle::plain, Handle::strict];
        all.map(|make| make(&library, backend, &context).err().unwrap())
    };
    let errors = [Backend::GpuHybrid, Backend::Hardware].map(make);
    for error in errors.iter().flatten() {
        let text = error.to_string();
        // Flags are looked at first: one that it does not know is an invalid parameter.
        assert!(
            text.starts_with("nvjpegCreateEx: NVJPEG_STATUS_EXECUTION_FAILED (6), by "),
            "{text}"
        );
        assert!(text.ends_with(library.path()), "{text}");
    }
}

/// The device, the real library on it, and the CPU's pixels as the reference.
#[test]
fn a_real_gpu_decodes_as_the_cpu_does() {
    if !cuda::is_plugged_in(Path::new("/")) {
        eprintln!("skipped: no GPU here");
        return;
    }
    let Some(library) = real() else { return };
    let context = match Driver::open(&Places::of_process()).and_then(|driver| driver.context(0)) {
        Ok(context) => context,
        Err(error) => {
            eprintln!("skipped: {error}; mend: {}", error.mend());
            return;
        }
    };
    const SIZE: (u32, u32) = (500, 375);
    let (row, bytes) = (SIZE.0 as usize * 3, SIZE.0 as usize * SIZE.1 as usize * 3);
    // Without chroma to interpolate, decoders differ by rounding alone.
    let pixels: Vec<u8> = (0..bytes)
        .map(|n| (n % row / 12 + n / row / 4) as u8)
        .collect();
    let encoder = Encoder {
        subsampling: encode::Subsampling::S444,
        ..Encoder::default()
    };
    let jpeg = encoder.encode(&pixels, SIZE.0, SIZE.1).unwrap();
    let reference = Decoder::new(Limits::default())
        .decode_full(&jpeg, Options::default())
        .unwrap()
        .rgb;
    let check = |name: &str, images: Vec<Vec<u8>>| {
        for found in images {
            let pairs = found.iter().zip(&reference);
            let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = sum as f64 / bytes as f64;
            eprintln!("{name}: {mean:.3} grey levels from the CPU on average");
            assert!(mean < 1.0, "{name}");
        }
    };
    for backend in [Backend::GpuHybrid, Backend::Hardware] {
        let name = format!("{backend:?}");
        let handle = match Handle::new(&library, backend, &context) {
            Ok(handle) => handle,
            Err(error) => {
                assert_eq!(backend, Backend::Hardware, "{error}");
                eprintln!("no engines: {error}");
                continue;
            }
        };
        eprintln!("{library:?}, {name}, {:?}", handle.engines());
        let mut stream = JpegStream::new(&handle).unwrap();
        let parsed = stream.parse(&jpeg).unwrap();
        let frame = parsed.frame().unwrap();
        assert_eq!(
            (frame.marker, frame.width, frame.height),
            (0xc0, SIZE.0, SIZE.1)
        );
        assert_eq!(frame.subsampling, Some(Subsampling::S444));
        assert_eq!(parsed.is_supported(None), Ok(true));
        let out = poisoned(&handle, 7, bytes, row);
        let mut decoder = BatchDecoder::new(&handle).unwrap();
        // SAFETY: the memory is poisoned, idle, and has room for seven images; it and the
        // bytes stay until the stream is done, in `images`.
        unsafe { decoder.decode(&[jpeg.as_slice(); 7], &out.destinations, &[], &out.stream) }
            .unwrap();
        check(&name, out.images(bytes));
        if backend == Backend::GpuHybrid {
            let mut decoder = HybridDecoder::new(&handle).unwrap();
            assert_eq!(decoder.is_supported(&parsed), Ok(true));
            let out = poisoned(&handle, 1, bytes, row);
            // SAFETY: as above, for one image; the decoder is new.
            unsafe {
                decoder.host(&parsed).unwrap();
                decoder.transfer(&parsed, &out.stream).unwrap();
                decoder.device(&out.destinations[0], &out.stream).unwrap();
            }
            check("in phases", out.images(bytes));
        }
    }
}
