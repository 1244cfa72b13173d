//! The reads that bring a value, and what they bring together.
//!
//! Enters: an image's extent, and what is known of its segments; later what became of each read.
//! Leaves: one or two [`Part`]s, the encoded image or the parts that its crop takes, for the workers;
//! each image's part of a batch comes to its end once, whatever its reads did. It submits none.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use loaderd_decode::cut::Pieces;
use loaderd_read::{Buffer, Extent};
use loaderd_wire::message::Failure;

use super::Feeder;
use crate::batch::Place;
use crate::engine::{Encoded, Pieced};
use crate::job::Origin;

/// Header and crop of an image are one read where no more bytes than this lie between them: on
/// most disks, another request costs more.
const GAP_BYTES_MAX: u32 = 16 << 10;

/// A read that waits or is under way.
pub(super) struct Part {
    pub(super) place: Place,
    pub(super) extent: Extent,
    of: Of,
    /// When it was asked for, where that is timed.
    pub(super) asked: Option<Instant>,
}

impl Part {
    /// Reads an image with nothing left out.
    pub(super) fn whole(place: Place, extent: Extent) -> Part {
        Part {
            place,
            extent,
            of: Of::All,
            asked: None,
        }
    }
}

/// What a read brings.
pub(super) enum Of {
    /// The whole value.
    All,
    /// The same, of an image whose segments are not known.
    New,
    /// Header and crop of an image, which as a whole lies there.
    Crop(Pieces, Extent),
    /// One of them.
    Half(Half, Rc<Joint>),
}

#[derive(Clone, Copy)]
pub(super) enum Half {
    Head,
    Body,
}

/// Header and crop of an image, read by themselves.
pub(super) struct Joint {
    pieces: Pieces,
    /// Where the whole image lies.
    whole: Extent,
    /// The half that came first.
    first: Cell<Option<Got>>,
}

/// What became of a read.
pub(super) enum Got {
    Bytes(Buffer),
    /// It is not wanted any more.
    Dropped,
    Failed(Failure),
}

impl Of {
    /// What a read brings, and with it the one that came before; none while the other half of an
    /// image is still to come. A failure without a text: it is not wanted any more.
    fn got(self, extent: Extent, got: Got) -> Option<Result<Encoded, Option<Failure>>> {
        Some(match (self, got) {
            (Of::Half(half, joint), got) => {
                let Some(first) = joint.first.take() else {
                    // The other half is still to come. Meanwhile a header holds none of the
                    // reader's memory, so that bodies never wait for it behind their own.
                    joint.first.set(Some(match (half, got) {
                        (Half::Head, Got::Bytes(head)) => Got::Bytes(Buffer::from(head.to_vec())),
                        (_, got) => got,
                    }));
                    return None;
                };
                match (first, got) {
                    (Got::Bytes(first), Got::Bytes(second)) => {
                        let (head, body) = match half {
                            Half::Head => (second, first),
                            Half::Body => (first, second),
                        };
                        Ok(Encoded::Pieces(Box::new(Pieced {
                            pieces: joint.pieces,
                            whole: joint.whole,
                            head: Some(head),
                            body,
                        })))
                    }
                    (Got::Failed(failed), _) | (_, Got::Failed(failed)) => Err(Some(failed)),
                    (Got::Dropped, _) | (_, Got::Dropped) => Err(None),
                }
            }
            (_, Got::Dropped) => Err(None),
            (_, Got::Failed(failed)) => Err(Some(failed)),
            (Of::All, Got::Bytes(buffer)) => Ok(Encoded::Read(buffer)),
            (Of::New, Got::Bytes(buffer)) => Ok(Encoded::New(buffer, extent)),
            (Of::Crop(pieces, whole), Got::Bytes(body)) => Ok(Encoded::Pieces(Box::new(Pieced {
                pieces,
                whole,
                head: None,
                body,
            }))),
        })
    }
}

impl Feeder {
    /// The reads that bring a value, in the order in which they are to be asked for: of an image
    /// whose segments are known, what its crop takes.
    pub(super) fn ask(&self, place: &Place, extent: Extent, mut put: impl FnMut(Part)) {
        let part = |extent, of| Part {
            place: place.clone(),
            extent,
            of,
            asked: None,
        };
        let cuts = self.session.job.cuts(place.tensor);
        let (Some(cuts), Origin::Image { input, pipeline }) = (cuts, place.origin()) else {
            return put(part(extent, Of::All));
        };
        let Some(index) = cuts.find(place.index(), &extent) else {
            let of = if cuts.learns() { Of::New } else { Of::All };
            return put(part(extent, of));
        };
        let pieces = index.pieces(pipeline, &mut place.draws(*input));
        let Some(pieces) = pieces.filter(|pieces| pieces.body().end <= extent.length) else {
            return put(part(extent, Of::All));
        };
        let (head, body) = (pieces.head(), pieces.body());
        let within = |from: u32, to: u32| Extent {
            offset: extent.offset + u64::from(from),
            length: to - from,
            file: extent.file,
        };
        if body.start - head.end <= GAP_BYTES_MAX {
            return put(part(within(0, body.end), Of::Crop(pieces, extent)));
        }
        let joint = Rc::new(Joint {
            pieces,
            whole: extent,
            first: Cell::new(None),
        });
        put(part(
            within(0, head.end),
            Of::Half(Half::Head, joint.clone()),
        ));
        put(part(
            within(body.start, body.end),
            Of::Half(Half::Body, joint),
        ));
    }

