//! Transforms + a header + draws → what a device has to do with the decoded pixels.
//!
//! Enters: a pipeline that needs no pixels between resize and output, one image's header, its
//! draws; later, where a device decoded it to. Leaves: the region to decode, and the descriptor
//! for the kernels, whose result is [`Decoder`](crate::Decoder)'s byte for byte where the decoded
//! pixels are: at full size, and of the same decoder. Never: a pixel, or a call to a device.

use loaderd_kernels as kernels;

use crate::error::DecodeError;
use crate::follow::Geometry;
use crate::geometry::Placement;
use crate::header::Header;
use crate::limits::Limits;
use crate::opened::Region;
use crate::orientation::Orientation;
use crate::pipeline::Pipeline;
use crate::region::Need;
use crate::transforms::{DType, Interpolation, Layout};

/// Where one image's pixels go, drawn before it is decoded.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// As the transforms saw it: upright, unless the options say otherwise.
    upright: Placement,
    orientation: Orientation,
    x: Need,
    y: Need,
    /// Columns and rows of the output.
    size: [u32; 2],
    geometry: Geometry,
}

impl Pipeline {
    /// What all images of a batch share, for the kernels. `None` where the list changes pixels
    /// besides moving, resizing and scaling them (ColorJitter, RandAugment and their like, or
    /// borders that are not black): such images are for the [`Decoder`](crate::Decoder).
    pub fn device_batch(&self) -> Option<kernels::Batch> {
        if !self.augmentations().is_empty() {
            return None;
        }
        let [height, width] = self.size();
        let levels = self.levels();
        Some(kernels::Batch {
            width,
            height,
            element: match levels.dtype {
                DType::Uint8 => kernels::Element::Uint8,
                DType::Bfloat16 => kernels::Element::Bfloat16,
                DType::Float16 => kernels::Element::Float16,
                DType::Float32 => kernels::Element::Float32,
            },
            order: match self.layout() {
                Layout::Nchw => kernels::Order::Nchw,
                Layout::Nhwc => kernels::Order::Nhwc,
            },
            gain: levels.gain,
            bias: levels.bias,
        })
    }
}

impl Placed {
    /// Draws where an image goes that has this header. Takes exactly [`Pipeline::draws`] numbers
    /// from `draws`, the same ones as [`Decoder::decode`](crate::Decoder::decode).
    ///
    /// Panics where the pipeline has no [`device_batch`](Pipeline::device_batch).
    pub fn draw(
        pipeline: &Pipeline,
        header: &Header,
        limits: &Limits,
        draws: &mut dyn Iterator<Item = u32>,
    ) -> Result<Placed, DecodeError> {
        assert!(
            pipeline.augmentations().is_empty(),
            "the pipeline needs pixels on the way"
        );
        limits.check_pixels(header)?;
        let orientation = pipeline.options().orientation_of(header);
        let (width, height) = orientation.upright(header.width, header.height);
        let upright = Placement::draw(pipeline.geometry(), width, height, draws)?;
        let stored = orientation.stored(&upright, header.width, header.height);
        let [rows, columns] = pipeline.size();
        Ok(Placed {
            upright,
            orientation,
            x: Need::of(&stored.x, stored.filter, 8),
            y: Need::of(&stored.y, stored.filter, 8),
            size: [columns, rows],
            geometry: Geometry::of(&upright, width, height),
        })
    }

    /// Where its pixels go, for boxes and masks that follow.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The stored image's pixels that must be decoded; `None` where all of the output is border.
    /// A JPEG that can be [cut](crate::cut) need only be decoded in part.
    pub fn region(&self) -> Option<Region> {
        (!self.x.blank() && !self.y.blank()).then_some(Region {
            left: self.x.decode.0,
            right: self.x.decode.1,
            top: self.y.decode.0,
            bottom: self.y.decode.1,
        })
    }

    /// The kernels' descriptor, once the image is decoded to `picture`, at full size and not yet
    /// turned, with the stored image's column and row `origin` at its first pixel. `out` is the
    /// address of the finished image. Only [`region`](Self::region) is looked at, which must lie
    /// within the picture: [`kernels::lay_out`] checks it.
    pub fn image(&self, picture: kernels::Picture, origin: (u32, u32), out: u64) -> kernels::Image {
        let Placement {
            flipped,
            upside_down,
            ..
        } = self.upright;
        let [width, height] = self.size;
        let (mirror_x, mirror_y) = self.orientation.mirrors();
        let swapped = self.orientation.swaps();
        let across = walk(self.upright.x.filled().0, width, flipped);
        let down = walk(self.upright.y.filled().0, height, upside_down);
        let (along_x, along_y) = if swapped {
            (down, across)
        } else {
            (across, down)
        };
        let blank = self.region().is_none();
        kernels::Image {
            picture,
            out,
            x: axis(&self.x, blank, origin.0, along_x, mirror_x),
            y: axis(&self.y, blank, origin.1, along_y, mirror_y),
            // Without a resize both axes keep their size, and are copied.
            filter: match self.upright.filter {
                Some(Interpolation::Bicubic) => kernels::Filter::Bicubic,
                Some(Interpolation::Bilinear) | None => kernels::Filter::Bilinear,
            },
            swapped: swapped.into(),
        }
    }
}

/// Which of the picture's columns or rows the output's first one is, and the step to the next,
/// where the picture begins at `from` of `size` before a flip.
fn walk(from: usize, size: u32, flipped: bool) -> (i64, i32) {
    if flipped {
        (i64::from(size) - 1 - from as i64, -1)
    } else {
        (-(from as i64), 1)
    }
}

fn axis(need: &Need, blank: bool, origin: u32, walk: (i64, i32), mirrored: bool) -> kernels::Axis {
    let count = if blank { 0 } else { need.filled_len() };
    let (begin, step) = if mirrored {
        (i64::from(count) - 1 - walk.0, -walk.1)
    } else {
        walk
    };
    let view = need.canvas_len() as u32;
    kernels::Axis {
        start: need.box_start,
        // Rounding may push the end a hair beyond the view.
        len: need.box_len.min(f64::from(view) - need.box_start),
        table: 0,
        first: (need.canvas.0 - i64::from(origin)) as i32,
        view,
        from: (i64::from(need.decode.0) - need.canvas.0) as u32,
        to: (i64::from(need.decode.1) - need.canvas.0) as u32,
        count,
        window: 0,
        begin: begin as i32,
        step,
    }
}
