//! JPEGs → pictures for the decode unit, as the daemon's workers make them.
//!
//! Enters: an encoded image, its draws, a place in registered memory. Leaves: a picture, cut to
//! what its crop needs where it is tiled; or that it is one for the CPU. Never: a wait, a pixel.

use std::ptr::NonNull;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use loaderd_decode::cut::Cuttable;
use loaderd_decode::{Limits, Options, Pipeline, Placed, probe};
use loaderd_gpu::Places;
use loaderd_gpu::routing::{Abilities, Route, route};
use loaderd_gpu::unit::{Outcome, Picture, Registered, Settings, Unit};
use loaderd_plan::Draws;
use loaderd_wire::layout::SLOT_ALIGN;
use loaderd_wire::segment::Segment;
use serde_json::json;

use crate::device::mended;

/// The side of a finished image, in pixels.
const SIDE: u32 = 224;

/// A unit with places for finished images in shared memory. Fields are dropped in this order: the
/// unit before the registration, and that before the memory.
pub(crate) struct Ground {
    pub(crate) unit: Unit,
    _registered: Registered,
    pub(crate) segment: Segment,
}

impl Ground {
    /// Starts a unit, and registers `count` places of `bytes` bytes.
    ///
    /// # Errors
    /// Where there is no GPU for it, or memory is short.
    pub(crate) fn new(
        places: &Places,
        settings: &Settings,
        bytes: u64,
        count: u32,
    ) -> Result<Ground> {
        let unit = Unit::start(places, settings).map_err(mended)?;
        let slot = bytes.next_multiple_of(SLOT_ALIGN);
        let segment = Segment::create(slot, count)?;
        let start = NonNull::new(segment.slot_ptr(0)).context("a segment is mapped")?;
        let all = usize::try_from(slot * u64::from(count))?;
        // SAFETY: the segment is mapped until it is dropped, which is after the registration.
        let registered = unsafe { unit.register(start, all) }.map_err(mended)?;
        Ok(Ground {
            unit,
            _registered: registered,
            segment,
        })
    }

    /// Where image number `place` goes.
    pub(crate) fn out(&self, place: u32) -> NonNull<u8> {
        NonNull::new(self.segment.slot_ptr(place)).expect("a segment is mapped")
    }
}

/// RandomResizedCrop(224) and a flip; normalised to float16, or left as u8.
///
/// # Errors
/// None that is known.
pub(crate) fn pipeline(is_normalised: bool) -> Result<Pipeline> {
    let mut list = vec![
        json!({"name": "RandomResizedCrop", "size": [SIDE, SIDE]}),
        json!({"name": "RandomHorizontalFlip"}),
    ];
    if is_normalised {
        list.push(json!({
            "name": "Normalize",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "dtype": "float16",
        }));
    }
    let options = Options {
        exif_orientation: true,
        ..Options::default()
    };
    Ok(Pipeline::parse(&list.into(), options)?)
}

/// The draws of row `position`.
pub(crate) fn draws(position: u64) -> Draws {
    Draws::new(7, 0, position, 0)
}

/// Bytes that others have as well.
pub(crate) struct Shared(pub(crate) Arc<[u8]>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A picture without a place.
pub(crate) struct Planned {
    encoded: Box<dyn AsRef<[u8]> + Send>,
    pub(crate) route: Route,
    size: (u32, u32),
    origin: (u32, u32),
    placed: Placed,
}

impl Planned {
    /// None where the image is one for the CPU.
    ///
    /// # Errors
    /// Where the header can't be read.
    pub(crate) fn of(
        jpeg: &Arc<[u8]>,
        pipeline: &Pipeline,
        abilities: &Abilities,
        position: u64,
    ) -> Result<Option<Planned>> {
        let whole = route(jpeg, abilities).route;
        let header = probe(jpeg)?;
        let limits = Limits::default();
        let placed = Placed::draw(pipeline, &header, &limits, &mut draws(position))?;
        let Some(region) = placed.region().filter(|_| whole != Route::Cpu) else {
            return Ok(None);
        };
        let cut = Cuttable::of(jpeg).and_then(|cuttable| {
            let window = cuttable.window(&region, 8);
            let mut cut = Vec::with_capacity(jpeg.len());
            // Half of the pixels or a tenth less: the upload and the engines see all of them.
            let is_less =
                u64::from(window.width) * u64::from(window.height) * 10 <= header.pixels() * 9;
            cuttable.cut(&window, &mut cut).filter(|()| is_less)?;
            let origin = (
                region.left - window.region.left,
                region.top - window.region.top,
            );
            Some((cut, (window.width, window.height), origin))
        });
        Ok(Some(match cut {
            Some((cut, size, origin)) if route(&cut, abilities).route != Route::Cpu => Planned {
                route: route(&cut, abilities).route,
                encoded: Box::new(cut),
                size,
                origin,
                placed,
            },
            _ => Planned {
                encoded: Box::new(Shared(jpeg.clone())),
                route: whole,
                size: (header.width, header.height),
                origin: (0, 0),
                placed,
            },
        }))
    }

    /// With a place, and what is to be done in the end.
    pub(crate) fn at(
        self,
        pipeline: &Pipeline,
        out: NonNull<u8>,
        done: Box<dyn FnOnce(Outcome) + Send>,
    ) -> Result<Picture> {
        let batch = pipeline
            .device_batch()
            .ok_or_else(|| anyhow!("a list for CPU cores"))?;
        Ok(Picture {
            encoded: self.encoded,
            route: self.route,
            size: self.size,
            placed: self.placed,
            origin: self.origin,
            batch,
            out,
            done,
        })
    }
}
