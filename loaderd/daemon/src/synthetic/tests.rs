//! Frames are what their labels say, always the same, and about as costly as photos.

use super::*;

fn scene(place: Place, hour: Hour, weather: Weather, number: u64) -> Frame {
    let scene = Scene::of(place, hour, weather, &mut Dice::new(5, number, 0));
    Frame::of(&scene, Dice::new(5, number, 1))
}

/// Mean grey level of rows, and of all.
fn mean(frame: &Frame, rows: std::ops::Range<usize>) -> f64 {
    let bytes = &frame.pixels[rows.start * WIDTH * 3..rows.end * WIDTH * 3];
    bytes.iter().map(|&byte| f64::from(byte)).sum::<f64>() / bytes.len() as f64
}

/// Mean deviation of grey levels about the vanishing point, which fog takes away.
fn contrast(frame: &Frame) -> f64 {
    let inside = |row: usize| &frame.pixels[(row * WIDTH + 500) * 3..(row * WIDTH + 780) * 3];
    let levels: Vec<f64> = (270..370)
        .flat_map(inside)
        .map(|&level| level.into())
        .collect();
    let mean = levels.iter().sum::<f64>() / levels.len() as f64;
    levels.iter().map(|level| (level - mean).abs()).sum::<f64>() / levels.len() as f64
}

#[test]
fn a_number_is_a_frame() {
    let frame = Frame::draw(7, 3);
    let again = std::thread::spawn(|| Frame::draw(7, 3)).join().unwrap();
    assert_eq!(frame, again);
    assert_ne!(frame.pixels, Frame::draw(7, 4).pixels);
    assert_ne!(frame.pixels, Frame::draw(8, 3).pixels);
    // The same on every machine: noise, shading and the tone curve use nothing but what IEEE 754
    // lays down. Another sum means that frames have changed for everybody.
    assert_eq!(xor(&frame.pixels), SUM, "{:#x}", xor(&frame.pixels));
}

const SUM: u64 = 0x56cf_457c_b8ad_7a3b;

fn xor(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[test]
fn boxes_lie_inside_and_are_not_empty() {
    let mut found = 0;
    for number in 0..12 {
        let frame = Frame::draw(1, number);
        assert_eq!(frame.pixels.len(), WIDTH * HEIGHT * 3);
        assert_eq!(frame.drivable.len(), WIDTH * HEIGHT);
        for label in &frame.labels {
            let [left, top, right, bottom] = label.bounds;
            assert!(
                0.0 <= left && left + SIDE_MIN <= right && right <= WIDTH as f32,
                "{label:?}"
            );
            assert!(
                0.0 <= top && top + SIDE_MIN <= bottom && bottom <= HEIGHT as f32,
                "{label:?}"
            );
            let touches =
                left == 0.0 || top == 0.0 || right == WIDTH as f32 || bottom == HEIGHT as f32;
            assert!(touches || !label.truncated || label.occluded, "{label:?}");
            found += 1;
        }
    }
    assert!(found > 60, "{found} labels");
}

#[test]
fn a_box_holds_its_thing() {
    // The same frame with and without the things that are labelled: what differs lies in boxes, in
    // shadows below them or in the glow of lamps; and within each box of some size much differs.
    let dice = || Dice::new(5, 40, 1);
    let scene = Scene::of(
        Place::Highway,
        Hour::Day,
        Weather::Overcast,
        &mut Dice::new(5, 40, 0),
    );
    let dice = &mut dice();
    let (camera, air) = (scene.camera(dice), scene.air(dice));
    let mut canvas = Canvas::new(camera, air);
    ground::ground(&mut canvas, &scene, dice);
    let before = canvas.light.clone();
    let things = things::place(&scene, dice);
    stand(&mut canvas, &scene, &things, &[]);
    let labels = labels(&canvas, &things);
    assert!(labels.len() > 3);
    for label in labels {
        let [left, top, right, bottom] = label.bounds.map(|side| side as usize);
        let inside =
            (top..bottom).flat_map(|row| (left..right).map(move |column| row * WIDTH + column));
        let (all, changed) = inside.fold((0, 0), |(all, changed), place| {
            (
                all + 1,
                changed + usize::from(before[place] != canvas.light[place]),
            )
        });
        assert!(changed * 10 >= all * 4, "{label:?}: {changed} of {all}");
    }
}

#[test]
fn the_picture_shows_what_the_labels_say() {
    let street = |hour, weather, number| scene(Place::City, hour, weather, number);
    for number in 0..3 {
        let day = street(Hour::Day, Weather::Clear, number);
        let night = street(Hour::Night, Weather::Clear, number);
        let snow = street(Hour::Day, Weather::Snowy, number);
        let whole = 0..HEIGHT;
        assert!(
            mean(&night, whole.clone()) < 0.6 * mean(&day, whole),
            "frame {number}"
        );
        let road = HEIGHT * 3 / 4..HEIGHT * 9 / 10;
        assert!(
            mean(&snow, road.clone()) > mean(&day, road) + 15.0,
            "frame {number}"
        );
        let fog = street(Hour::Day, Weather::Foggy, number);
        let (fog, day) = (contrast(&fog), contrast(&day));
        assert!(
            fog < 0.85 * day,
            "frame {number}: {fog} in fog, {day} without"
        );
    }
}

#[test]
fn every_kind_of_frame_can_be_drawn_and_costs_what_a_photo_does() {
    let encoder = Encoder {
        quality: 90,
        ..Encoder::default()
    };
    let mut sizes = Vec::new();
    for (number, &place) in Place::ALL.iter().enumerate() {
        for (turn, &weather) in Weather::ALL.iter().enumerate() {
            let hour = Hour::ALL[(number + turn) % Hour::ALL.len()];
            let frame = scene(place, hour, weather, (number * 10 + turn) as u64);
            assert_eq!(
                (frame.place, frame.hour, frame.weather),
                (place, hour, weather)
            );
            assert!(
                frame.drivable.contains(&ground::OWN_LANE),
                "{place:?} has no lane"
            );
            sizes.push(frame.jpeg(&encoder).unwrap().len());
        }
    }
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert!(
        (150_000..350_000).contains(&mean),
        "JPEGs average {mean} bytes"
    );
}

#[test]
fn splits_have_their_shares() {
    let count = |wanted| {
        (0..5000)
            .filter(|&number| split(0, number) == wanted)
            .count()
    };
    for (name, share) in [("train", 4000), ("val", 500), ("test", 500)] {
        assert!(count(name).abs_diff(share) < 100, "{name}: {}", count(name));
    }
}

#[test]
fn pngs_are_what_the_standard_says() {
    // The frame of chunks, and the size that makes masks cheap; tests/python/test_synthetic.py has
    // Pillow read them.
    let frame = Frame::draw(2, 0);
    let png = frame.drivable_png();
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    assert_eq!(
        &png[12..29],
        b"IHDR\x00\x00\x05\x00\x00\x00\x02\xd0\x08\x00\x00\x00\x00"
    );
    assert_eq!(&png[png.len() - 8..png.len() - 4], b"IEND");
    assert!(png.len() < 40_000, "{} bytes", png.len());
}
