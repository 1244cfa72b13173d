//! One body of tests, run over every engine, with O_DIRECT and through the page cache.

mod support;

use std::collections::HashMap;
use std::sync::mpsc;

use self::support::*;
use super::*;
use crate::{Backend, Mode};

#[test]
fn random_extents_give_what_was_written() {
    let data = Data::new(&[3_000_001, 700_000, 4096, 511, 1]);
    over_all_engines(|kind| {
        let mut reader = kind.reader(data.open(), config(16, 24));
        let mut random = Random(42);
        // One in three is larger than a slab.
        let extents: Vec<_> = (0..400)
            .map(|n| data.extent(n % 5, &mut random, 3 * u64::from(SLAB) / 2))
            .collect();
        let mut seen = vec![0; extents.len()];
        read_all(&mut reader, &extents, |n, result| {
            assert_eq!(&*result.unwrap(), data.bytes(extents[n]), "{kind:?}");
            seen[n] += 1;
        });
        assert!(seen.iter().all(|&count| count == 1), "{kind:?}");
        let stats = reader.stats();
        let asked: u64 = extents.iter().map(|e| u64::from(e.length)).sum();
        assert_eq!((stats.reads, stats.errors), (400, 0));
        assert_eq!(stats.bytes_asked, asked);
        assert!(stats.bytes_read >= asked, "{kind:?}: {stats:?}");
        assert!(stats.oversize_reads > 0 && stats.submits_refused > 0);
        assert_eq!(reader.pool.free_count(), 24, "{kind:?} lost a slab");
    });
}

#[test]
fn the_edges_of_a_file() {
    let size = 2 * u64::from(SLAB) + 1234;
    let data = Data::new(&[size as usize, 0]);
    let extent = |offset: u64, length: u64| Extent {
        offset,
        length: length as u32,
        file: 0,
    };
    over_all_engines(|kind| {
        let mut reader = kind.reader(data.open(), config(4, 4));
        let whole = [
            extent(0, 0),
            extent(size, 0),
            extent(size + 99, 0),
            extent(0, 1),
            extent(size - 1, 1),
            extent(size - 1234, 1234),
            extent(size - 5000, 5000),
            // As long as a slab, so that rounding out does not fit into it.
            extent(1, SLAB.into()),
            // The whole file, larger than a slab.
            extent(0, size),
        ];
        for extent in whole {
            let buffer = read_one(&mut reader, extent).unwrap();
            let expected = match extent.length {
                0 => &[][..],
                _ => data.bytes(extent),
            };
            assert_eq!(&*buffer, expected, "{kind:?} {extent:?}");
        }
        let beyond = [
            extent(size, 1),
            extent(size - 1, 2),
            extent(u64::MAX, u32::MAX.into()),
            Extent {
                offset: 0,
                length: 1,
                file: 1,
            },
        ];
        for extent in beyond {
            let error = read_one(&mut reader, extent).unwrap_err();
            let ReadError::Truncated {
                offset,
                length,
                size: found,
                path,
            } = error
            else {
                panic!("{kind:?} {extent:?}: {error}");
            };
            assert_eq!((offset, length), (extent.offset, extent.length));
            assert_eq!(found, reader.files.size(extent.file));
            assert_eq!(path, data.paths[extent.file as usize]);
        }
        let nowhere = Extent {
            file: 2,
            ..extent(0, 1)
        };
        let error = read_one(&mut reader, nowhere).unwrap_err();
        assert!(matches!(error, ReadError::NoSuchFile { file: 2, count: 2 }));
        assert_eq!(reader.stats().errors, 5);
    });
}

#[test]
fn a_file_cut_short_while_open_is_an_error() {
    over_all_engines(|kind| {
        let data = Data::new(&[300_000]);
        let mut reader = kind.reader(data.open(), config(4, 4));
        let file = std::fs::File::options().write(true).open(&data.paths[0]);
        file.unwrap().set_len(100_000).unwrap();
        for (offset, length) in [(90_000, 20_000), (200_000, 10), (50_000, 200_000)] {
            let extent = Extent {
                offset,
                length,
                file: 0,
            };
            let error = read_one(&mut reader, extent).unwrap_err();
            let ReadError::Truncated { size, .. } = error else {
                panic!("{kind:?}: {error}");
            };
            assert_eq!(size, 100_000);
        }
        // What is still there can still be read.
        let extent = Extent {
            offset: 99_000,
            length: 1000,
            file: 0,
        };
        let buffer = read_one(&mut reader, extent).unwrap();
        assert_eq!(&*buffer, data.bytes(extent));
    });
}

