//! Sessions that decode on a GPU, on stand-ins for NVIDIA's libraries: what a batch holds, what
//! the step log says, and that nothing is lost whatever the GPU does.
//!
//! The stand-ins decode with loaderd's own decoder and run the kernels' twin, so that every byte
//! must be the one that CPU cores alone give. No picture here is shrunk by its decoder.

// One builder for both crates.
#[path = "../../gpu/tests/standin/connect.rs"]
#[allow(dead_code, reason = "the unit's own tests use more of it")]
mod connect;
mod node;
#[path = "../../gpu/tests/standin/mod.rs"]
mod standin;

use std::time::{Duration, Instant};

use loaderd_gpu::unit::Settings;
use loaderd_wire::message::FailureKind;
use node::{Node, Photos, request};
use serde_json::json;

/// Pictures of the folder that engines or CUDA cores take.
const FOR_GPU: u64 = 9;

#[test]
fn an_epoch_of_every_kind_is_the_cpu_s_byte_for_byte() {
    let photos = Photos::every_kind();
    let expected = Node::cpu().epoch(&request(&photos, json!({})));
    for (decode, threads) in [("gpu", 1), ("gpu", 3), ("auto", 2)] {
        let node = Node::with("every-kind", &[], threads, Settings::default());
        let found = node.epoch(&request(&photos, json!({"decode": decode})));
        assert_eq!(found, expected, "decode={decode}, {threads} threads");
        let status = node.gpu.status().unwrap();
        assert_eq!(status.refused, 0);
        if decode == "gpu" {
            assert_eq!(status.decoded, FOR_GPU * photos.rounds());
            let by_cpu = node.timings.decode.count();
            assert_eq!(by_cpu, photos.rows() - FOR_GPU * photos.rounds());
        }
    }
}

#[test]
fn bad_images_are_the_cpu_s_to_judge() {
    let photos = Photos::with_damage();
    for policy in ["replace", "zero"] {
        let request = |decode| {
            request(
                &photos,
                json!({"decode": decode, "on_bad_sample": policy, "columns": ["image", "label", "_valid"]}),
            )
        };
        let expected = Node::cpu().epoch(&request("cpu"));
        assert!(expected.bad_rows > 0);
        let node = Node::with("damage", &[], 2, Settings::default());
        assert_eq!(node.epoch(&request("gpu")), expected, "{policy}");
        assert!(node.gpu.status().unwrap().refused > 0);
    }
    let raised = |node: Node, decode| {
        let request = request(&photos, json!({"decode": decode}));
        let failure = node.session(&request).unwrap().failure();
        assert_eq!(failure.kind, FailureKind::BadSample);
        failure.message
    };
    let expected = raised(Node::cpu(), "cpu");
    let node = Node::with("damage-raised", &[], 2, Settings::default());
    assert_eq!(raised(node, "gpu"), expected);
}

#[test]
fn boxes_and_masks_follow_images_from_the_gpu() {
    let photos = Photos::with_masks();
    let follow = |decode| {
        let changes = json!({
            "decode": decode, "on_bad_sample": "zero", "columns": ["image", "mask", "boxes", "_valid"],
            "transform": {
                // A part so small that no decoder shrinks it.
                "image": [
                    {"name": "RandomResizedCrop", "size": [48, 52], "scale": [0.003, 0.01],
                     "ratio": [0.75, 1.3], "interpolation": "bilinear"},
                    {"name": "RandomHorizontalFlip", "p": 0.5},
                ],
                "mask": [{"name": "Mask", "follows": "image", "fill": 7}],
                "boxes": [{"name": "BoundingBoxes", "follows": "image"}],
            },
        });
        request(&photos, changes)
    };
    let expected = Node::cpu().epoch(&follow("cpu"));
    let node = Node::with("masks", &[], 2, Settings::default());
    assert_eq!(node.epoch(&follow("gpu")), expected);
    // The mask of one picture is not its size.
    assert_eq!(u64::from(expected.bad_rows), photos.rounds());
    assert_eq!(node.timings.gpu.count(), photos.rows());
}

#[test]
fn good_images_that_nvjpeg_does_not_decode_are_decoded_all_the_same() {
    let photos = Photos::that_fail();
    let expected = Node::cpu().epoch(&request(&photos, json!({})));
    let node = Node::with("fail", &[], 2, Settings::default());
    assert_eq!(
        node.epoch(&request(&photos, json!({"decode": "gpu"}))),
        expected
    );
    let status = node.gpu.status().unwrap();
    assert_eq!(status.refused, 2 * photos.rounds());
    assert_eq!(status.decoded, 7 * photos.rounds());
}

