//! The decode workers: one pool for all sessions.
//!
//! Enters: tasks, those that the GPU gave back first. Leaves: pixels in slots, images with the
//! GPU, and what becomes of images that can't be decoded. A worker never waits for anything but
//! its next task, and for room on the GPU where a job decodes there alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, select_biased};
use loaderd_decode as decode;
use loaderd_read::Buffer;
use loaderd_wire::message::{FailureKind, OnBadSample};

use super::named::{self, Unread};
use super::{Encoded, Rest, Session, Task, Work, copy, offer};
use crate::batch::{Place, Progress, Value};
use crate::job::{Input, Origin, failure};
use crate::source::Payload;
use crate::steplog::BadRow;

/// Decoding gives way to a training process that wants a core: it is better to wake the
/// trainer at once than to have the next batch a little earlier.
const NICE: i32 = 5;

/// Works until `inbox` closes, and `first` is empty.
pub(super) fn work(first: &Receiver<Task>, inbox: &Receiver<Task>, limits: decode::Limits) {
    // On Linux a nice value belongs to a thread, and 0 means the calling one. Where that is
    // refused, decoding competes on equal terms.
    let _ = rustix::process::setpriority_process(None, NICE);
    let mut decoder = decode::Decoder::new(limits);
    loop {
        let task = select_biased! {
            recv(first) -> task => task,
            recv(inbox) -> task => task,
        };
        let Ok(task) = task else { break };
        run(task, &mut decoder, &limits);
    }
    for task in first.try_iter() {
        run(task, &mut decoder, &limits);
    }
}

fn run(task: Task, decoder: &mut decode::Decoder, limits: &decode::Limits) {
    let Task { session, work } = task;
    match work {
        Work::Decode(images) => {
            for (place, encoded) in images {
                decode_image(decoder, limits, &session, place, encoded);
            }
        }
        Work::Copy {
            batch,
            tensor,
            column,
            rows,
        } => {
            for row in rows {
                if let Some(value) = session.job.source.fixed(column, batch.index(row)) {
                    // SAFETY: the slot is FILLING, and these rows of this tensor were
                    // given to this task alone.
                    copy::past_cache(unsafe { batch.part(row, tensor) }, value);
                }
            }
            if batch.row_done() == Progress::Complete {
                session.complete(&batch);
            }
        }
        Work::Finish(place, Rest::Progress(progress)) => {
            session.after(&place.batch, place.row, progress);
        }
        Work::Finish(place, Rest::Misfit(tensor, cause)) => {
            bad_image(&session, &Place { tensor, ..place }, &cause);
        }
    }
}

fn decode_image(
    decoder: &mut decode::Decoder,
    limits: &decode::Limits,
    session: &Arc<Session>,
    place: Place,
    encoded: Encoded,
) {
    let job = &session.job;
    if !session.is_current(&place.batch) || place.batch.failure().is_some() {
        drop(encoded);
        return session.image_done(&place, false);
    }
    let encoded = match encoded {
        Encoded::Named(text) => match named::read(&text, job.source.folder().as_deref()) {
            Ok(bytes) => Encoded::Read(Buffer::from(bytes)),
            Err(Unread::Sample(cause)) => return bad_image(session, &place, &cause),
            Err(Unread::Io(cause)) => {
                let address = job.source.row_address(place.index());
                let text = format!("row address {address}: {cause}");
                place.batch.fail(failure(FailureKind::Io, text));
                return session.image_done(&place, false);
            }
        },
        encoded => encoded,
    };
    let encoded = match offer::offer(limits, session, &place, encoded) {
        Some(encoded) => encoded,
        None => return,
    };
    let mut misfit = None;
    let frames_ignored = match place.origin() {
        Origin::Image { input, pipeline } => {
            let mut draws = place.draws(*input);
            // SAFETY: the slot is FILLING, and this place was given to this task alone.
            let out = unsafe { place.bytes() };
            let begun = session
                .on_gpu
                .as_ref()
                .map(|on_gpu| (on_gpu, Instant::now()));
            let decoded = match encoded.pieced() {
                Some(pieced) => {
                    let (pieces, parts) = (&pieced.pieces, pieced.parts());
                    match decoder.decode_pieces(pipeline, pieces, parts, &mut draws, out) {
                        Some(decoded) => Ok(decoded),
                        None => {
                            let whole = pieced.whole;
                            drop(encoded);
                            return session.read_whole(place, whole);
                        }
                    }
                }
                None => decoder.decode(pipeline, encoded.bytes(), &mut draws, out),
            };
            decoded.map(|decoded| {
                if let Some((on_gpu, begun)) = begun {
                    on_gpu.decoded_on_cpu(begun.elapsed());
                }
                if let Some(timings) = &session.timings {
                    timings.image(&decoded.stages);
                }
                misfit = decoded.geometry.and_then(|geometry| place.placed(geometry));
                decoded.frames_ignored
            })
        }
        Origin::PixelMask {
            image,
            pipeline,
            fill,
            ..
        } => {
            let image = job.origins[*image].input().expect("an image is fetched");
            // The image's own draws, so that both are cropped alike.
            let mut draws = place.draws(image);
            // SAFETY: as above.
            let out = unsafe { place.bytes() };
            let placed = decoder.decode_mask(pipeline, encoded.bytes(), &mut draws, *fill, out);
            placed.map(|geometry| {
                misfit = place.placed(geometry);
                false
            })
        }
        Origin::Decoded { options, .. } => {
            let image = decoder.decode_full(encoded.bytes(), *options);
            image.map(|image| {
                let frames_ignored = image.frames_ignored;
                place.keep(&session.memory, Value::Image(image));
                frames_ignored
            })
        }
        _ => unreachable!("image tasks are made for images"),
    };
    match frames_ignored {
        Ok(frames_ignored) => {
            if frames_ignored {
                say_animated(session, &place);
            }
            learn(session, &place, &encoded);
            // The bytes go back before the batch can complete, so that a session that has
            // ended holds no buffer.
            drop(encoded);
            if let Some((tensor, cause)) = misfit {
                // It may be the image that came second: the mask is at fault all the same.
                return bad_image(session, &Place { tensor, ..place }, &cause);
            }
            session.image_done(&place, false);
        }
        Err(error) => {
            drop(encoded);
            bad_image(session, &place, &error.to_string());
        }
    }
}

