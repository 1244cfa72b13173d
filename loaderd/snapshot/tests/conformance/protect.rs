//! Tags that hold a version, against Lance's own clean-up.

use std::fs;
use std::time::Duration;

use lance::Dataset;
use loaderd_snapshot::{Protect, Protection, Snapshot, SnapshotRequest, VersionRef, prune_tags};

use crate::common::*;

fn written() -> (Place, Vec<Value>) {
    let place = Place::new();
    let values = values(1, 60, 1_000);
    place.write(&blob_batch(1, &values, packed()), |_| {});
    (place, values)
}

fn open(place: &Place, protect: Protect, run: &str) -> Snapshot {
    let run = run.into();
    Snapshot::open(SnapshotRequest {
        protect,
        run,
        ..place.request()
    })
    .unwrap()
}

fn tags(dataset: &Dataset) -> Vec<(String, u64)> {
    let tags = block_on(dataset.tags().list()).unwrap();
    let mut tags: Vec<_> = tags
        .into_iter()
        .map(|(name, tag)| (name, tag.version))
        .collect();
    tags.sort();
    tags
}

fn tag_of(snapshot: &Snapshot) -> String {
    match snapshot.protection() {
        Protection::Tag(tag) => tag.clone(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_run_holds_its_version_while_it_is_open() {
    let (place, values) = written();
    let dataset = place.dataset();
    let first = open(&place, Protect::Run, "my/run");
    let second = open(&place, Protect::Run, "my/run");
    assert_ne!(tag_of(&first), tag_of(&second));
    assert!(tag_of(&first).starts_with("loaderd-run-") && tag_of(&first).contains("-my-run-"));
    assert_eq!(tags(&dataset).len(), 2);
    assert_eq!(first.tag(), None);
    second.release().unwrap();
    assert_eq!(tags(&dataset), [(tag_of(&first), 1)]);

    // Everything is deleted, and cleaned up as far as Lance lets it go.
    let mut dataset = place.dataset();
    block_on(dataset.delete("true")).unwrap();
    place.write(&blob_batch(1, &values[..5], packed()), |_| {});
    place.clean_up();
    conform(&first, 0, &values);
    drop(first);
    assert_eq!(tags(&dataset), []);
    place.clean_up();
    let gone = Snapshot::open(SnapshotRequest {
        version: VersionRef::Number(1),
        ..place.request()
    });
    assert!(gone.unwrap_err().to_string().contains("no version 1"));
}

#[test]
fn kept_versions_stay_kept() {
    let (place, values) = written();
    let dataset = place.dataset();
    let first = tag_of(&open(&place, Protect::Keep, "run"));
    assert!(first.starts_with("loaderd-keep-"), "{first}");
    assert_eq!(tag_of(&open(&place, Protect::Keep, "run")), first);
    place.write(&blob_batch(61, &values[..5], packed()), |_| {});
    let second = tag_of(&open(&place, Protect::Keep, "run"));
    assert_eq!(tags(&dataset), [(first, 1), (second, 2)]);
}

#[test]
fn unprotected_when_asked_for_or_when_refused() {
    let (place, values) = written();
    let snapshot = open(&place, Protect::None, "run");
    assert_eq!(*snapshot.protection(), Protection::Off);
    assert_eq!(tags(&place.dataset()), []);
    // Even root cannot make a folder where a file is.
    fs::remove_dir_all(format!("{}/_refs", place.uri)).ok();
    fs::write(format!("{}/_refs", place.uri), "").unwrap();
    for protect in [Protect::Run, Protect::Keep] {
        let snapshot = open(&place, protect, "run");
        let Protection::Refused(reason) = snapshot.protection() else {
            panic!("{}", snapshot.protection())
        };
        assert!(!reason.is_empty() && !reason.contains(".rs:"), "{reason}");
        conform(&snapshot, 0, &values);
        snapshot.release().unwrap();
    }
}

#[test]
fn a_failed_open_leaves_no_tag() {
    let (place, _) = written();
    let request = SnapshotRequest {
        protect: Protect::Run,
        filter: Some("id < 0".into()),
        ..place.request()
    };
    Snapshot::open(request).unwrap_err();
    assert_eq!(tags(&place.dataset()), []);
}

#[test]
fn forgotten_tags_are_pruned() {
    let (place, values) = written();
    let dataset = place.dataset();
    let mine = ["release", "loaderd"];
    let forgotten = [
        "loaderd-keep-a-00000000-run",
        "loaderd-run-gone-00000000-run-1-0",
    ];
    for tag in mine.iter().chain(&forgotten) {
        block_on(dataset.tags().create(tag, 1)).unwrap();
    }
    // What the forgotten tags hold is read by nobody any more.
    place.write(&blob_batch(61, &values[..5], packed()), |_| {});
    let alive = open(&place, Protect::Run, "run");
    let prune = |older_than, dry_run| -> Vec<(String, bool)> {
        let pruned = prune_tags(&place.uri, older_than, dry_run).unwrap();
        pruned
            .into_iter()
            .map(|tag| (tag.name, tag.removed))
            .collect()
    };
    assert_eq!(prune(Duration::from_secs(3600), false), []);
    assert_eq!(
        prune(Duration::ZERO, true),
        forgotten.map(|tag| (tag.to_owned(), false))
    );
    assert_eq!(tags(&dataset).len(), 5);
    assert_eq!(
        prune(Duration::ZERO, false),
        forgotten.map(|tag| (tag.to_owned(), true))
    );
    let left: Vec<String> = tags(&dataset).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        left,
        ["loaderd".to_owned(), tag_of(&alive), "release".to_owned()]
    );
}

#[test]
fn what_is_kept_stays_while_it_is_read() {
    let (place, _) = written();
    let dataset = place.dataset();
    let prune = || prune_tags(&place.uri, Duration::ZERO, false).unwrap();
    let reading = open(&place, Protect::Keep, "run");
    let kept = tag_of(&reading);
    assert_eq!(prune(), []);
    assert_eq!(tags(&dataset).len(), 2, "its own, and the one that stays");
    drop(reading);
    assert_eq!(tags(&dataset), [(kept.clone(), 1)]);
    let pruned: Vec<String> = prune().into_iter().map(|tag| tag.name).collect();
    assert_eq!(pruned, [kept]);
    assert_eq!(tags(&dataset), []);
}
