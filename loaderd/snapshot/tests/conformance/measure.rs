use crate::common::*;
use std::time::Instant;
use loaderd_snapshot::*;
#[test]
fn measure() {
    let place = Place::new();
    let n: u64 = 2_000_000;
    let mut rows = (0..n).map(|i| Ok(IngestRow { image: vec![i as u8; 40], class: ["a","b"][i as usize % 2].into() }));
    let t = Instant::now();
    ingest(&place.uri, &mut rows, &IngestOptions { classes: vec!["a".into(),"b".into()], ..Default::default() }).unwrap();
    eprintln!("ingest {:.2} us/row", t.elapsed().as_secs_f64()*1e6/n as f64);
    let req = |filter: Option<&str>| SnapshotRequest { fixed_columns: vec!["label".into()], filter: filter.map(Into::into), ..place.request() };
    for f in [None, Some("label = 1")] {
        let t = Instant::now();
        let s = Snapshot::open(req(f)).unwrap();
        eprintln!("build {f:?}: {:.3} s, {:.3} us/row", t.elapsed().as_secs_f64(), t.elapsed().as_secs_f64()*1e6/n as f64);
        drop(s);
        for _ in 0..3 {
        let t = Instant::now();
        let s = Snapshot::open(req(f)).unwrap();
        eprintln!("open cached {:.2} ms", t.elapsed().as_secs_f64()*1e3);
        let t = Instant::now();
        let mut x = 0u64; let m = s.rows();
        for i in 0..m { let j = (i.wrapping_mul(0x9e3779b97f4a7c15)) % m; if let Payload::Extent(e) = s.payload(0,j) { x ^= e.offset; } x ^= s.row_address(j); x ^= s.fixed(0,j).unwrap()[0] as u64; }
        eprintln!("lookup {:.1} ns/row {x}", t.elapsed().as_secs_f64()*1e9/m as f64);
        }
    }
    for e in std::fs::read_dir(place.request().cache_dir).unwrap() { use std::os::unix::fs::MetadataExt; let m = e.unwrap().metadata().unwrap(); eprintln!("map {} bytes, {} on disk", m.len(), m.blocks()*512); }
    let t = Instant::now();
    let s = Snapshot::open(SnapshotRequest{ protect: Protect::Run, ..req(None)}).unwrap();
    eprintln!("open cached with tag {:.2} ms", t.elapsed().as_secs_f64()*1e3);
    let idx: Vec<u64> = (0..256).map(|i| i * 7001).collect();
    let t = Instant::now();
    s.read_slow(0, &idx).unwrap();
    eprintln!("slow 256 rows {:.2} ms", t.elapsed().as_secs_f64()*1e3);
}
