//! The decode workers: one pool for all sessions.
//!
//! Enters: tasks, those that the GPU gave back first. Leaves: pixels in slots, images with the
//! GPU, and what becomes of images that can't be decoded. A worker never waits for anything but
//! its next task, and for room on the GPU where a job decodes there alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, select_biased};
use loaderd_decode as decode;
use loaderd_plan::Draws;
use loaderd_read::Buffer;
use loaderd_wire::message::{FailureKind, OnBadSample};

use super::{Encoded, Rest, Session, Task, copy, named, offer};
use crate::batch::{Batch, Progress, Value};
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
    match task {
        Task::Image {
            session,
            batch,
            row,
            tensor,
            encoded,
        } => decode_image(decoder, limits, &session, &batch, row, tensor, encoded),
        Task::Copy {
            session,
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
        Task::Rest {
            session,
            batch,
            row,
            rest,
        } => match rest {
            Rest::Progress(progress) => session.after(&batch, row, progress),
            Rest::Misfit(mask, cause) => bad_image(&session, &batch, row, mask, &cause),
        },
    }
}

fn decode_image(
    decoder: &mut decode::Decoder,
    limits: &decode::Limits,
    session: &Arc<Session>,
    batch: &Arc<Batch>,
    row: usize,
    tensor: usize,
    encoded: Encoded,
) {
    let job = &session.job;
    if !session.is_current(batch) || batch.failure().is_some() {
        drop(encoded);
        let progress = batch.image_done(row, false);
        session.after(batch, row, progress);
        return;
    }
    let encoded = match encoded {
        Encoded::Named(text) => match named::read(&text, job.source.folder().as_deref()) {
            Ok(bytes) => Encoded::Read(Buffer::from(bytes)),
            Err(cause) => return bad_image(session, batch, row, tensor, &cause),
        },
        encoded => encoded,
    };
    let encoded = match offer::offer(limits, session, batch, row, tensor, encoded) {
        Some(encoded) => encoded,
        None => return,
    };
    let mut misfit = None;
    let frames_ignored = match &job.origins[tensor] {
        Origin::Image { input, pipeline } => {
            let position = batch.rows[row].position;
            let mut draws = Draws::new(job.request.seed, batch.epoch, position, input.number());
            // SAFETY: the slot is FILLING, and this row of this tensor was given to this task
            // alone.
            let place = unsafe { batch.part(row, tensor) };
            let decoded = match encoded.pieced() {
                Some(pieced) => {
                    let (pieces, parts) = (&pieced.pieces, pieced.parts());
                    match decoder.decode_pieces(pipeline, pieces, parts, &mut draws, place) {
                        Some(decoded) => Ok(decoded),
                        None => {
                            let whole = pieced.whole;
                            drop(encoded);
                            return session.read_whole(batch, row, tensor, whole);
                        }
                    }
                }
                None => decoder.decode(pipeline, encoded.bytes(), &mut draws, place),
            };
            decoded.map(|decoded| {
                if let Some(timings) = &session.timings {
                    timings.image(&decoded.stages);
                }
                misfit = decoded
                    .geometry
                    .and_then(|geometry| batch.placed(row, tensor, geometry));
                decoded.frames_ignored
            })
        }
        Origin::PixelMask {
            image,
            pipeline,
            fill,
            ..
        } => {
            let position = batch.rows[row].position;
            let image = job.origins[*image].input().expect("an image is fetched");
            // The image's own draws, so that both are cropped alike.
            let mut draws = Draws::new(job.request.seed, batch.epoch, position, image.number());
            // SAFETY: the slot is FILLING, and this row of this tensor was given to this task
            // alone.
            let place = unsafe { batch.part(row, tensor) };
            let placed = decoder.decode_mask(pipeline, encoded.bytes(), &mut draws, *fill, place);
            placed.map(|geometry| {
                misfit = batch.placed(row, tensor, geometry);
                false
            })
        }
        Origin::Decoded { options, .. } => {
            let image = decoder.decode_full(encoded.bytes(), *options);
            image.map(|image| {
                let frames_ignored = image.frames_ignored;
                batch.keep(&session.memory, row, tensor, Value::Image(image));
                frames_ignored
            })
        }
        _ => unreachable!("image tasks are made for images"),
    };
    match frames_ignored {
        Ok(frames_ignored) => {
            if frames_ignored {
                say_animated(session, batch, row, tensor);
            }
            learn(session, batch, row, tensor, &encoded);
            // The bytes go back before the batch can complete, so that a session that has
            // ended holds no buffer.
            drop(encoded);
            if let Some((mask, cause)) = misfit {
                // It may be the image that came second: the mask is at fault all the same.
                return bad_image(session, batch, row, mask, &cause);
            }
            let progress = batch.image_done(row, false);
            session.after(batch, row, progress);
        }
        Err(error) => {
            drop(encoded);
            bad_image(session, batch, row, tensor, &error.to_string());
        }
    }
}

