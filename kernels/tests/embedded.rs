//! What is embedded was made from the sources that lie beside it. Needs no compiler of CUDA.

use std::path::Path;

use loaderd_kernels::{image_for, launch};
use serde_json::Value;

fn read(path: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest() -> Value {
    serde_json::from_slice(&read("embedded/manifest.json")).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[test]
fn sources_are_those_that_were_compiled() {
    let manifest = manifest();
    let sources = manifest["sources"].as_object().unwrap();
    for (name, expected) in sources {
        let found = digest(&read(&format!("src/cuda/{name}")));
        assert_eq!(
            expected,
            &Value::from(found),
            "{name} has changed: run kernels/compile.py and commit what it writes"
        );
    }
    // All of them but the twin.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "twin.c")
        .collect();
    files.sort();
    assert_eq!(files, sources.keys().cloned().collect::<Vec<_>>());
}

#[test]
fn images_are_those_of_the_manifest() {
    let manifest = manifest();
    for (major, minor) in [(8, 0), (9, 0), (10, 0), (12, 0)] {
        let image = image_for(major, minor).unwrap();
        let suffix = if major == 12 { "ptx" } else { "cubin" };
        let entry = &manifest["images"][format!("{}.{suffix}", image.architecture())];
        assert_eq!(entry["bytes"], image.bytes().len());
        assert_eq!(entry["digest"], digest(image.bytes()));
    }
    assert_eq!(manifest["images"].as_object().unwrap().len(), 4);
}

/// Names are in every image; machine code spills nothing and keeps to its limits.
#[test]
fn kernels_keep_to_their_limits() {
    let manifest = manifest();
    let limits = manifest["register_limits"].as_object().unwrap();
    let entries = [
        "loaderd_finish",
        "loaderd_poison",
        "loaderd_verify",
        "loaderd_weigh",
    ];
    assert_eq!(limits.keys().collect::<Vec<_>>(), entries);
    for architecture in ["sm_80", "sm_90", "sm_100"] {
        for name in entries {
            let taken = &manifest["kernels"][architecture][name];
            let number = |what: &str| taken[what].as_u64().unwrap();
            let registers = number("registers");
            assert!(registers > 0 && registers <= limits[name].as_u64().unwrap());
            assert!(number("shared_bytes") <= 20 << 10);
            for what in ["stack_bytes", "spill_store_bytes", "spill_load_bytes"] {
                assert_eq!(number(what), 0, "{architecture} {name} {what}");
            }
        }
    }
    let batch = loaderd_kernels::Batch {
        width: 224,
        height: 224,
        element: loaderd_kernels::Element::Float16,
        order: loaderd_kernels::Order::Nchw,
        gain: [1.0; 3],
        bias: [0.0; 3],
    };
    let launches = [
        launch::finish(1, &batch),
        launch::poison(1),
        launch::verify(1),
        launch::weigh(1),
    ];
    assert_eq!(launches.map(|launch| launch.entry), entries);
    for (major, minor) in [(8, 0), (9, 0), (10, 0), (12, 0)] {
        let image = image_for(major, minor).unwrap().bytes();
        for name in entries {
            let found = image
                .windows(name.len())
                .any(|part| part == name.as_bytes());
            assert!(found, "{name} for {major}.{minor}");
        }
    }
}

/// Products and sums are rounded one by one, by instructions that the driver may not fuse.
#[test]
fn nothing_is_fused() {
    let ptx = image_for(12, 0).unwrap().bytes();
    let ptx = std::str::from_utf8(ptx).unwrap();
    assert!(ptx.contains(".target sm_80"));
    assert!(ptx.contains("mul.rn.f32") && ptx.contains("add.rn.f64"));
    for fusible in [
        "fma.", "mul.f32", "add.f32", "mul.f64", "add.f64", "sub.f64",
    ] {
        assert!(!ptx.contains(fusible), "{fusible}");
    }
}
