//! Both stand-ins, connected: what "nvJPEG" decodes are the CPU decoder's pixels, worked off on the
//! streams of "libcuda", so that whole paths can be compared byte for byte with the CPU's.
//!
//! A comment in a JPEG, right behind its first marker, asks for what goes wrong with it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use loaderd_decode::{Decoder, Limits, Options};
use loaderd_gpu::Places;

/// What a comment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// nvJPEG reports a success, and writes nothing.
    Skip,
    /// nvJPEG decodes it the first time, and from the second on does as for [`Skip`](Fault::Skip).
    SkipAgain,
    /// nvJPEG refuses it where it was told to be strict.
    Lax,
    /// nvJPEG takes the picture for wider than it is, where it is asked.
    Misread,
    /// nvJPEG writes all but the first three words.
    LeaveThree,
    /// nvJPEG writes all but the first four words.
    LeaveFour,
    /// nvJPEG refuses the batch that it is in.
    Fail,
    /// So it does, and says that engines don't take it, where it is asked.
    Unsupported,
}

impl Fault {
    fn word(self) -> &'static [u8] {
        match self {
            Fault::Skip => b"stand-in: skip me",
            Fault::SkipAgain => b"stand-in: skip me again",
            Fault::Lax => b"stand-in: not by the letter",
            Fault::Misread => b"stand-in: misread me",
            Fault::LeaveThree => b"stand-in: leave three words",
            Fault::LeaveFour => b"stand-in: leave four words",
            Fault::Fail => b"stand-in: fail me",
            Fault::Unsupported => b"stand-in: not for engines",
        }
    }

    /// The JPEG with the comment.
    pub(crate) fn put(self, jpeg: &[u8]) -> Vec<u8> {
        let length = (self.word().len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xff, 0xfe], &length, self.word(), &jpeg[2..]].concat()
    }

    fn is_in(self, jpeg: &[u8]) -> bool {
        jpeg.get(6..)
            .is_some_and(|rest| rest.starts_with(self.word()))
    }
}

/// Stand-ins for both libraries, of one test.
pub(crate) struct Standins {
    cuda: PathBuf,
    nvjpeg: PathBuf,
}

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

type Decode = extern "C" fn(*const u8, usize, *mut u8, usize) -> c_int;

/// A function of an opened library. It stays loaded.
fn symbol(library: &Path, name: &str) -> *mut c_void {
    let path = CString::new(library.as_os_str().as_bytes()).unwrap();
    let name = CString::new(name).unwrap();
    const RTLD_NOW: c_int = 2;
    // SAFETY: both names end in a zero; the library was built by us, and has no initialisers.
    let found = unsafe { dlsym(dlopen(path.as_ptr(), RTLD_NOW), name.as_ptr()) };
    assert!(!found.is_null(), "{name:?} of {library:?}");
    found
}

impl Standins {
    /// Builds both with these macros, and connects them.
    pub(crate) fn build(test: &str, defines: &[&str]) -> Standins {
        let standins = Standins {
            cuda: super::standin::build("cuda", test, defines),
            nvjpeg: super::standin::build("nvjpeg", test, defines),
        };
        let by = symbol(&standins.cuda, "cuLaunchHostFunc");
        // SAFETY: the type is that of nvjpeg.c.
        let connect = unsafe {
            std::mem::transmute::<*mut c_void, extern "C" fn(Decode, *mut c_void)>(symbol(
                &standins.nvjpeg,
                "standin_connect",
            ))
        };
        connect(decode, by);
        standins
    }

    pub(crate) fn places(&self) -> Places {
        Places {
            libcuda: Some(self.cuda.clone().into()),
            nvjpeg: Some(self.nvjpeg.clone().into()),
            ..Places::default()
        }
    }

    fn call(&self, library: &Path, name: &str, number: c_int) {
        // SAFETY: of this type in cuda.c and nvjpeg.c.
        let function = unsafe {
            std::mem::transmute::<*mut c_void, extern "C" fn(c_int)>(symbol(library, name))
        };
        function(number);
    }

    /// From now on, every call of the driver's fails with this code.
    pub(crate) fn break_device(&self, code: i32) {
        self.call(&self.cuda, "standin_break", code);
    }

    /// From now on, the device does nothing, or goes on.
    pub(crate) fn hang(&self, does: bool) {
        self.call(&self.cuda, "standin_hang", c_int::from(does));
    }

    /// From now on, engines decode at once, whatever was queued before.
    pub(crate) fn overtake(&self) {
        self.call(&self.nvjpeg, "standin_overtake", 1);
    }

    /// The most bytes of device memory that were ever allocated at a time.
    pub(crate) fn device_bytes_most(&self) -> usize {
        ask(&self.cuda, "standin_bytes_most")
    }

    /// Ranges of host memory that are registered.
    pub(crate) fn registered(&self) -> usize {
        ask(&self.cuda, "standin_registered")
    }

    /// Batches that engines were asked to decode.
    pub(crate) fn batches(&self) -> usize {
        ask(&self.nvjpeg, "standin_batches")
    }
}

fn ask(library: &Path, name: &str) -> usize {
    // SAFETY: of this type in cuda.c and nvjpeg.c.
    let function = unsafe {
        std::mem::transmute::<*mut c_void, extern "C" fn() -> usize>(symbol(library, name))
    };
    function()
}

/// Files that are skipped when they come again.
static SEEN: Mutex<BTreeSet<Vec<u8>>> = Mutex::new(BTreeSet::new());

/// nvJPEG's decoder, as nvjpeg.c calls it.
extern "C" fn decode(data: *const u8, length: usize, rgb: *mut u8, pitch: usize) -> c_int {
    thread_local! {
        static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new(Limits::default()));
    }
    // SAFETY: the stand-in was given these bytes, which stay until the stream is done.
    let jpeg = unsafe { std::slice::from_raw_parts(data, length) };
    const SKIPPED: c_int = -1;
    const BAD_JPEG: c_int = 3;
    const NOT_SUPPORTED: c_int = 4;
    if Fault::Fail.is_in(jpeg) {
        return BAD_JPEG;
    }
    if Fault::Unsupported.is_in(jpeg) {
        return NOT_SUPPORTED;
    }
    if Fault::SkipAgain.is_in(jpeg) {
        if rgb.is_null() && !SEEN.lock().unwrap().insert(jpeg.to_vec()) {
            return SKIPPED;
        }
    } else if Fault::Skip.is_in(jpeg) {
        return SKIPPED;
    }
    let as_stored = Options {
        exif_orientation: false,
        ..Options::default()
    };
    let decoded = DECODER.with_borrow_mut(|decoder| decoder.decode_full(jpeg, as_stored));
    let Ok(image) = decoded else { return BAD_JPEG };
    if rgb.is_null() {
        return 0;
    }
    let words = [(Fault::LeaveThree, 3), (Fault::LeaveFour, 4)];
    let left_out = (words.iter()).find(|(fault, _)| fault.is_in(jpeg));
    let left_out = left_out.map_or(0, |(_, words)| 4 * words);
    let row = 3 * image.width as usize;
    for (index, pixels) in image.rgb.chunks_exact(row).enumerate() {
        let from = if index == 0 { left_out } else { 0 };
        let pixels = &pixels[from..];
        // SAFETY: the destination has as many rows, `pitch` bytes apart.
        unsafe {
            rgb.add(index * pitch + from)
                .copy_from_nonoverlapping(pixels.as_ptr(), pixels.len())
        };
    }
    0
}
