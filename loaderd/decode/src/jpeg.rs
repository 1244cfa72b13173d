//! The safe face of `jpeg.c`: one decompressor, opened on one image at a time.
//!
//! Enters: encoded bytes, a scale, a region. Leaves: RGB rows in a buffer of the caller; or
//! the image's coefficients as another JPEG.
//! Never: geometry decisions, buffers of its own.

mod codes;
mod entropy;
pub(crate) mod header;
mod hook;
pub(crate) mod segments;
mod window;

// The symbols that jpeg.c calls come from this crate's static library.
use turbojpeg_sys as _;

use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::error::{DecodeError, EncodeError};
use crate::magic::Format;
use hook::Hook;

const OK: c_int = 0;
const CORRUPT: c_int = 1;
const TRUNCATED: c_int = 2;
const TOO_MANY_SCANS: c_int = 3;
const NOT_WRITTEN: c_int = 4;

const COLOUR_KNOWN: u32 = 1;

/// `JMSG_LENGTH_MAX` of jpeglib.h.
const MESSAGE_BYTES: usize = 200;

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct RawHeader {
    width: u32,
    height: u32,
    colour: u32,
    chroma_columns: u32,
    multiple_scans: u32,
    coefficient_bytes: u64,
    scan_offset: u64,
}

/// What `jpeg.c` encodes, and how. See [`crate::encode::Encoder`] for the meanings.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncodeLayout {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) components: u32,
    pub(crate) direct: u32,
    pub(crate) bits: u32,
    pub(crate) quality: u32,
    pub(crate) luma_h: u32,
    pub(crate) luma_v: u32,
    pub(crate) progressive: u32,
    pub(crate) optimise: u32,
    pub(crate) separate_scans: u32,
    pub(crate) arithmetic: u32,
    pub(crate) restart_rows: u32,
    pub(crate) restart_mcus: u32,
}

#[repr(C)]
struct RawJpeg {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn loaderd_jpeg_new() -> *mut RawJpeg;
    fn loaderd_jpeg_close(jpeg: *mut RawJpeg);
    fn loaderd_jpeg_free(jpeg: *mut RawJpeg);
    fn loaderd_jpeg_library_version() -> *const c_char;
    fn loaderd_jpeg_message(jpeg: *const RawJpeg) -> *const c_char;
    fn loaderd_jpeg_open(
        jpeg: *mut RawJpeg,
        data: *const u8,
        size: usize,
        scans_max: u32,
        memory_max: u64,
        header: *mut RawHeader,
    ) -> c_int;
    fn loaderd_jpeg_start(
        jpeg: *mut RawJpeg,
        eighths: u32,
        left: u32,
        width: u32,
        out_left: *mut u32,
        out_width: *mut u32,
    ) -> c_int;
    fn loaderd_jpeg_read(
        jpeg: *mut RawJpeg,
        top: u32,
        rows: u32,
        out: *mut u8,
        stride: usize,
    ) -> c_int;
    fn loaderd_jpeg_start_copy(jpeg: *mut RawJpeg) -> c_int;
    fn loaderd_jpeg_copy(
        jpeg: *mut RawJpeg,
        interval: u32,
        out: *mut *mut u8,
        out_size: *mut usize,
    ) -> c_int;
    fn loaderd_jpeg_encode(
        pixels: *const u8,
        layout: *const EncodeLayout,
        out: *mut *mut u8,
        out_size: *mut usize,
        message: *mut c_char,
    ) -> c_int;
    fn loaderd_jpeg_release(buffer: *mut u8);
}

/// libjpeg-turbo's own version, such as `3.1.0`.
pub(crate) fn library_version() -> &'static str {
    // SAFETY: the C side returns a string literal, which is NUL-terminated and lives forever.
    let version = unsafe { CStr::from_ptr(loaderd_jpeg_library_version()) };
    version.to_str().unwrap_or("unknown")
}

/// A decompressor's memory on the C side.
#[derive(Debug)]
pub(crate) struct Jpeg {
    raw: NonNull<RawJpeg>,
    hook: Box<Hook>,
}

// SAFETY: the C struct has no ties to a thread (libjpeg keeps no global state besides
// a thread-local cache of CPU features), and `&mut` guards every call. The hook's pointer is
// used only while an image is read, whose bytes are borrowed for as long.
unsafe impl Send for Jpeg {}

impl Drop for Jpeg {
    fn drop(&mut self) {
        // SAFETY: `raw` came from loaderd_jpeg_new and is freed once, here.
        unsafe { loaderd_jpeg_free(self.raw.as_ptr()) };
    }
}

impl Jpeg {
    pub(crate) fn new() -> Jpeg {
        // SAFETY: takes no arguments; null is checked below.
        let raw = unsafe { loaderd_jpeg_new() };
        Jpeg {
            raw: NonNull::new(raw).expect("out of memory for a JPEG decompressor"),
            hook: Hook::new(),
        }
    }

