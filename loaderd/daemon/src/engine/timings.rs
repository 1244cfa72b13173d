//! How long the engine's stages take, for those who ask.
//!
//! Enters: durations from feeders, workers and the GPU's unit. Leaves: a histogram a stage. Without one
//! of these the engine takes no time of its own.

use loaderd_decode::StageNs;

use crate::histogram::Histogram;

/// One histogram per stage.
#[derive(Debug, Default)]
pub struct Timings {
    /// From asking for an extent to having its bytes.
    pub read: Histogram,
    /// Of an image: header, limits, placement.
    pub header: Histogram,
    /// Of an image: entropy decoding, inverse DCT, colour conversion.
    pub decode: Histogram,
    /// Of an image that is resized: resizing, and what `finish` is otherwise where nothing comes
    /// between.
    pub resize: Histogram,
    /// Of an image whose transforms have any: colour, RandAugment, padding.
    pub augment: Histogram,
    /// Of an image that is written to the slot as a whole: normalising, casting, writing.
    pub finish: Histogram,
    /// Of an image that the GPU finishes: from when it is handed over to its pixels being in the
    /// slot, waits included. Such an image is counted nowhere else.
    pub gpu: Histogram,
}

impl Timings {
    /// Counts one image that a CPU core has decoded.
    pub(super) fn image(&self, stages: &StageNs) {
        self.header.record(stages.header_ns);
        self.decode.record(stages.decode_ns);
        // 0 where the crop has the target's size already.
        if stages.resize_ns > 0 {
            self.resize.record(stages.resize_ns);
        }
        if stages.augment_ns > 0 {
            self.augment.record(stages.augment_ns);
        }
        if stages.finish_ns > 0 {
            self.finish.record(stages.finish_ns);
        }
    }
}
