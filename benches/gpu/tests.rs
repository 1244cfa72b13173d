//! Each question, asked of stand-ins that decode with the CPU's decoder: what is right on them
//! differs from the CPU by nothing, and what they are told to do wrong is found.

use std::path::Path;
use std::time::Duration;

use loaderd_gpu::unit::Settings;
use serde_json::Value;

use crate::connect::{Fault, Standins};
use crate::device::{Gpu, Lane};
use crate::photos::{DAMAGED, KINDS, Photo, Photos, make};
use crate::{ceiling, finished, kinds, order, pixels, skips, strict, unit};

const BRIEF: Duration = Duration::from_millis(200);

/// The check's pictures, of drawn ones.
fn pictures(root: &Path) {
    let images = root.join("images");
    std::fs::create_dir(&images).unwrap();
    let base = kinds::drawn();
    for quality in [70, 85] {
        let encoder = loaderd_decode::encode::Encoder {
            quality,
            ..Default::default()
        };
        let jpeg = encoder.encode(&base.rgb, base.width, base.height).unwrap();
        std::fs::write(images.join(format!("{quality}.jpg")), jpeg).unwrap();
    }
    make(&images, root, 2, 1 << 30).unwrap();
}

fn small() -> Settings {
    Settings {
        memory: 64 << 20,
        engine_batch: Some(4),
        engine_batches: 2,
        progressive: true,
        ..Settings::default()
    }
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn rates_are_of_whole_photos() {
    let root = tempfile::tempdir().unwrap();
    pictures(root.path());
    let standins = Standins::build("rates", &[]);
    let gpu = Gpu::open(&standins.places()).unwrap();
    let photos = Photos::read(&root.path().join("photos")).unwrap();
    for lane in [Lane::Hardware, Lane::Cuda, Lane::Phases] {
        let way = ceiling::Way {
            lane,
            batch: 3,
            states: 2,
            is_plain: false,
            has_one_handle: lane != Lane::Hardware,
            is_pinned: lane == Lane::Cuda,
            is_ragged: lane == Lane::Hardware,
        };
        let found = ceiling::measure(&gpu, &photos, way, BRIEF).unwrap();
        assert!(number(&found["images_per_s"]) > 0.0, "{found}");
        assert_eq!(found["unwritten_in_last_batches"], 0, "{found}");
        if lane != Lane::Phases {
            let spent = ["call", "wait"].map(|part| number(&found[format!("{part}_us_per_image")]));
            assert!(spent.iter().all(|&us| us > 0.0), "{found}");
        }
    }
    let skipped = Photos {
        files: (photos.files.iter())
            .map(|photo| Photo {
                name: photo.name.clone(),
                jpeg: Fault::Skip.put(&photo.jpeg),
                ..*photo
            })
            .collect(),
    };
    let way = ceiling::Way {
        lane: Lane::Hardware,
        batch: 3,
        states: 1,
        is_plain: true,
        has_one_handle: false,
        is_pinned: false,
        is_ragged: false,
    };
    let found = ceiling::measure(&gpu, &skipped, way, BRIEF).unwrap();
    assert_eq!(found["unwritten_in_last_batches"], 3, "{found}");
}

#[test]
fn the_unit_is_measured_and_finishes_what_the_cpu_would() {
    let root = tempfile::tempdir().unwrap();
    pictures(root.path());
    let places = Standins::build("unit", &[]).places();
    let tiled = root.path().join("tiled");
    crate::photos::tile_all(&root.path().join("photos"), &tiled).unwrap();
    for folder in [root.path().join("photos"), tiled] {
        let photos = Photos::read(&folder).unwrap();
        let feeding = unit::Feeding {
            feeders: 2,
            in_flight: 16,
        };
        let found = unit::measure(&places, &photos, &small(), feeding, BRIEF).unwrap();
        assert!(number(&found["images_per_s"]) > 0.0, "{found}");
        assert_eq!(
            (&found["refused"], &found["for_cpu"]),
            (&0.into(), &0.into())
        );
    }
    let found = finished::compare(&places, &root.path().join(KINDS), &small()).unwrap();
    let mut routes = std::collections::BTreeMap::new();
    for one in found["kinds"].as_array().unwrap() {
        for way in ["alone", "together"] {
            let said = &one[way];
            *routes.entry(said["route"].as_str().unwrap()).or_insert(0) += 1;
            if said["route"] != "CPU" {
                assert_eq!(said["outcome"], "finished", "{one}");
                assert_eq!(said["most"], 0, "{one}");
            }
        }
    }
    assert!(
        routes["engine"] > 10 && routes["CUDA"] > 2 && routes["CPU"] > 2,
        "{routes:?}"
    );
    assert_eq!(found["failure"], Value::Null);
    let hurt = finished::compare(&places, &root.path().join(DAMAGED), &small()).unwrap();
    for one in hurt["kinds"].as_array().unwrap() {
        // What the CPU refuses must not come back as finished.
        let is_finished = one["together"]["outcome"] == "finished";
        assert!(one["cpu"] == Value::Null || !is_finished, "{one}");
    }
}

#[test]
fn a_picture_that_will_never_be_taken_is_offered_once() {
    let root = tempfile::tempdir().unwrap();
    let encoder = loaderd_decode::encode::Encoder::default();
    let large = encoder.encode(&vec![90; 4000 * 3000 * 3], 4000, 3000);
    std::fs::write(root.path().join("large.jpg"), large.unwrap()).unwrap();
    let places = Standins::build("large", &[]).places();
    let (sender, found) = std::sync::mpsc::channel();
    // Beside this one, which would wait for as long as it is offered.
    std::thread::spawn(move || sender.send(finished::compare(&places, root.path(), &small())));
    let found = found.recv_timeout(Duration::from_secs(60)).expect("an end");
    let one = &found.unwrap()["kinds"][0];
    for way in ["alone", "together"] {
        assert_eq!(one[way]["outcome"], "not taken: TooLarge", "{one}");
    }
}

#[test]
fn pixels_are_the_decoders_and_damage_is_told() {
    let root = tempfile::tempdir().unwrap();
    pictures(root.path());
    let gpu = Gpu::open(&Standins::build("pixels", &[]).places()).unwrap();
    for lane in [Lane::Hardware, Lane::Phases] {
        let found = pixels::compare(&gpu, root.path(), lane, lane == Lane::Phases).unwrap();
        for one in found["kinds"].as_array().unwrap() {
            assert!(one["most"] == 0 || one.get("why_not").is_some(), "{one}");
        }
        let told = skips::ask(&gpu, root.path(), lane).unwrap();
        assert_eq!(told["good"]["status"], Value::Null, "{told}");
        for one in told["damaged"].as_array().unwrap() {
            assert_eq!(one["after"]["status"], Value::Null, "{one}");
        }
    }
}

#[test]
fn what_strictness_refuses_is_told() {
    let root = tempfile::tempdir().unwrap();
    pictures(root.path());
    let plain = Photos::kind(root.path(), kinds::PLAIN).unwrap();
    let lax = root.path().join(DAMAGED).join("lax.jpg");
    std::fs::write(lax, Fault::Lax.put(&plain.jpeg)).unwrap();
    let gpu = Gpu::open(&Standins::build("strict", &[]).places()).unwrap();
    let found = strict::ask(&gpu, root.path()).unwrap();
    for lane in ["hardware", "phases"] {
        let found = &found[lane];
        assert!(number(&found["whole"]) > 10.0, "{found}");
        assert_eq!(found["whole_refused"], Value::Array(Vec::new()));
        for one in found["damaged"].as_array().unwrap() {
            if one["name"] == "lax" {
                assert!(one["usual"].is_null() && one["strict"].is_string(), "{one}");
            } else {
                assert_eq!(one["usual"], one["strict"], "{one}");
            }
        }
        assert!(found.to_string().contains(r#""name":"lax""#), "{found}");
    }
}

#[test]
fn engines_that_overtake_are_caught() {
    let root = tempfile::tempdir().unwrap();
    pictures(root.path());
    let standins = Standins::build("order", &["SLOW=50"]);
    let gpu = Gpu::open(&standins.places()).unwrap();
    let photo = Photos::kind(root.path(), kinds::PLAIN).unwrap();
    let calm = order::ask(&gpu, &photo, 2, 1 << 16).unwrap();
    assert_eq!(calm["hardware"]["overtook"], 0, "{calm}");
    standins.overtake();
    let wild = order::ask(&gpu, &photo, 2, 1 << 16).unwrap();
    assert_eq!(wild["hardware"]["overtook"], 2, "{wild}");
    for found in [calm, wild] {
        assert_eq!(found["hardware"]["copied_early"], 0, "{found}");
    }
}