    /// Reads the header of `encoded`, up to its first scan.
    pub(crate) fn open<'a>(
        &'a mut self,
        encoded: &'a [u8],
        scans_max: u32,
        memory_max: u64,
    ) -> Result<OpenJpeg<'a>, DecodeError> {
        let mut open = OpenJpeg {
            raw: self.raw,
            hook: NonNull::from(&mut *self.hook),
            encoded,
            scans_max,
            header: RawHeader::default(),
            _decompressor: PhantomData,
        };
        // SAFETY: `encoded` is borrowed for as long as `open` lives, whose drop ends the
        // C side's use of it; `header` is a live struct of the layout that C declares.
        let status = unsafe {
            loaderd_jpeg_open(
                open.raw.as_ptr(),
                encoded.as_ptr(),
                encoded.len(),
                scans_max,
                memory_max,
                &mut open.header,
            )
        };
        open.check(status)?;
        Ok(open)
    }
}

/// One image between its header and its last row. Dropping it ends the image, wherever
/// it stands.
pub(crate) struct OpenJpeg<'a> {
    raw: NonNull<RawJpeg>,
    hook: NonNull<Hook>,
    encoded: &'a [u8],
    scans_max: u32,
    header: RawHeader,
    _decompressor: PhantomData<&'a mut Jpeg>,
}

impl Drop for OpenJpeg<'_> {
    fn drop(&mut self) {
        // SAFETY: `raw` outlives `self`, which borrows its owner; closing is idempotent.
        unsafe { loaderd_jpeg_close(self.raw.as_ptr()) };
    }
}

impl<'a> OpenJpeg<'a> {
    /// (columns, rows) of the whole image.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.header.width, self.header.height)
    }

    /// Image columns that share one chroma sample, at full scale; 1 where none do.
    pub(crate) fn chroma_columns(&self) -> u32 {
        self.header.chroma_columns
    }

    /// Bytes of all the image's coefficients.
    pub(crate) fn coefficient_bytes(&self) -> u64 {
        self.header.coefficient_bytes
    }

    /// Bytes of coefficients that libjpeg holds while it decodes; 0 for a file with one scan.
    pub(crate) fn held_bytes(&self) -> u64 {
        if self.header.multiple_scans == 0 {
            return 0;
        }
        self.coefficient_bytes()
    }

    /// Refuses colour spaces that do not convert to RGB.
    pub(crate) fn check_colour(&self) -> Result<(), DecodeError> {
        if self.header.colour == COLOUR_KNOWN {
            return Ok(());
        }
        Err(DecodeError::Unsupported {
            what: "a JPEG of unknown colour space".to_string(),
        })
    }

    /// Looks for the end-of-image marker, from the back: a file without one was cut
    /// short, and must be refused whichever part of it a crop needs.
    pub(crate) fn check_end(&self) -> Result<(), DecodeError> {
        let scan = self
            .encoded
            .get(self.header.scan_offset as usize..)
            .unwrap_or(&[]);
        if scan.windows(2).rev().any(|pair| pair == [0xff, 0xd9]) {
            return Ok(());
        }
        Err(self.truncated())
    }

    /// Starts decoding at `eighths`/8 of full size, for columns `[left, left + width)`
    /// of the scaled image. Returns the `(left, width)` that rows will hold: `left` may
    /// move to the left, the right end stays.
    pub(crate) fn start(
        self,
        eighths: u32,
        left: u32,
        width: u32,
    ) -> Result<StartedJpeg<'a>, DecodeError> {
        let (mut out_left, mut out_width) = (0, 0);
        // SAFETY: `raw` is open; the two out pointers are live locals.
        let status = unsafe {
            loaderd_jpeg_start(
                self.raw.as_ptr(),
                eighths,
                left,
                width,
                &mut out_left,
                &mut out_width,
            )
        };
        self.check(status)?;
        // SAFETY: `raw` is started. Rows are read by what is returned, which keeps the borrows
        // of the decompressor, which has the hook, and of the encoded bytes.
        unsafe { Hook::set(self.hook, self.raw) };
        Ok(StartedJpeg {
            height: scaled(self.header.height, eighths),
            open: self,
            left: out_left,
            width: out_width,
        })
    }

    /// The image's coefficients as a baseline JPEG in one scan, with Huffman tables made for
    /// it and a restart marker every `interval` MCUs, without APPn and COM segments. Refuses
    /// what [`start`](Self::start) and its rows would refuse of the whole image, whatever
    /// libjpeg warns about, and bytes that no coefficient is coded in.
    pub(crate) fn copy(self, interval: u16) -> Result<Vec<u8>, CopyError> {
        // SAFETY: `raw` is open, and not started, because that takes `self`, too.
        let status = unsafe { loaderd_jpeg_start_copy(self.raw.as_ptr()) };
        self.check(status).map_err(CopyError::NotRead)?;
        // SAFETY: `raw` is started, and read by the next call alone; `self` keeps the borrows of
        // the decompressor, which has the hook, and of the encoded bytes.
        let is_hooked = unsafe { Hook::set(self.hook, self.raw) };
        let mut buffer: *mut u8 = std::ptr::null_mut();
        let mut size = 0usize;
        // SAFETY: `raw` is started for this; the two out pointers are live locals.
        let status = unsafe {
            loaderd_jpeg_copy(self.raw.as_ptr(), interval.into(), &mut buffer, &mut size)
        };
        if status == NOT_WRITTEN {
            return Err(CopyError::NotWritten(self.message()));
        }
        self.check(status).map_err(CopyError::NotRead)?;
        // SAFETY: the call succeeded and left `size` bytes in `buffer`, which is not used again.
        let copy = unsafe { taken(buffer, size) };
        // SAFETY: the hook outlives `self`, and what called it has returned.
        if is_hooked && !unsafe { self.hook.as_ref() }.is_spent() {
            return Err(CopyError::NotRead(DecodeError::Corrupt {
                format: Format::Jpeg,
                message: "bytes behind the last coefficient".to_string(),
            }));
        }
        Ok(copy)
    }

    fn message(&self) -> String {
        // SAFETY: the C side always leaves a terminated string in its buffer, which lives as
        // long as `raw`.
        let message = unsafe { CStr::from_ptr(loaderd_jpeg_message(self.raw.as_ptr())) };
        message.to_string_lossy().into_owned()
    }

    fn truncated(&self) -> DecodeError {
        DecodeError::Truncated {
            bytes: self.encoded.len(),
        }
    }

    fn check(&self, status: c_int) -> Result<(), DecodeError> {
        match status {
            OK => Ok(()),
            TRUNCATED => Err(self.truncated()),
            TOO_MANY_SCANS => Err(DecodeError::TooManyScans {
                scans_max: self.scans_max,
            }),
            _ => {
                assert_eq!(status, CORRUPT, "jpeg.c returned an unknown status");
                Err(DecodeError::Corrupt {
                    format: Format::Jpeg,
                    message: self.message(),
                })
            }
        }
    }
}

