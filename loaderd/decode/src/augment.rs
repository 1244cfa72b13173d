//! Whatever changes pixels at their finished size, between resizing and finishing.
//!
//! Enters: the list's second part, the draws, the frame that the finish would write.
//! Leaves: the frame that it shall write instead, and rectangles of the finished output
//! overwritten. Integers and unfused f32 throughout, so the result is the same on every
//! CPU; it is within a grey level of torchvision's uint8 kernels
//! (`torchvision.transforms.v2.functional`) for equal parameters. Never: a draw while
//! pixels are at work, memory of its own beyond two pictures.

mod affine;
mod canvas;
mod colour;
mod draw;
mod erase;
mod rand_augment;
mod tone;
mod window;

use crate::finish::Frame;
use crate::follow::Geometry;
use crate::pipeline::Pipeline;
use crate::transforms::PaddingMode;
use affine::Affine;
use canvas::Canvas;
pub(crate) use draw::draws_of;
use erase::{Area, Erasure};
use window::Window;

/// One change of the picture, with its parameters drawn.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// Mirrors left and right.
    Flip,
    /// Turns upside down.
    Overturn,
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    /// By this part of the colour circle.
    Hue(f32),
    Grey,
    Sharpness(f32),
    /// Keeps these bits.
    Posterize(u8),
    /// Inverts what is at least this bright.
    Solarize(f32),
    AutoContrast,
    Equalize,
    Affine(Affine),
    Window(Window),
    Erase(Area, [u8; 3]),
}

/// What one image's draws ask for.
#[derive(Debug, Default)]
struct Steps {
    /// Of the picture, in the list's order.
    picture: Vec<Step>,
    /// Of the finished output, after all casts.
    output: Vec<Erasure>,
}

/// Augments one image after the other; its scratch memory is reused.
#[derive(Debug, Default)]
pub(crate) struct Augmenter {
    steps: Steps,
    canvas: Canvas,
}

impl Augmenter {
    /// Takes all draws of the pipeline's second part, and keeps what they mean.
    ///
    /// Panics where `draws` ends before [`draws_of`] all transforms are taken.
    pub(crate) fn draw(&mut self, pipeline: &Pipeline, draws: &mut dyn Iterator<Item = u32>) {
        let mut draw = || draws.next().expect("random draws must not end");
        draw::fill(&mut self.steps, pipeline, &mut draw);
    }

    /// Whether nothing was drawn for the picture, so that [`Augmenter::run`] would change nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.steps.picture.is_empty()
    }

    /// Runs what was drawn over the picture, or gives the frame back where that needs no
    /// pixels.
    pub(crate) fn run<'a>(&'a mut self, mut frame: Frame<'a>) -> Frame<'a> {
        let steps = &self.steps.picture;
        if steps.iter().all(Step::only_turns) {
            frame.flipped ^= steps.iter().filter(|step| **step == Step::Flip).count() % 2 == 1;
            frame.upside_down ^=
                steps.iter().filter(|step| **step == Step::Overturn).count() % 2 == 1;
            return frame;
        }
        self.canvas.load(&frame);
        self.apply();
        self.canvas.frame(frame.layout)
    }

    /// What was drawn, as far as it moves pixels, for what follows the picture. `None` where
    /// it moves them otherwise than in whole rows and columns.
    pub(crate) fn follow(&self, mut geometry: Geometry) -> Option<Geometry> {
        for step in &self.steps.picture {
            match step {
                Step::Flip => geometry.x.flip(),
                Step::Overturn => geometry.y.flip(),
                Step::Affine(_) => return None,
                Step::Window(window) => {
                    let (x, y) = (&mut geometry.x, &mut geometry.y);
                    if window.mode != PaddingMode::Constant
                        && !(x.holds(window.left, window.width)
                            && y.holds(window.top, window.height))
                    {
                        return None;
                    }
                    x.window(window.left, window.width);
                    y.window(window.top, window.height);
                }
                _ => {}
            }
        }
        Some(geometry)
    }

    /// Overwrites what was drawn to be erased of the finished output; returns whether anything was.
    pub(crate) fn erase(&self, pipeline: &Pipeline, out: &mut [u8]) -> bool {
        for erasure in &self.steps.output {
            erasure.run(
                pipeline.levels().dtype,
                pipeline.layout(),
                pipeline.size(),
                out,
            );
        }
        !self.steps.output.is_empty()
    }

    /// Bytes of scratch memory held between images.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.canvas.scratch_bytes()
    }

    /// Gives back buffers beyond `kept_bytes` each.
    pub(crate) fn trim(&mut self, kept_bytes: usize) {
        self.canvas.trim(kept_bytes);
    }

    fn apply(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            unsafe { apply_avx2(&mut self.canvas, &self.steps.picture) };
            return;
        }
        apply(&mut self.canvas, &self.steps.picture);
    }
}

impl Step {
    fn only_turns(&self) -> bool {
        matches!(self, Step::Flip | Step::Overturn)
    }
}

/// The same code, compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn apply_avx2(canvas: &mut Canvas, steps: &[Step]) {
    apply(canvas, steps);
}

#[inline(always)]
fn apply(canvas: &mut Canvas, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Flip => canvas.flipped = !canvas.flipped,
            Step::Overturn => canvas.upside_down = !canvas.upside_down,
            // Colours don't depend on where a pixel stands, nor do sharpness and statistics
            // on which way the picture is turned.
            Step::Brightness(factor) => colour::brightness(canvas.pixels(), *factor),
            Step::Contrast(factor) => colour::contrast(canvas.pixels(), *factor),
            Step::Saturation(factor) => colour::saturation(canvas.pixels(), *factor),
            Step::Hue(turn) => colour::hue(canvas.pixels(), *turn),
            Step::Grey => colour::grey(canvas.pixels()),
            Step::Posterize(bits) => tone::posterize(canvas.pixels(), *bits),
            Step::Solarize(threshold) => tone::solarize(canvas.pixels(), *threshold),
            Step::AutoContrast => tone::autocontrast(canvas.pixels()),
            Step::Equalize => tone::equalize(canvas.pixels()),
            Step::Sharpness(factor) => {
                canvas.redraw(|from, to| tone::sharpness(from, *factor, to));
            }
            Step::Affine(affine) => {
                canvas.settle();
                canvas.redraw(|from, to| affine.run(from, to));
            }
            Step::Window(window) => {
                canvas.settle();
                let (width, height) = (window.width as usize, window.height as usize);
                canvas.resize(width, height, |from, to| window.run(from, to));
            }
            Step::Erase(area, value) => {
                canvas.settle();
                area.fill(canvas.width, canvas.pixels(), *value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