#[test]
fn few_slabs_and_buffers_dropped_on_another_thread() {
    let data = Data::new(&[1_000_000]);
    over_all_engines(|kind| {
        let mut reader = kind.reader(data.open(), config(32, 3));
        let mut random = Random(7);
        let extents: Vec<_> = (0..300)
            .map(|_| data.extent(0, &mut random, SLAB.into()))
            .collect();
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::channel::<(usize, Buffer)>();
            let (data, extents) = (&data, &extents);
            scope.spawn(move || {
                for (n, buffer) in receive {
                    assert_eq!(&*buffer, data.bytes(extents[n]), "{kind:?}");
                    if n % 16 == 0 {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            });
            read_all(&mut reader, extents, |n, result| {
                send.send((n, result.unwrap())).unwrap();
            });
        });
        assert_eq!(reader.pool.free_count(), 3);
        assert!(reader.stats().submits_refused > 0);
    });
}

#[test]
fn all_slabs_held_refuses_and_waits_without_hanging() {
    let data = Data::new(&[100_000]);
    let extent = Extent {
        offset: 5,
        length: 50,
        file: 0,
    };
    over_all_engines(|kind| {
        let mut reader = kind.reader(data.open(), config(8, 2));
        let held: Vec<_> = (0..2)
            .map(|_| read_one(&mut reader, extent).unwrap())
            .collect();
        assert!(!reader.submit(9, extent), "{kind:?}");
        let mut nothing = |_, _| panic!("nothing was in flight");
        let started = Instant::now();
        let wait = Duration::from_millis(20);
        assert_eq!(reader.complete(wait, &mut nothing).unwrap(), 0);
        assert!(started.elapsed() >= wait);
        drop(held);
        // A slab is free: no waiting, however long it might.
        assert_eq!(reader.complete(PATIENCE, &mut nothing).unwrap(), 0);
        assert!(started.elapsed() < PATIENCE / 2);
        assert_eq!(&*read_one(&mut reader, extent).unwrap(), data.bytes(extent));
    });
}

/// Else some rows that are much longer than most could take many times the slabs' memory.
#[test]
fn long_extents_count_by_their_length() {
    let data = Data::new(&[40 * SLAB as usize]);
    let extent = |slabs: u32| Extent {
        offset: 0,
        length: slabs * SLAB,
        file: 0,
    };
    over_all_engines(|kind| {
        let mut reader = kind.reader(data.open(), config(8, 8));
        let mut held = Vec::new();
        while reader.submit(0, extent(4)) {
            let mut done = |_, result: Result<Buffer, _>| held.push(result.unwrap());
            reader.complete(PATIENCE, &mut done).unwrap();
        }
        // With all that is in flight.
        while reader.in_flight() > 0 {
            let mut done = |_, result: Result<Buffer, _>| held.push(result.unwrap());
            reader.complete(PATIENCE, &mut done).unwrap();
        }
        assert_eq!(held.len(), 4, "{kind:?}");
        // One that is longer than all slabs waits until they are free, and spins on none that is.
        held.truncate(2);
        assert!(!reader.submit(1, extent(40)), "{kind:?}");
        let mut nothing = |_, _| panic!("nothing was in flight");
        let (started, wait) = (Instant::now(), Duration::from_millis(20));
        assert_eq!(reader.complete(wait, &mut nothing).unwrap(), 0);
        assert!(started.elapsed() >= wait, "{kind:?}");
        held.clear();
        let buffer = read_one(&mut reader, extent(40)).unwrap();
        assert_eq!(&*buffer, data.bytes(extent(40)), "{kind:?}");
        drop(buffer);
        assert_eq!(reader.pool.free_count(), 8, "{kind:?} lost a slab");
    });
}

#[test]
fn dropped_with_reads_in_flight_and_outlived_by_buffers() {
    let data = Data::new(&[2_000_000]);
    over_all_engines(|kind| {
        for round in 0..20 {
            let mut reader = kind.reader(data.open(), config(16, 20));
            let mut random = Random(round + 1);
            let first = data.extent(0, &mut random, SLAB.into());
            let kept = read_one(&mut reader, first).unwrap();
            for tag in 0..16 {
                // Also larger than a slab.
                let extent = data.extent(0, &mut random, 2 * u64::from(SLAB));
                assert!(reader.submit(tag, extent));
            }
            // Started, but not all done (or none started, in odd rounds).
            if round % 2 == 0 {
                reader.complete(Duration::ZERO, &mut |_, _| ()).unwrap();
            }
            let pool = Arc::downgrade(&reader.pool);
            drop(reader);
            assert_eq!(&*kept, data.bytes(first), "{kind:?}");
            assert_eq!(pool.strong_count() > 0, first.length > 0, "{kind:?}");
            drop(kept);
            assert_eq!(pool.strong_count(), 0, "{kind:?} leaks its arena");
        }
    });
}

