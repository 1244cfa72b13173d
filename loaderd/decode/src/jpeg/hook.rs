//! Our entropy decoder in libjpeg's place.
//!
//! Enters: what libjpeg has read of a scan's header. Leaves: its coefficients, MCU by MCU, when
//! libjpeg asks for them. Never: a scan that is not baseline; libjpeg reads those itself.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use super::RawJpeg;
use super::entropy::{BLOCKS_MAX, Block, Fault, Place, Row, Scan, TABLES};

const NO_FAULT: c_int = 0;
const BAD_CODE: c_int = 1;
const RAN_DRY: c_int = 2;
const NO_RESTART: c_int = 3;

#[repr(C)]
#[derive(Clone, Copy)]
struct RawTable {
    counts: *const u8,
    symbols: *const u8,
}

#[repr(C)]
struct RawScan {
    data: *const u8,
    size: usize,
    interval: u32,
    columns: u32,
    wanted: u32,
    blocks: u32,
    component: [u8; BLOCKS_MAX],
    dc: [u8; BLOCKS_MAX],
    ac: [u8; BLOCKS_MAX],
    dc_tables: [RawTable; TABLES],
    ac_tables: [RawTable; TABLES],
}

type Reader = unsafe extern "C" fn(*mut c_void, *mut *mut Block, *mut u8, *mut u8) -> c_int;

unsafe extern "C" {
    fn loaderd_jpeg_scan(jpeg: *mut RawJpeg, scan: *mut RawScan);
    fn loaderd_jpeg_read_with(jpeg: *mut RawJpeg, reader: Reader, state: *mut c_void);
}

/// The decoder and the bytes that it reads. Its memory is used again for the next image.
#[derive(Debug)]
pub(super) struct Hook {
    scan: Scan,
    /// Of the image that was hooked last.
    data: *const [u8],
    /// Where coefficients go that nobody wants.
    waste: [Block; BLOCKS_MAX],
}

impl Hook {
    pub(super) fn new() -> Box<Hook> {
        Box::new(Hook {
            scan: Scan::new(),
            data: &[],
            waste: [[0; 64]; BLOCKS_MAX],
        })
    }

    /// Takes the coefficients of a started image upon itself where it can, and says whether it
    /// does.
    ///
    /// # Safety
    ///
    /// `raw` is open and started. For as long as rows or coefficients are read from it, the
    /// encoded bytes stay where they are, and so does `hook`, which nobody else touches.
    pub(super) unsafe fn set(hook: NonNull<Hook>, raw: NonNull<RawJpeg>) -> bool {
        let mut found = std::mem::MaybeUninit::uninit();
        // SAFETY: `raw` is started; the C side fills the whole struct, whose layout is its own.
        let found: RawScan = unsafe {
            loaderd_jpeg_scan(raw.as_ptr(), found.as_mut_ptr());
            found.assume_init()
        };
        let blocks = found.blocks as usize;
        if blocks == 0 {
            return false;
        }
        // SAFETY: `hook` is there, and nobody else's.
        let Hook { scan, data, .. } = unsafe { &mut *hook.as_ptr() };
        for (codes, table) in scan.dc.iter_mut().zip(&found.dc_tables) {
            if !table.counts.is_null() {
                // SAFETY: both lie in a table of libjpeg's, which has 16 counts behind the
                // first byte, and 256 symbols.
                unsafe { codes.set(&*table.counts.cast(), &*table.symbols.cast()) };
            }
        }
        for (codes, table) in scan.ac.iter_mut().zip(&found.ac_tables) {
            if !table.counts.is_null() {
                // SAFETY: as above.
                unsafe { codes.set(&*table.counts.cast(), &*table.symbols.cast()) };
            }
        }
        let places: [Place; BLOCKS_MAX] = std::array::from_fn(|block| Place {
            component: found.component[block],
            dc: found.dc[block],
            ac: found.ac[block],
        });
        let row = Row {
            columns: found.columns,
            wanted: found.wanted,
        };
        scan.begin(&places[..blocks], found.interval, row);
        *data = std::ptr::slice_from_raw_parts(found.data, found.size);
        // SAFETY: `raw` is open; the caller keeps `hook` and the bytes in place while it is read.
        unsafe { loaderd_jpeg_read_with(raw.as_ptr(), reader(), hook.as_ptr().cast()) };
        true
    }

    /// Whether all bytes of the scan were read, once its last MCU was.
    pub(super) fn is_spent(&self) -> bool {
        self.scan.is_spent()
    }
}

/// What libjpeg is to call, as the CPU does it best.
fn reader() -> Reader {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2") {
        return read_mcu_bmi2;
    }
    read_mcu
}

/// The same code with shifts by any register.
///
/// # Safety
///
/// As of [`read_mcu`]; and the CPU has BMI 1 and 2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi1,bmi2")]
unsafe extern "C" fn read_mcu_bmi2(
    state: *mut c_void,
    blocks: *mut *mut Block,
    found: *mut u8,
    due: *mut u8,
) -> c_int {
    // SAFETY: the caller promises the same.
    unsafe { read(state, blocks, found, due) }
}

/// Called by libjpeg for each MCU, in order.
///
/// # Safety
///
/// `state` is a [`Hook`] that was set and that nobody else uses meanwhile; `blocks` is null, or
/// points to as many pointers to blocks, all different, as an MCU has; the others are of live
/// bytes.
unsafe extern "C" fn read_mcu(
    state: *mut c_void,
    blocks: *mut *mut Block,
    found: *mut u8,
    due: *mut u8,
) -> c_int {
    // SAFETY: the caller promises the same.
    unsafe { read(state, blocks, found, due) }
}

/// # Safety
///
/// As of [`read_mcu`].
#[inline(always)]
unsafe fn read(state: *mut c_void, blocks: *mut *mut Block, found: *mut u8, due: *mut u8) -> c_int {
    // SAFETY: the caller says so.
    let Hook { scan, data, waste } = unsafe { &mut *state.cast::<Hook>() };
    // SAFETY: the bytes are there for as long as rows are read.
    let data = unsafe { &**data };
    let count = scan.blocks();
    let read = if blocks.is_null() {
        scan.mcu(data, &mut waste.each_mut()[..count])
    } else {
        // SAFETY: there are so many pointers, to different blocks, and a pointer is what a
        // reference is.
        let blocks = unsafe { std::slice::from_raw_parts_mut(blocks.cast::<&mut Block>(), count) };
        scan.mcu(data, blocks)
    };
    let (fault, at, number) = match read {
        Ok(()) => return NO_FAULT,
        Err(Fault::BadCode) => (BAD_CODE, None, 0),
        Err(Fault::RanDry(marker)) => (RAN_DRY, marker, 0),
        Err(Fault::NoRestart(marker, number)) => (NO_RESTART, marker, number),
    };
    // SAFETY: both are live bytes of the caller's.
    unsafe {
        *found = at.unwrap_or(0);
        *due = number;
    }
    fault
}