    /// A read has come to its end.
    pub(super) fn settle(&self, part: Part, got: Got) {
        let Part {
            place, extent, of, ..
        } = part;
        let Some(encoded) = of.got(extent, got) else {
            return;
        };
        match encoded {
            Ok(encoded) => self.hand_on(place, encoded),
            Err(failed) => {
                if let Some(failed) = failed {
                    place.batch.fail(failed);
                }
                self.session.image_done(&place, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::failure;
    use loaderd_decode::cut::Index;
    use loaderd_decode::encode::Encoder;
    use loaderd_decode::{Limits, Options, Pipeline, tile};
    use loaderd_plan::Draws;
    use loaderd_wire::message::FailureKind;

    fn pieces() -> Pieces {
        let pixels: Vec<u8> = (0..600 * 400 * 3u32)
            .map(|n| (n ^ (n >> 7)) as u8)
            .collect();
        let plain = Encoder::default().encode(&pixels, 600, 400).unwrap();
        let tiled = tile::tile(&plain, &Limits::default()).unwrap().jpeg;
        let list = serde_json::json!([
            {"name": "RandomResizedCrop", "size": [32, 32], "scale": [0.02, 0.05]},
        ]);
        let pipeline = Pipeline::parse(&list, Options::default()).unwrap();
        let index = Index::of(&tiled).unwrap();
        let mut draws = Draws::new(1, 0, 0, 0);
        index.pieces(&pipeline, &mut draws).unwrap()
    }

    const WHOLE: Extent = Extent {
        offset: 7,
        length: 9000,
        file: 1,
    };

    /// The two halves of an image, in this order; what the second brings.
    fn both(first: (Half, Got), second: (Half, Got)) -> Result<Encoded, Option<Failure>> {
        let extent = Extent {
            offset: 0,
            length: 0,
            file: 0,
        };
        let joint = Rc::new(Joint {
            pieces: pieces(),
            whole: WHOLE,
            first: Cell::new(None),
        });
        let half = |half| Of::Half(half, joint.clone());
        assert!(
            half(first.0).got(extent, first.1).is_none(),
            "half an image"
        );
        let got = half(second.0).got(extent, second.1);
        got.expect("both halves are there")
    }

    fn bytes(text: &str) -> Got {
        Got::Bytes(Buffer::from(text.as_bytes().to_vec()))
    }

    #[test]
    fn halves_are_put_together_in_either_order() {
        let orders = [
            both((Half::Head, bytes("head")), (Half::Body, bytes("body"))),
            both((Half::Body, bytes("body")), (Half::Head, bytes("head"))),
        ];
        for got in orders {
            let Ok(Encoded::Pieces(pieced)) = got else {
                panic!("no pieces");
            };
            assert_eq!(pieced.parts(), (&b"head"[..], &b"body"[..]));
            assert_eq!(pieced.whole, WHOLE);
        }
    }

    /// A part of a batch that is counted twice, or never, would lose the batch.
    #[test]
    fn a_lost_half_loses_the_image_once() {
        let failed = || Got::Failed(failure(FailureKind::Io, "lost"));
        let text = |got: Result<Encoded, Option<Failure>>| {
            let Err(why) = got else { panic!("an image") };
            why.map(|why| why.message)
        };
        let lost = Some("lost".to_owned());
        for (one, other) in [(Half::Head, Half::Body), (Half::Body, Half::Head)] {
            assert_eq!(text(both((one, failed()), (other, bytes("x")))), lost);
            assert_eq!(text(both((one, bytes("x")), (other, failed()))), lost);
            assert_eq!(text(both((one, Got::Dropped), (other, failed()))), lost);
            assert_eq!(text(both((one, failed()), (other, Got::Dropped))), lost);
            assert_eq!(text(both((one, Got::Dropped), (other, bytes("x")))), None);
            assert_eq!(text(both((one, bytes("x")), (other, Got::Dropped))), None);
        }
    }
}