/// Remembers where the segments of an image lie that is new.
pub(super) fn learn(session: &Session, place: &Place, encoded: &Encoded) {
    if let (Encoded::New(bytes, extent), Some(cuts)) = (encoded, session.job.cuts(place.tensor)) {
        cuts.learn(place.index(), extent, bytes);
    }
}

/// Says in the daemon's log, once for each column of a session, that an image has more
/// frames than the one that is delivered.
fn say_animated(session: &Session, place: &Place) {
    if session.animated[place.tensor].swap(true, Ordering::Relaxed) {
        return;
    }
    let source = &session.job.source;
    crate::note(format_args!(
        "loaderd: {}: column {:?} has animated images, such as row address {}: their first \
         frame is delivered, the others are not",
        source.uri(),
        session.job.layout.tensors[place.tensor].name,
        source.row_address(place.index()),
    ));
}

/// A row without a value: empty where bytes are delivered as they are, else a bad sample.
pub(super) fn null(session: &Session, place: &Place) {
    if matches!(place.origin(), Origin::Raw { .. }) {
        place.keep(&session.memory, Value::Empty);
        session.image_done(place, false);
    } else {
        bad_image(session, place, "the value is null");
    }
}

/// Takes the policy for an image that can't be decoded.
fn bad_image(session: &Session, place: &Place, cause: &str) {
    let job = &session.job;
    let (batch, row, index) = (&place.batch, place.row, place.index());
    let row_address = job.source.row_address(index);
    let column = &job.layout.tensors[place.tensor].name;
    match job.request.on_bad_sample {
        OnBadSample::Raise => {
            let whence = match (place.origin().input(), job.source.files()) {
                (Some(Input::Bytes(column)), Some(files)) => {
                    match job.source.payload(column, index) {
                        Payload::Extent(extent) => format!(
                            ", in {} at byte {} ({} bytes long)",
                            files.path(extent.file).display(),
                            extent.offset,
                            extent.length
                        ),
                        _ => String::new(),
                    }
                }
                _ => String::new(),
            };
            batch.fail(failure(
                FailureKind::BadSample,
                format!(
                    "column {column:?}, row address {row_address} (row id {}){whence}: {cause}; \
                     on_bad_sample=\"replace\" or \"zero\" goes on without it",
                    job.source.row_id(index)
                ),
            ));
        }
        OnBadSample::Zero => {
            if job.layout.tensors[place.tensor].ragged.is_some() {
                place.keep(&session.memory, Value::Empty);
            } else {
                // SAFETY: the slot is FILLING, and this image's place is ours.
                unsafe { place.bytes() }.fill(0);
            }
            for (other, origin) in job.origins.iter().enumerate() {
                if matches!(origin, Origin::Valid) {
                    // Two images of one row may both be bad, so this byte may be written
                    // by two workers: an atomic store of the same value.
                    // SAFETY: the slot is FILLING, and the feeder has written this byte before
                    // any of the row's images was handed out; a bool is one byte, and AtomicBool has its layout.
                    let valid =
                        unsafe { AtomicBool::from_ptr(batch.part(row, other).as_mut_ptr().cast()) };
                    valid.store(false, Ordering::Relaxed);
                }
            }
            batch.note_bad(BadRow {
                position: batch.rows[row].position,
                row_address,
                replaced_by: None,
                cause: format!("{column}: {cause}"),
            });
        }
        OnBadSample::Replace => {
            let (_, next) = batch.successor(row);
            batch.note_bad(BadRow {
                position: batch.rows[row].position,
                row_address,
                replaced_by: Some(job.source.row_address(next)),
                cause: format!("{column}: {cause}"),
            });
        }
    }
    session.image_done(place, true);
}
