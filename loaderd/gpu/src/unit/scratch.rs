//! The memory that a thread's batches lie in, on the device and, pinned, on the host.
//!
//! Enters: a batch's pictures. Leaves: where each is decoded to, descriptors in memory from which
//! one copy brings them to the device. Allocated once. Never: more than was allocated; two batches
//! at a time.
//!
//! On the device, for at most `batch` pictures, the first three on the host as well:
//!
//! ```text
//! Picture[batch]  Image[batch]  u32[batch]: survivors   decoded pixels, weights
//! ```

use std::mem::size_of;
use std::ops::Range;

use loaderd_kernels::{Batch, Image, Picture, launch, lay_out};

use super::queue::Held;
use crate::cuda::{Context, DeviceMemory, Pinned, Stream};
use crate::error::GpuError;
use crate::nvjpeg::Destination;

/// Where pixels begin: a multiple of this.
const ALIGNMENT: usize = 256;

pub(super) struct Scratch {
    // What is on the device goes first where both are dropped.
    device: DeviceMemory,
    staging: Pinned,
    /// Most pictures of a batch.
    batch: usize,
    /// Of this batch.
    pictures: Vec<Picture>,
    images: Vec<Image>,
    destinations: Vec<Destination>,
    groups: Vec<Group>,
    seed: u32,
}

/// Images that share an output's type and size.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) batch: Batch,
    /// Which of the images.
    images: Range<usize>,
    /// Where their weights begin.
    pub(super) tables: u64,
}

impl Scratch {
    /// Bytes of the device's memory beside pixels and weights.
    pub(super) fn fixed_bytes(batch: usize) -> usize {
        let each = size_of::<Picture>() + size_of::<Image>() + size_of::<u32>();
        (batch * each).next_multiple_of(ALIGNMENT)
    }

    /// `bytes` of the device's memory, of which [`fixed_bytes`](Self::fixed_bytes) are not for
    /// pixels.
    pub(super) fn new(context: &Context, batch: usize, bytes: usize) -> Result<Scratch, GpuError> {
        Ok(Scratch {
            device: context.allocate(bytes)?,
            staging: context.pinned(Scratch::fixed_bytes(batch))?,
            batch,
            pictures: Vec::with_capacity(batch),
            images: Vec::with_capacity(batch),
            destinations: Vec::with_capacity(batch),
            groups: Vec::with_capacity(batch),
            seed: 0,
        })
    }

    /// Gives each picture its place, and queues the copy of all descriptors to the device.
    ///
    /// # Safety
    ///
    /// All work on the batch before is done, and until `stream` is, nothing but queued work and
    /// this batch's methods make use of this.
    pub(super) unsafe fn place(&mut self, held: &[Held], stream: &Stream) -> Result<(), GpuError> {
        assert!(
            held.len() <= self.batch,
            "more pictures than were asked for"
        );
        self.pictures.clear();
        self.destinations.clear();
        let end = self.device.address() + self.device.bytes() as u64;
        let mut at = self.device.address() + Scratch::fixed_bytes(self.batch) as u64;
        for one in held {
            let (width, height) = one.picture().size;
            // An odd step: the seed of a word comes back after 2^32 pictures.
            self.seed = self.seed.wrapping_add(0x9e37_79b9);
            self.pictures.push(Picture {
                pixels: at,
                pitch: one.pitch,
                width,
                height,
                seed: self.seed,
            });
            self.destinations.push(Destination {
                address: at,
                pitch_bytes: one.pitch as usize,
            });
            at += one.pixel_bytes;
        }
        let tables_end = self.describe(held, at);
        assert!(tables_end <= end, "a batch larger than its memory");

        let (images_at, survivors_at) = (self.images_at(), self.survivors_at());
        let bytes = self.staging.bytes();
        put(bytes, 0, &self.pictures);
        put(bytes, images_at, &self.images);
        bytes[survivors_at..][..held.len() * size_of::<u32>()].fill(0);
        let len = survivors_at + held.len() * size_of::<u32>();
        // SAFETY: the caller says that nothing else looks at either until `stream` is done.
        unsafe { self.device.copy_from(&self.staging, len, stream) }
    }

    /// Lays out the images, group by group, with weights from `tables` on. Says where they end.
    fn describe(&mut self, held: &[Held], mut tables: u64) -> u64 {
        self.images.clear();
        self.groups.clear();
        for (index, one) in held.iter().enumerate() {
            let batch = one.picture().batch;
            if held[..index].iter().any(|it| it.picture().batch == batch) {
                continue;
            }
            let from = self.images.len();
            for (one, picture) in held[index..].iter().zip(&self.pictures[index..]) {
                let described = one.picture();
                if described.batch == batch {
                    let image = (described.placed).image(*picture, described.origin, one.out);
                    self.images.push(image);
                }
            }
            let laid_out = lay_out(&mut self.images[from..], &batch);
            let bytes = laid_out.expect("each was laid out when it was offered");
            self.groups.push(Group {
                batch,
                images: from..self.images.len(),
                tables,
            });
            tables += bytes;
        }
        tables
    }

    fn images_at(&self) -> usize {
        self.batch * size_of::<Picture>()
    }

    fn survivors_at(&self) -> usize {
        self.images_at() + self.batch * size_of::<Image>()
    }

    /// Where each picture is decoded to.
    pub(super) fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// Columns and rows of picture `index`.
    pub(super) fn size(&self, index: usize) -> (u32, u32) {
        let picture = &self.pictures[index];
        (picture.width, picture.height)
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The device's address of picture `index`'s descriptor.
    pub(super) fn picture(&self, index: usize) -> u64 {
        self.device.address() + (index * size_of::<Picture>()) as u64
    }

    /// The device's address of a group's first image, and how many there are.
    pub(super) fn images(&self, group: &Group) -> (u64, u32) {
        let at = self.images_at() + group.images.start * size_of::<Image>();
        (self.device.address() + at as u64, group.images.len() as u32)
    }

    /// The device's address of the first picture's count of survivors.
    pub(super) fn survivors(&self) -> u64 {
        self.device.address() + self.survivors_at() as u64
    }

    /// Queues the copy of the counts to the host.
    ///
    /// # Safety
    ///
    /// As for [`place`](Self::place).
    pub(super) unsafe fn fetch_survivors(&mut self, stream: &Stream) -> Result<(), GpuError> {
        let (from, len) = (self.survivors_at(), self.pictures.len() * size_of::<u32>());
        // SAFETY: as the caller says.
        unsafe { self.device.copy_to(&mut self.staging, from, len, stream) }
    }

    /// Whether more of the poison is left in picture `index` than by chance. The copy must be done.
    pub(super) fn is_left_out(&mut self, index: usize) -> bool {
        let at = self.survivors_at() + index * size_of::<u32>();
        let bytes = &self.staging.bytes()[at..][..size_of::<u32>()];
        let survivors = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
        survivors > launch::survivors_max(&self.pictures[index])
    }
}

/// A descriptor without padding.
trait Plain: Copy {}

impl Plain for Picture {}
impl Plain for Image {}

/// Writes descriptors to `bytes`, from `at` on.
fn put<T: Plain>(bytes: &mut [u8], at: usize, values: &[T]) {
    // SAFETY: the values are alive, and have no padding: their fields' sizes add up to theirs,
    // which `loaderd_kernels` checks.
    let source = unsafe {
        std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), std::mem::size_of_val(values))
    };
    bytes[at..][..source.len()].copy_from_slice(source);
}
