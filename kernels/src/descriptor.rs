//! What the kernels are told about a batch: `src/cuda/types.h`, field by field.
//!
//! Enters: addresses, sizes, a resize's box, an output's type and layout. Leaves: descriptors that
//! were checked, so that kernels which believe them stay within the memory they name. Never: a
//! look at that memory.

use std::mem::{offset_of, size_of};

/// Most pixels of an axis, of a view and of a batch's side.
pub const SIDE_MAX: u32 = 1 << 17;

/// A decoded picture in scratch memory: RGB u8, rows `pitch` bytes apart.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picture {
    /// Address of the first pixel, a multiple of 4: the device's, or the host's for the twin.
    pub pixels: u64,
    /// Bytes from row to row: a multiple of 4, at least 3 a pixel.
    pub pitch: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// What the poison's pattern begins with; another one each time the scratch is used.
    pub seed: u32,
}

/// One axis of a resize, in the picture's own orientation.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    /// Where the box that is resized starts, in pixels of the view.
    pub start: f64,
    /// Its length.
    pub len: f64,
    /// Where the axis's weights lie in the batch's tables, in bytes; [`lay_out`] says.
    pub table: u64,
    /// The picture's pixel under the view's pixel 0; negative where a border comes first.
    pub first: i32,
    /// Pixels of the view, beyond which the filter does not look.
    pub view: u32,
    /// First of the view's pixels that the picture has; the others are black.
    pub from: u32,
    /// The one after the last.
    pub to: u32,
    /// Pixels that the box becomes; 0 where nothing of the picture is in sight.
    pub count: u32,
    /// Weights that a pixel may have; [`lay_out`] says.
    pub window: u32,
    /// The output's column or row `i` shows pixel `begin + step * i` of these, where there is
    /// one. The rest is border.
    pub begin: i32,
    /// 1 or -1.
    pub step: i32,
}

/// Which curve weighs the source's pixels; both widen with the scale, as in Pillow.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The triangle.
    Bilinear = 0,
    /// The Catmull-Rom cubic (a = -0.5).
    Bicubic = 1,
}

impl Filter {
    /// Half its width, in pixels of the coarser of source and target.
    fn radius(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }
}

/// One image of a batch.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Image {
    /// Where it was decoded to.
    pub picture: Picture,
    /// Address of the finished image, a multiple of its elements' size.
    pub out: u64,
    /// The picture's columns.
    pub x: Axis,
    /// The picture's rows.
    pub y: Axis,
    /// The resize's filter. An axis whose box has whole edges and keeps its size is copied.
    pub filter: Filter,
    /// 1 where the output's columns run along the picture's rows (EXIF 5 to 8), else 0.
    pub swapped: u32,
}

/// Elements of the output.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// The byte as it is; gain and bias have no say.
    Uint8 = 0,
    /// The upper half of a binary32.
    Bfloat16 = 1,
    /// IEEE 754 binary16.
    Float16 = 2,
    /// IEEE 754 binary32.
    Float32 = 3,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> u64 {
        match self {
            Element::Uint8 => 1,
            Element::Bfloat16 | Element::Float16 => 2,
            Element::Float32 => 4,
        }
    }
}

/// Their order.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `[3, height, width]`.
    Nchw = 0,
    /// `[height, width, 3]`.
    Nhwc = 1,
}

/// What all images of a batch share.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batch {
    /// Columns of a finished image.
    pub width: u32,
    /// Rows of it.
    pub height: u32,
    /// Its elements.
    pub element: Element,
    /// Their order.
    pub order: Order,
    /// An element is `gain * byte + bias` of its channel, each operation rounded to f32.
    pub gain: [f32; 3],
    /// See `gain`.
    pub bias: [f32; 3],
}

const _: () = {
    assert!(size_of::<Picture>() == 24 && offset_of!(Picture, seed) == 20);
    assert!(size_of::<Axis>() == 56 && offset_of!(Axis, first) == 24);
    assert!(offset_of!(Axis, step) == 52);
    assert!(size_of::<Image>() == 152 && offset_of!(Image, out) == 24);
    assert!(offset_of!(Image, y) == 88 && offset_of!(Image, swapped) == 148);
    assert!(size_of::<Batch>() == 40 && offset_of!(Batch, bias) == 28);
};

/// A descriptor that kernels must not believe: a fault of the caller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image {index} of the batch: {what}")]
pub struct DescriptorError {
    /// Which image.
    pub index: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Picture {
    fn check(&self) -> Result<(), &'static str> {
        let side = 1..=SIDE_MAX;
        if !side.contains(&self.width) || !side.contains(&self.height) {
            return Err("the picture must have 1 to 131072 columns and rows");
        }
        if !self.pixels.is_multiple_of(4) || !self.pitch.is_multiple_of(4) {
            return Err("the picture's address and pitch must be multiples of 4");
        }
        if self.pitch < 3 * self.width {
            return Err("the picture's rows do not fit its pitch");
        }
        Ok(())
    }
}

impl Axis {
    /// Weights that a pixel can have: the filter's width, and one for where it begins.
    fn window(&self, filter: Filter) -> u32 {
        let scale = (self.len / f64::from(self.count)).max(1.0);
        // A little more against rounding: the box's end is computed in another order.
        2 * (filter.radius() * scale * (1.0 + 1e-9)).ceil() as u32 + 1
    }

    /// Bytes of its table: precision, runs, weights, to a multiple of 8.
    fn table_bytes(&self) -> u64 {
        let (count, window) = (u64::from(self.count), u64::from(self.window));
        (8 + 8 * count + 2 * count * window).next_multiple_of(8)
    }