/// Why coefficients could not be copied.
pub(crate) enum CopyError {
    NotRead(DecodeError),
    /// libjpeg's words.
    NotWritten(String),
}

/// An image whose rows can be read, once.
pub(crate) struct StartedJpeg<'a> {
    open: OpenJpeg<'a>,
    height: u32,
    /// First column that rows hold, in the scaled image.
    pub(crate) left: u32,
    /// Columns that rows hold.
    pub(crate) width: u32,
}

impl StartedJpeg<'_> {
    /// Bytes of one row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.width as usize * 3
    }

    /// Writes rows `[top, top + rows)` of the scaled image to the start of `out`,
    /// [`row_bytes`](Self::row_bytes) apart. Nothing below is decoded.
    pub(crate) fn read(self, top: u32, rows: u32, out: &mut [u8]) -> Result<(), DecodeError> {
        let bytes = self.row_bytes() * rows as usize;
        assert!(out.len() >= bytes, "{} bytes for {bytes}", out.len());
        assert!(top.checked_add(rows).is_some_and(|end| end <= self.height));
        // SAFETY: `raw` is open and started; libjpeg writes `rows` rows of `width` RGB
        // pixels, for which `out` has room.
        let status = unsafe {
            loaderd_jpeg_read(
                self.open.raw.as_ptr(),
                top,
                rows,
                out.as_mut_ptr(),
                self.row_bytes(),
            )
        };
        self.open.check(status)
    }
}

/// A side of the image at `eighths`/8: libjpeg rounds up.
pub(crate) fn scaled(side: u32, eighths: u32) -> u32 {
    (u64::from(side) * u64::from(eighths)).div_ceil(8) as u32
}

/// Encodes `pixels`, whose length the caller has checked against `layout`.
pub(crate) fn encode(pixels: &[u8], layout: &EncodeLayout) -> Result<Vec<u8>, EncodeError> {
    let expected = layout.width as usize * layout.height as usize * layout.components as usize;
    assert_eq!(pixels.len(), expected);
    let mut buffer: *mut u8 = std::ptr::null_mut();
    let mut size = 0usize;
    let mut message = [0 as c_char; MESSAGE_BYTES];
    // SAFETY: `pixels` holds what `layout` announces (asserted), the out pointers are
    // live, and `message` has the room that the C side asks for.
    let status = unsafe {
        loaderd_jpeg_encode(
            pixels.as_ptr(),
            layout,
            &mut buffer,
            &mut size,
            message.as_mut_ptr(),
        )
    };
    if status != OK {
        // SAFETY: on failure the C side has written a terminated string.
        let words = unsafe { CStr::from_ptr(message.as_ptr()) };
        return Err(EncodeError::Library {
            message: words.to_string_lossy().into_owned(),
        });
    }
    // SAFETY: the call succeeded and left `size` bytes in `buffer`, which is not used again.
    Ok(unsafe { taken(buffer, size) })
}

/// A file that the C side has made.
///
/// # Safety
///
/// `buffer` holds `size` bytes, came from the C side, and is not used again.
unsafe fn taken(buffer: *mut u8, size: usize) -> Vec<u8> {
    // SAFETY: the caller says that `buffer` holds `size` bytes.
    let bytes = unsafe { std::slice::from_raw_parts(buffer, size) }.to_vec();
    // SAFETY: the caller gives `buffer` away.
    unsafe { loaderd_jpeg_release(buffer) };
    bytes
}