#[test]
fn a_gpu_that_fails_costs_no_batch() {
    let photos = Photos::every_kind();
    let expected = Node::cpu().epoch(&request(&photos, json!({})));
    for decode in ["gpu", "auto"] {
        let node = Node::with("dies", &["SLOW=300"], 2, Settings::default());
        let session = node
            .session(&request(&photos, json!({"decode": decode})))
            .unwrap();
        let found = session.epoch_with(|batches| {
            if batches == 3 {
                node.break_gpu();
            }
        });
        assert_eq!(found, expected, "{decode}");
        assert!(node.timings.gpu.count() > 0, "it lived");
        let status = node.gpu.status().unwrap();
        assert!(
            status.found.starts_with("the GPU has failed: "),
            "{}",
            status.found
        );
        // And those that come later know.
        let later = node
            .session(&request(&photos, json!({"run": "b"})))
            .unwrap();
        assert!(later.job.decoder.name.starts_with("libjpeg-turbo"));
        assert_eq!(later.epoch(), expected);
        let refused = node.refused(&request(&photos, json!({"run": "c", "decode": "gpu"})));
        assert!(refused.contains("start the daemon anew"), "{refused}");
    }
}

/// The batch that the device has is lost with it, and nothing else.
#[test]
fn a_gpu_that_does_not_answer_keeps_no_session_from_ending() {
    let photos = Photos::every_kind();
    let expected = Node::cpu().epoch(&request(&photos, json!({})));
    let hasty = Settings {
        silence: Duration::from_millis(300),
        ..Settings::default()
    };
    let node = Node::with("silent", &[], 2, hasty);
    let hung = node
        .session(&request(&photos, json!({"decode": "gpu"})))
        .unwrap();
    node.hang_gpu(true);
    hung.start();
    std::thread::sleep(Duration::from_secs(1));
    drop(hung);
    let later = node
        .session(&request(&photos, json!({"run": "b"})))
        .unwrap();
    assert_eq!(later.epoch(), expected);
    let status = node.gpu.status().unwrap().found;
    assert!(status.contains("the device does not answer"), "{status}");
    // Neither does it keep the daemon.
    drop(later);
    drop(node);
}