    fn check(&self, picture_side: u32) -> Result<(), &'static str> {
        if !matches!(self.step, 1 | -1) || self.begin.unsigned_abs() > 2 * SIDE_MAX {
            return Err("an axis must step by 1 or -1, from near the picture");
        }
        if self.count == 0 {
            return Ok(());
        }
        if self.count > SIDE_MAX || self.view > SIDE_MAX {
            return Err("an axis must have at most 131072 pixels");
        }
        let ends = self.start >= 0.0 && self.start + self.len <= f64::from(self.view);
        if !ends || self.len.is_nan() || self.len <= 0.0 {
            return Err("the box must lie within the view");
        }
        if self.from > self.to || self.to > self.view {
            return Err("the picture's part of the view must lie within the view");
        }
        let (first, side) = (i64::from(self.first), i64::from(picture_side));
        if first + i64::from(self.from) < 0 || first + i64::from(self.to) > side {
            return Err("the view's part must lie within the picture");
        }
        Ok(())
    }
}

/// Checks a batch's descriptors, and gives each axis the place of its weights in one run of
/// memory, whose length in bytes is returned. Must be the last to change them before kernels, or
/// the twin, read them.
pub fn lay_out(images: &mut [Image], batch: &Batch) -> Result<u64, DescriptorError> {
    let side = 1..=SIDE_MAX;
    let sized = side.contains(&batch.width) && side.contains(&batch.height);
    let mut end = 0;
    for (index, image) in images.iter_mut().enumerate() {
        let wrong = |what| DescriptorError { index, what };
        if !sized {
            return Err(wrong("the output must have 1 to 131072 columns and rows"));
        }
        image.picture.check().map_err(wrong)?;
        image.x.check(image.picture.width).map_err(wrong)?;
        image.y.check(image.picture.height).map_err(wrong)?;
        if image.swapped > 1 {
            return Err(wrong("swapped must be 0 or 1"));
        }
        if !image.out.is_multiple_of(batch.element.bytes()) {
            return Err(wrong("the output's address must suit its elements"));
        }
        for axis in [&mut image.x, &mut image.y] {
            axis.window = match axis.count {
                0 => 0,
                _ => axis.window(image.filter),
            };
            axis.table = end;
            end += axis.table_bytes();
        }
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis() -> Axis {
        Axis {
            start: 0.5,
            len: 9.0,
            table: 0,
            first: 2,
            view: 10,
            from: 0,
            to: 10,
            count: 4,
            window: 0,
            begin: 0,
            step: 1,
        }
    }

    fn image() -> Image {
        Image {
            picture: Picture {
                pixels: 4096,
                pitch: 40,
                width: 12,
                height: 12,
                seed: 0,
            },
            out: 8192,
            x: axis(),
            y: axis(),
            filter: Filter::Bilinear,
            swapped: 0,
        }
    }

    const BATCH: Batch = Batch {
        width: 4,
        height: 4,
        element: Element::Float32,
        order: Order::Nchw,
        gain: [1.0; 3],
        bias: [0.0; 3],
    };

    #[test]
    fn tables_lie_one_behind_the_other() {
        let mut images = [image(), image()];
        images[1].x.count = 0;
        images[1].filter = Filter::Bicubic;
        let bytes = lay_out(&mut images, &BATCH).unwrap();
        // Scale 2.25: 7 and 11 weights for each of 4 pixels.
        let (narrow, wide) = (8 + 32 + 56, 8 + 32 + 88);
        assert_eq!((images[0].x.window, images[1].y.window), (7, 11));
        let places =
            [&images[0].x, &images[0].y, &images[1].x, &images[1].y].map(|axis| axis.table);
        assert_eq!(places, [0, narrow, 2 * narrow, 2 * narrow + 8]);
        assert_eq!(bytes, 2 * narrow + 8 + wide);
    }

    #[test]
    fn lies_are_refused() {
        let check = |change: &dyn Fn(&mut Image), expected: &str| {
            let mut images = [image(), image()];
            change(&mut images[1]);
            let message = lay_out(&mut images, &BATCH).unwrap_err().to_string();
            assert!(message.starts_with("image 1 of the batch: "), "{message}");
            assert!(message.contains(expected), "{message}");
        };
        check(&|image| image.picture.height = 0, "1 to 131072");
        check(&|image| image.picture.width = SIDE_MAX + 1, "1 to 131072");
        check(&|image| image.picture.pitch = 42, "multiples of 4");
        check(&|image| image.picture.pixels = 4098, "multiples of 4");
        check(&|image| image.picture.pitch = 32, "do not fit");
        check(&|image| image.out = 8194, "suit its elements");
        check(&|image| image.swapped = 2, "swapped");
        check(&|image| image.x.step = 0, "step by 1 or -1");
        check(&|image| image.y.begin = i32::MIN, "step by 1 or -1");
        check(&|image| image.x.count = SIDE_MAX + 1, "at most 131072");
        check(&|image| image.x.start = -0.5, "box must lie");
        check(&|image| image.x.start = f64::NAN, "box must lie");
        check(&|image| image.y.len = 9.75, "box must lie");
        check(&|image| image.y.len = f64::NAN, "box must lie");
        check(&|image| image.y.len = 0.0, "box must lie");
        check(&|image| image.x.to = 11, "part of the view");
        check(&|image| image.x.first = -1, "within the picture");
        check(&|image| image.y.first = 3, "within the picture");
        let batch = Batch { height: 0, ..BATCH };
        let message = lay_out(&mut [image()], &batch).unwrap_err().to_string();
        assert!(message.contains("the output must have"), "{message}");
    }
}
