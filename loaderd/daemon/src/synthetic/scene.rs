//! What a frame shows, before anything is painted: weather, hour, place, light and road.
//!
//! Enters: a frame's draws. Leaves: a [`Scene`], numbers only. Never: paints.

use super::canvas::{Air, Camera, Rgb, times};
use super::texture::{Dice, part};

/// A class with its name, in the order of its number.
macro_rules! classes {
    ($(#[$about:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum $name { $($variant),+ }

        impl $name {
            /// All of them; a class's place is its number.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// As BDD100K writes it.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }
    };
}

classes!(
    /// The weather of a frame.
    Weather {
        Clear = "clear",
        Overcast = "overcast",
        Rainy = "rainy",
        Snowy = "snowy",
        Foggy = "foggy",
        PartlyCloudy = "partly cloudy",
    }
);

classes!(
    /// The time of day of a frame.
    Hour {
        Day = "daytime",
        Night = "night",
        Dusk = "dawn/dusk",
    }
);

classes!(
    /// The place of a frame.
    Place {
        City = "city street",
        Highway = "highway",
        Residential = "residential",
        Tunnel = "tunnel",
        Parking = "parking lot",
        GasStation = "gas stations",
    }
);

classes!(
    /// The category of a labelled thing.
    Category {
        Car = "car",
        Truck = "truck",
        Bus = "bus",
        Person = "person",
        Rider = "rider",
        Bike = "bike",
        Motor = "motor",
        TrafficLight = "traffic light",
        TrafficSign = "traffic sign",
        Train = "train",
    }
);

/// Everything that painting needs to know about a frame but for what stands in it.
pub(super) struct Scene {
    pub(super) weather: Weather,
    pub(super) hour: Hour,
    pub(super) place: Place,
    pub(super) light: Light,
    pub(super) road: Road,
    /// For what repeats along walls and roads.
    pub(super) seed: u32,
}

/// Where light comes from.
pub(super) struct Light {
    /// From everywhere.
    pub(super) ambient: Rgb,
    /// From the sun, on the ground.
    pub(super) sun: Rgb,
    /// −1 or 1: the side that the sun stands on.
    pub(super) sun_side: f32,
    pub(super) sky_top: Rgb,
    pub(super) sky_low: Rgb,
    pub(super) cloud: Rgb,
    /// Share of the sky with clouds, 0 to 1.
    pub(super) clouds: f32,
    /// Of our headlamps, and of street lamps, 0 by day.
    pub(super) headlamps: f32,
    pub(super) lamps: f32,
    /// Snow that lies, 0 to 1.
    pub(super) snow: f32,
    /// Water on the ground, 0 to 1.
    pub(super) wet: f32,
    /// Deviation of the sensor's noise in grey levels.
    pub(super) noise: f32,
    pub(super) exposure: f32,
}

/// The road and what lies beside it.
pub(super) struct Road {
    pub(super) lane: f32,
    /// Lanes of our direction to the right and to the left of ours, and oncoming ones.
    pub(super) lanes_right: u32,
    pub(super) lanes_left: u32,
    pub(super) oncoming: u32,
    /// Width of the strip between directions.
    pub(super) median: f32,
    /// Edges of the asphalt.
    pub(super) left: f32,
    pub(super) right: f32,
    /// Width of pavements, 0 where there are none.
    pub(super) pavement: f32,
    /// Colour of asphalt, of what lies beside everything.
    pub(super) asphalt: Rgb,
    pub(super) beside: Rgb,
    /// Metres between street lamps.
    pub(super) lamp_every: f32,
}

impl Scene {
    pub(super) fn draw(dice: &mut Dice) -> Scene {
        let place = Place::ALL[dice.weighted(&[0.46, 0.24, 0.16, 0.04, 0.06, 0.04])];
        let hour = Hour::ALL[dice.weighted(&[0.58, 0.28, 0.14])];
        let weather = Weather::ALL[dice.weighted(&[0.42, 0.17, 0.12, 0.12, 0.05, 0.12])];
        Scene::of(place, hour, weather, dice)
    }

    /// A frame of these labels.
    pub(super) fn of(place: Place, hour: Hour, weather: Weather, dice: &mut Dice) -> Scene {
        Scene {
            weather,
            hour,
            place,
            light: light(place, hour, weather, dice),
            road: road(place, dice),
            seed: dice.word(),
        }
    }

    pub(super) fn is_night(&self) -> bool {
        self.hour == Hour::Night
    }

    /// Whether there is a roof instead of a sky.
    pub(super) fn is_covered(&self) -> bool {
        self.place == Place::Tunnel
    }

    pub(super) fn camera(&self, dice: &mut Dice) -> Camera {
        let bend = match self.place {
            Place::Highway | Place::Residential => dice.between(-0.0011, 0.0011),
            Place::Tunnel => dice.between(-0.0006, 0.0006),
            _ => dice.between(-0.0003, 0.0003),
        };
        Camera {
            focal: dice.between(940.0, 1080.0),
            horizon: dice.between(310.0, 362.0),
            centre: dice.between(560.0, 720.0),
            height: dice.between(1.22, 1.55),
            offset: dice.between(-0.35, 0.35),
            bend,
        }
    }

    pub(super) fn air(&self, dice: &mut Dice) -> Air {
        let reach = match self.weather {
            Weather::Foggy => dice.between(32.0, 70.0),
            Weather::Rainy => dice.between(150.0, 300.0),
            Weather::Snowy => dice.between(100.0, 240.0),
            Weather::Overcast => 700.0,
            _ => 1100.0,
        };
        let colour = match (self.is_covered(), self.is_night()) {
            (true, _) => [0.10, 0.085, 0.06],
            (_, true) => times(self.light.sky_low, 1.2),
            _ => times(self.light.sky_low, 0.92),
        };
        Air { colour, reach }
    }

    /// Light on something upright.
    pub(super) fn upright(&self, x: f32, y: f32, z: f32) -> Rgb {
        let light = &self.light;
        let facing = if x * light.sun_side < 0.0 { 0.75 } else { 0.22 };
        let own = self.own_lamps(x, z) * (1.25 - 0.28 * y).max(0.12) * 0.55;
        let street = self.street_lamps(x, z) * 0.5;
        std::array::from_fn(|c| {
            light.ambient[c] * 0.85 + light.sun[c] * facing + LAMP[c] * street + HEADLAMP[c] * own
        })
    }

    /// Light on the ground, but for the sun, which may be blocked.
    pub(super) fn ground(&self, x: f32, z: f32) -> Rgb {
        let own = self.own_lamps(x, z);
        let street = self.street_lamps(x, z);
        std::array::from_fn(|c| self.light.ambient[c] + LAMP[c] * street + HEADLAMP[c] * own)
    }

    fn own_lamps(&self, x: f32, z: f32) -> f32 {
        if self.light.headlamps == 0.0 {
            return 0.0;
        }
        let far = z / 17.0;
        let near = (z / 6.0).min(1.0);
        let side = x / (1.6 + 0.28 * z);
        let side = side * side;
        self.light.headlamps * near / ((1.0 + far * far) * (1.0 + side * side))
    }

    fn street_lamps(&self, x: f32, z: f32) -> f32 {
        if self.light.lamps == 0.0 {
            return 0.0;
        }
        let every = self.road.lamp_every;
        let along = z / every;
        let along = (part(along) - 0.5) * every;
        let across = if self.is_covered() {
            0.35 * x
        } else {
            x - self.road.right
        };
        self.light.lamps / (1.0 + (across * across + along * along) / 26.0)
    }
}

const LAMP: Rgb = [1.0, 0.72, 0.38];
const HEADLAMP: Rgb = [1.0, 0.95, 0.82];

fn light(place: Place, hour: Hour, weather: Weather, dice: &mut Dice) -> Light {
    use Weather::{Clear, Foggy, Overcast, PartlyCloudy, Rainy, Snowy};
    let sunny = matches!(weather, Clear | PartlyCloudy);
    let grey = |level: f32| [level * 0.97, level, level * 1.05];
    let (mut sky_top, mut sky_low, mut cloud): (Rgb, Rgb, Rgb) = match weather {
        Clear | PartlyCloudy => ([0.10, 0.23, 0.55], [0.55, 0.68, 0.86], [0.95, 0.95, 0.97]),
        Overcast => (grey(0.50), grey(0.72), grey(0.80)),
        Rainy => (grey(0.26), grey(0.42), grey(0.36)),
        Snowy => (grey(0.58), grey(0.74), grey(0.70)),
        Foggy => (grey(0.66), grey(0.70), grey(0.70)),
    };
    let clouds = match weather {
        Clear => dice.between(0.0, 0.12),
        PartlyCloudy => dice.between(0.38, 0.55),
        _ => dice.between(0.75, 1.0),
    };
    let mut ambient = if sunny {
        [0.30, 0.34, 0.42]
    } else {
        times(sky_low, 0.85)
    };
    let warm = dice.between(0.0, 0.12);
    let mut sun = if sunny {
        [0.86, 0.80 - warm, 0.70 - 2.0 * warm]
    } else {
        [0.0; 3]
    };
    let (mut headlamps, mut lamps, mut noise) = (0.0, 0.0, dice.between(1.6, 2.6));
    let mut exposure = dice.between(0.88, 1.15);
    match hour {
        Hour::Day => {}
        Hour::Dusk => {
            let red = dice.between(0.7, 1.0);
            let glow = if sunny {
                [0.95, 0.46 * red, 0.22 * red]
            } else {
                [0.40, 0.33, 0.34]
            };
            sky_low = std::array::from_fn(|c| 0.30 * sky_low[c] * 0.6 + 0.62 * glow[c]);
            sky_top = std::array::from_fn(|c| sky_top[c] * [0.55, 0.42, 0.42][c]);
            cloud = std::array::from_fn(|c| 0.35 * cloud[c] + 0.40 * glow[c]);
            ambient = std::array::from_fn(|c| ambient[c] * [0.42, 0.36, 0.36][c]);
            sun = std::array::from_fn(|c| sun[c] * [0.34, 0.20, 0.11][c]);
            lamps = dice.between(0.0, 0.14);
            noise += 0.9;
            exposure *= 1.1;
        }
        Hour::Night => {
            let town = dice.between(0.5, 1.3);
            sky_top = times([0.0035, 0.004, 0.008], town);
            sky_low = times([0.022, 0.016, 0.014], town);
            cloud = times([0.020, 0.016, 0.014], town);
            ambient = times([0.014, 0.013, 0.016], town);
            sun = [0.0; 3];
            headlamps = dice.between(0.55, 0.95);
            lamps = match place {
                Place::Highway => dice.between(0.0, 0.22),
                _ => dice.between(0.2, 0.5),
            };
            noise += dice.between(1.6, 2.8);
            exposure *= 1.15;
        }
    }
    if place == Place::Tunnel {
        ambient = [0.085, 0.075, 0.06];
        sun = [0.0; 3];
        lamps = dice.between(0.35, 0.6);
        headlamps = headlamps.max(0.1);
        noise += 0.8;
    }
    Light {
        ambient,
        sun,
        sun_side: if dice.chance(0.5) { 1.0 } else { -1.0 },
        sky_top,
        sky_low,
        cloud,
        clouds,
        headlamps,
        lamps,
        snow: if weather == Snowy && place != Place::Tunnel {
            dice.between(0.75, 1.0)
        } else {
            0.0
        },
        wet: match weather {
            Rainy if place != Place::Tunnel => dice.between(0.6, 1.0),
            _ => 0.0,
        },
        noise,
        exposure,
    }
}

fn road(place: Place, dice: &mut Dice) -> Road {
    let (lanes_right, lanes_left, oncoming, median) = match place {
        Place::Highway => (
            dice.count(0, 2),
            dice.count(0, 2),
            2,
            dice.between(2.5, 7.0),
        ),
        Place::Tunnel => (dice.count(0, 1), 1, 0, 0.0),
        Place::City => (dice.count(0, 1), dice.count(0, 1), dice.count(1, 2), 0.3),
        Place::Residential => (0, 0, 1, 0.0),
        Place::Parking | Place::GasStation => (0, 0, 0, 0.0),
    };
    let lane = match place {
        Place::Highway => 3.65,
        Place::Parking | Place::GasStation => 6.0,
        _ => dice.between(3.0, 3.4),
    };
    let verge = match place {
        Place::Highway => 2.6,
        Place::City | Place::Residential => 2.3,
        Place::Parking => 24.0,
        Place::GasStation => 14.0,
        Place::Tunnel => 0.7,
    };
    let verge_left = match place {
        Place::City | Place::Residential => 2.3,
        Place::Parking => 24.0,
        _ => 1.0,
    };
    let grey = dice.between(0.075, 0.15);
    let green = dice.between(0.06, 0.13);
    Road {
        lane,
        lanes_right,
        lanes_left,
        oncoming,
        median,
        left: -(0.5 + (lanes_left + oncoming) as f32) * lane - median - verge_left,
        right: (0.5 + lanes_right as f32) * lane + verge,
        pavement: match place {
            Place::City => dice.between(2.2, 4.0),
            Place::Residential => dice.between(1.4, 2.2),
            Place::Tunnel => 0.8,
            _ => 0.0,
        },
        asphalt: [grey * 1.02, grey, grey * 0.98],
        beside: match place {
            Place::City => [0.24, 0.23, 0.21],
            Place::Parking | Place::GasStation | Place::Tunnel => [0.18, 0.18, 0.17],
            _ if dice.chance(0.25) => [0.26, 0.20, 0.12],
            _ => [green * 0.72, green, green * 0.32],
        },
        lamp_every: if place == Place::Tunnel {
            9.0
        } else {
            dice.between(24.0, 36.0)
        },
    }
}