#[test]
fn dropped_on_another_thread_with_reads_in_flight() {
    let data = Data::new(&[2_000_000]);
    over_all_engines(|kind| {
        let mut reader = kind.reader(data.open(), config(8, 8));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random(3);
                for tag in 0..8 {
                    let extent = data.extent(0, &mut random, 2 * u64::from(SLAB));
                    assert!(reader.submit(tag, extent));
                }
                reader.complete(Duration::ZERO, &mut |_, _| ()).unwrap();
            });
        });
        // Must not hang. Some rings do not let this thread wait for its reads.
        let started = Instant::now();
        let pool = Arc::downgrade(&reader.pool);
        drop(reader);
        assert!(started.elapsed() < PATIENCE / 2, "{kind:?}");
        assert_eq!(pool.strong_count(), 0, "{kind:?} leaks its arena");
    });
}

#[test]
fn made_on_one_thread_used_on_another() {
    let data = Data::new(&[100_000]);
    let extent = Extent {
        offset: 77,
        length: 7777,
        file: 0,
    };
    over_all_engines(|kind| {
        let mut reader = kind.reader(data.open(), config(4, 4));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let buffer = read_one(&mut reader, extent).unwrap();
                assert_eq!(&*buffer, data.bytes(extent));
            });
        });
        // The thread that used it is gone: works, or says whose reader it is.
        assert!(reader.submit(1, extent));
        let mut done = |_, result: Result<Buffer, ReadError>| {
            assert_eq!(&*result.unwrap(), data.bytes(extent));
        };
        match reader.complete(PATIENCE, &mut done) {
            Ok(count) => assert_eq!(count, 1),
            Err(error) => assert!(matches!(error, ReadError::WrongThread), "{error}"),
        }
    });
}

#[test]
fn short_answers_are_continued_and_passing_errors_tried_again() {
    use Fault::{Errno, Short};
    let data = Data::new(&[200_000]);
    let extent = Extent {
        offset: 12_345,
        length: 50_000,
        file: 0,
    };
    let run = |kind: Kind, faults: &[Fault]| {
        let files = data.open();
        let config = config(1, 2);
        let pool = Pool::new(&config).unwrap();
        let (inner, report) = climb(&files, &pool, &config, kind.limits).unwrap();
        let engine = Box::new(Faulty {
            inner,
            faults: faults.to_vec(),
            tries: HashMap::new(),
            answers: Vec::new(),
        });
        let mut reader = Reader::from_parts(files, pool, engine, report, 1);
        let result = read_one(&mut reader, extent);
        (result, reader.stats())
    };
    over_all_engines(|kind| {
        let passing: &[&[Fault]] = &[
            &[],
            &[Errno(libc::EINTR)],
            &[Errno(libc::EAGAIN), Errno(libc::EINTR), Errno(libc::EAGAIN)],
            &[Errno(libc::EIO); 3],
            &[Short(8192)],
            &[Short(8192), Errno(libc::EIO), Short(512), Short(4096)],
            &[Short(512), Short(512), Short(512)],
            &[Short(0); 3],
        ];
        for faults in passing {
            let (result, stats) = run(kind, faults);
            assert_eq!(&*result.unwrap(), data.bytes(extent), "{kind:?} {faults:?}");
            assert!(stats.retries >= faults.len() as u64, "{kind:?} {faults:?}");
        }
        for (faults, errno, retries) in [
            (&[Errno(libc::EIO); 4][..], libc::EIO, 3),
            (&[Short(0); 4], libc::EIO, 3),
            (&[Errno(libc::EBADF)], libc::EBADF, 0),
        ] {
            let (result, stats) = run(kind, faults);
            let error = result.unwrap_err();
            let ReadError::Io {
                path,
                offset,
                length,
                source,
            } = &error
            else {
                panic!("{kind:?}: {error}");
            };
            assert_eq!(source.raw_os_error(), Some(errno));
            assert_eq!((*offset, *length), (extent.offset, extent.length));
            assert_eq!(path, &data.paths[0]);
            assert_eq!(stats.retries, retries);
        }
    });
}

#[test]
fn auto_and_pread_modes_report_what_they_chose() {
    let data = Data::new(&[1_000_000]);
    let reader = |mode| {
        let config = Config {
            mode,
            ..config(4, 8)
        };
        Reader::new(data.open(), config).unwrap()
    };
    let pread = reader(Mode::Pread);
    assert_eq!(pread.engine().backend, Backend::Pread);
    assert!(pread.engine().to_string().starts_with("pread pool, "));
    let auto = reader(Mode::Auto);
    // Just written, so cached; where the kernel does not say, it is small.
    assert!(!auto.engine().direct, "{}", auto.engine());
    assert_eq!(
        auto.engine().reasons.len(),
        1 + usize::from(auto.engine().backend != Backend::UringFixed)
    );
    let buffered = reader(Mode::Buffered);
    assert!(buffered.engine().to_string().contains(", buffered"));
    assert_eq!(buffered.engine().align, 1);
}