/// The client of a batch that never comes is told, those of other batches have them, and slots that
/// the device may write to are nobody else's.
#[test]
fn who_waits_for_a_silent_gpu_is_told() {
    let photos = Photos::every_kind();
    let expected = Node::cpu().epoch(&request(&photos, json!({})));
    let hasty = Settings {
        silence: Duration::from_millis(300),
        ..Settings::default()
    };
    let node = Node::with("told", &[], 2, hasty);
    let hung = node
        .session(&request(&photos, json!({"decode": "auto"})))
        .unwrap();
    let on_cpu = node
        .session(&request(&photos, json!({"decode": "cpu", "run": "b"})))
        .unwrap();
    node.hang_gpu(true);
    // Nobody offers anything any more when all slots are taken: the session asks by itself.
    let told = hung.failure();
    assert_eq!((told.kind, told.stream), (FailureKind::Gpu, None));
    for words in [
        "of this session's images",
        "a batch has no end after",
        "iterate again",
        "`nvidia-smi`",
        "`loaderd stop`",
    ] {
        assert!(told.message.contains(words), "{}", told.message);
    }
    let [_, filling, ready, leased] = hung.slots();
    assert!(filling > 0 && ready == 0 && leased == 0);
    assert_eq!(on_cpu.epoch(), expected);
    let later = node
        .session(&request(&photos, json!({"run": "c"})))
        .unwrap();
    assert_eq!(later.epoch(), expected);
    // So does a rank that joins a job from before, and it does not wait for the device.
    let registered = node.registered();
    let joined = node.rank(hung.job.clone()).unwrap();
    assert_eq!(node.registered(), registered);
    assert_eq!(joined.epoch(), expected);
    assert_eq!(hung.slots()[1], filling, "they stay the device's");
    // Once it answers they come free, and nothing is amiss.
    node.hang_gpu(false);
    let before = Instant::now();
    while hung.slots()[1] > 0 {
        assert!(
            before.elapsed() < Duration::from_secs(20),
            "{:?}",
            hung.slots()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(hung.epoch(), expected);
}

#[test]
fn a_session_may_end_with_pictures_on_their_way() {
    let photos = Photos::every_kind();
    let node = Node::with("ends", &["SLOW=500"], 2, Settings::default());
    let expected = Node::cpu().epoch(&request(&photos, json!({})));
    for round in 0..20 {
        let session = node
            .session(&request(
                &photos,
                json!({"decode": "gpu", "run": format!("{round}")}),
            ))
            .unwrap();
        session.start();
        std::thread::sleep(Duration::from_millis(round));
        drop(session);
    }
    assert_eq!(
        node.epoch(&request(&photos, json!({"decode": "gpu"}))),
        expected
    );
    // A stream that is begun anew drops the batches on their way, and not their slots.
    let session = node
        .session(&request(&photos, json!({"decode": "gpu", "run": "again"})))
        .unwrap();
    session.start();
    assert_eq!(session.epoch(), expected);
}

#[test]
fn what_has_no_room_is_decoded_on_cpu_cores() {
    let photos = Photos::every_kind();
    let expected = Node::cpu().epoch(&request(&photos, json!({})));
    let narrow = Settings {
        engine_batch: Some(1),
        engine_batches: 1,
        cuda_batch: 1,
        cuda_batches: 1,
        queued_batches: 1,
        ..Settings::default()
    };
    let node = Node::with("narrow", &["SLOW=5000"], 2, narrow);
    assert_eq!(
        node.epoch(&request(&photos, json!({"decode": "auto"}))),
        expected
    );
    let (on_gpu, on_cpu) = (node.timings.gpu.count(), node.timings.decode.count());
    assert!(on_gpu > 0, "some are for the GPU");
    assert!(
        on_cpu > photos.rows() - FOR_GPU * photos.rounds(),
        "and not all of them"
    );
    assert_eq!(on_gpu + on_cpu, photos.rows());
}

/// Left to it, a GPU that takes longer than all of the slots last would hold up every batch.
#[test]
fn a_slow_gpu_does_not_hold_up_who_may_do_without_it() {
    let photos = Photos::every_kind();
    let expected = Node::cpu().epoch(&request(&photos, json!({})));
    // Of a batch's work, some ten pieces come one after the other.
    let node = Node::with("slow", &["SLOW=50000"], 2, Settings::default());
    let session = node
        .session(&request(&photos, json!({"decode": "auto"})))
        .unwrap();
    // Until each thread of both lanes has been measured, it is given what it has room for.
    for _ in 0..3 {
        assert_eq!(session.epoch(), expected);
    }
    let before = node.timings.gpu.count();
    assert!(before > 0);
    for _ in 0..3 {
        assert_eq!(session.epoch(), expected);
    }
    let taken = node.timings.gpu.count() - before;
    let for_gpu = 3 * FOR_GPU * photos.rounds();
    assert!(taken < for_gpu / 4, "{taken} of {for_gpu}");
    // Who asks for the GPU alone gets it all the same.
    drop(session);
    let patient = request(&photos, json!({"decode": "gpu", "run": "b"}));
    let before = node.timings.gpu.count();
    assert_eq!(node.epoch(&patient), expected);
    assert_eq!(node.timings.gpu.count() - before, FOR_GPU * photos.rounds());
}

#[test]
fn the_step_log_knows_the_decoder_and_its_change() {
    let photos = Photos::every_kind();
    let node = Node::with("logged", &[], 2, Settings::default());
    let wanted = |decode| request(&photos, json!({"decode": decode, "run": "one"}));
    let first = node.session(&wanted("cpu")).unwrap();
    assert_eq!(first.job.key.attempt, 0);
    drop(first);
    let second = node.session(&wanted("gpu")).unwrap();
    let decoder = &second.job.decoder;
    assert_eq!(second.job.key.attempt, 1);
    assert!(
        decoder
            .name
            .starts_with("nvJPEG 13.1.2 on JPEG engines and CUDA cores of Stand-in 0 (")
    );
    assert!(decoder.name.contains("; libjpeg-turbo "));
    assert!(decoder.notices[0].starts_with("decoding with nvJPEG 13.1.2 on "));
    let [warning] = decoder.warnings.as_slice() else {
        panic!("{:?}", decoder.warnings);
    };
    assert!(
        warning.starts_with("the run goes on with another decoder"),
        "{warning}"
    );
    drop(second);
    let third = node.session(&wanted("gpu")).unwrap();
    assert_eq!(
        (third.job.key.attempt, third.job.decoder.warnings.len()),
        (1, 0)
    );
}

#[test]
fn a_daemon_of_cpu_cores_asks_no_driver() {
    let photos = Photos::every_kind();
    let node = Node::cpu();
    let refused = node.refused(&request(&photos, json!({"decode": "gpu"})));
    assert!(refused.contains("--decode cpu"), "{refused}");
    assert_eq!(node.gpu.status(), None);
}