/// Remembers where the segments of an image lie that is new.
pub(super) fn learn(
    session: &Session,
    batch: &Batch,
    row: usize,
    tensor: usize,
    encoded: &Encoded,
) {
    if let (Encoded::New(bytes, extent), Some(cuts)) = (encoded, session.job.cuts(tensor)) {
        cuts.learn(batch.index(row), extent, bytes);
    }
}

/// Says in the daemon's log, once for each column of a session, that an image has more
/// frames than the one that is delivered.
fn say_animated(session: &Session, batch: &Batch, row: usize, tensor: usize) {
    if session.animated[tensor].swap(true, Ordering::Relaxed) {
        return;
    }
    let source = &session.job.source;
    crate::note(format_args!(
        "loaderd: {}: column {:?} has animated images, such as row address {}: their first \
         frame is delivered, the others are not",
        source.uri(),
        session.job.layout.tensors[tensor].name,
        source.row_address(batch.index(row)),
    ));
}

/// A row without a value: empty where bytes are delivered as they are, else a bad sample.
pub(super) fn null(session: &Session, batch: &Arc<Batch>, row: usize, tensor: usize) {
    if matches!(session.job.origins[tensor], Origin::Raw { .. }) {
        batch.keep(&session.memory, row, tensor, Value::Empty);
        let progress = batch.image_done(row, false);
        session.after(batch, row, progress);
    } else {
        bad_image(session, batch, row, tensor, "the value is null");
    }
}

/// Takes the policy for an image that can't be decoded.
fn bad_image(session: &Session, batch: &Arc<Batch>, row: usize, tensor: usize, cause: &str) {
    let job = &session.job;
    let index = batch.index(row);
    let row_address = job.source.row_address(index);
    let column = &job.layout.tensors[tensor].name;
    match job.request.on_bad_sample {
        OnBadSample::Raise => {
            let place = match (job.origins[tensor].input(), job.source.files()) {
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
                    "column {column:?}, row address {row_address} (row id {}){place}: {cause}; \
                     on_bad_sample=\"replace\" or \"zero\" goes on without it",
                    job.source.row_id(index)
                ),
            ));
        }
        OnBadSample::Zero => {
            if job.layout.tensors[tensor].ragged.is_some() {
                batch.keep(&session.memory, row, tensor, Value::Empty);
            } else {
                // SAFETY: the slot is FILLING, and this image's part is ours.
                unsafe { batch.part(row, tensor) }.fill(0);
            }
            for (other, origin) in job.origins.iter().enumerate() {
                if matches!(origin, Origin::Valid) {
                    // Two images of one row may both be bad, so this byte may be written
                    // by two workers: an atomic store of the same value.
                    // SAFETY: the slot is FILLING, and the feeder has written this byte before
                    // any of the row's images was handed out; a bool is one byte, and AtomicBool has its layout.
                    let place =
                        unsafe { AtomicBool::from_ptr(batch.part(row, other).as_mut_ptr().cast()) };
                    place.store(false, Ordering::Relaxed);
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
    let progress = batch.image_done(row, true);
    session.after(batch, row, progress);
}
