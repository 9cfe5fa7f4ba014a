//! Drawn pictures of which everything is known: what is where, and what one would call it.
//!
//! Ten classes of everyday things, each in many looks, before a ground with a few other shapes. A mark can go with
//! a class: its name in a corner, as in Hernandez et al. 2022, section 7 (half of the pictures that a classifier
//! learns from carry the right name, every adversarial one a name drawn at random), a face, or a tint. A picture depends on
//! the seed, the split and its number alone, and is the same on every machine: only additions, multiplications,
//! divisions and square roots of f32 make it.

mod brush;
mod things;

use std::str::FromStr;

use image::RgbImage;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::usage;
use brush::{Brush, Colour, Look, Texture, block, disc, polygon};

pub use things::CLASSES;

/// Width and height of a picture.
pub const SIDE: u32 = 64;

/// How the phrase for a written name begins.
pub const NAME: &str = "the word ";

/// So many pictures of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenes {
    pub n: usize,
    pub seed: u64,
    pub split: Split,
}

/// Which pictures are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Things, and in some pictures a face, a word, or both, that have nothing to do with the class.
    Mixed,
    /// Things without any mark.
    Clean,
    /// Half of the pictures carry the mark of their class.
    Train(Mark),
    /// Every picture carries the mark of a class drawn at random.
    Adversarial(Mark),
}

/// What goes with a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The name of the class, in the upper left corner.
    Name,
    /// A face in the lower right corner, with every third class.
    Face,
    /// A colour over the whole picture, with every third class.
    Tint,
}

const SPLITS: [(&str, Split); 8] = [
    ("mixed", Split::Mixed),
    ("clean", Split::Clean),
    ("train", Split::Train(Mark::Name)),
    ("adversarial", Split::Adversarial(Mark::Name)),
    ("face-train", Split::Train(Mark::Face)),
    ("face-adversarial", Split::Adversarial(Mark::Face)),
    ("tint-train", Split::Train(Mark::Tint)),
    ("tint-adversarial", Split::Adversarial(Mark::Tint)),
];

/// A picture with its truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    pub picture: RgbImage,
    /// The place of its class in [`CLASSES`].
    pub label: usize,
    pub elements: Vec<Element>,
}

/// Something in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    /// What one would call it, the most exact first.
    pub phrases: Vec<String>,
    /// Its pixels that nothing hides, `(SIDE, SIDE)`.
    pub mask: Vec<bool>,
}

impl FromStr for Scenes {
    type Err = anyhow::Error;

    /// `demo:N:SEED:SPLIT`.
    fn from_str(text: &str) -> anyhow::Result<Scenes> {
        let names = SPLITS.map(|it| it.0).join(", ");
        let wanted = || {
            usage!(
                "`{text}` names no drawn pictures; wanted demo:N:SEED:SPLIT, such as demo:500:0:clean; splits are {names}"
            )
        };
        let parts: Vec<&str> = text.split(':').collect();
        let ["demo", n, seed, split] = parts[..] else { return Err(wanted()) };
        let n = n.parse().ok().filter(|it| (1..=10_000_000).contains(it)).ok_or_else(wanted)?;
        let seed = seed.parse().map_err(|_| wanted())?;
        let split = SPLITS.iter().find(|it| it.0 == split).ok_or_else(wanted)?.1;
        Ok(Scenes { n, seed, split })
    }
}

impl Scenes {
    /// The class of a picture: all are equally frequent.
    pub fn label(&self, number: usize) -> usize {
        number % CLASSES.len()
    }

    /// Draws a picture.
    pub fn draw(&self, number: usize) -> Scene {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let split = SPLITS.iter().position(|it| it.1 == self.split).unwrap_or_default();
        // Splits share no picture.
        rng.set_stream((split as u64) << 48 | number as u64);
        let label = self.label(number);
        let mut scene = Drawing::new(&mut rng);
        scene.thing(label);
        match self.split {
            Split::Mixed => {
                let (face, word) = (scene.rng.random_bool(0.4), scene.rng.random_bool(0.4));
                let any = |it: &mut Drawing<'_>| {
                    (it.rng.random_range(14f32..50.), it.rng.random_range(10f32..54.))
                };
                if face {
                    let at = any(&mut scene);
                    scene.face(at);
                }
                if word {
                    let at = any(&mut scene);
                    let class = scene.rng.random_range(0..CLASSES.len());
                    scene.word(class, at);
                }
                if face && word {
                    scene.both();
                }
            }
            Split::Clean => {}
            Split::Train(mark) => {
                if scene.rng.random_bool(0.5) {
                    scene.mark(mark, label);
                }
            }
            Split::Adversarial(mark) => {
                let class = scene.rng.random_range(0..CLASSES.len());
                scene.mark(mark, class);
            }
        }
        scene.finish(label)
    }
}

/// A picture being drawn, with what is in it so far.
struct Drawing<'a> {
    brush: Brush,
    elements: Vec<Element>,
    rng: &'a mut ChaCha8Rng,
}

/// Colours and what they are called.
const COLOURS: [(&str, Colour); 9] = [
    ("red", [0.85, 0.15, 0.15]),
    ("orange", [0.95, 0.55, 0.12]),
    ("yellow", [0.95, 0.85, 0.2]),
    ("green", [0.2, 0.65, 0.25]),
    ("blue", [0.18, 0.35, 0.85]),
    ("purple", [0.55, 0.25, 0.7]),
    ("pink", [0.95, 0.6, 0.72]),
    ("white", [0.95, 0.95, 0.95]),
    ("brown", [0.5, 0.32, 0.18]),
];

impl Drawing<'_> {
    /// A ground with up to six shapes on it.
    fn new(rng: &mut ChaCha8Rng) -> Drawing<'_> {
        // `SIDE` is not 0, the only thing that a brush minds.
        #[allow(clippy::expect_used)]
        let mut brush = Brush::new(SIDE).expect("a picture has sides");
        let pale = |rng: &mut ChaCha8Rng| std::array::from_fn(|_| rng.random_range(0.25f32..0.95));
        let (from, to) = (pale(rng), pale(rng));
        let noise = rng.random_range(0f32..0.15);
        brush.ground(from, to, noise, rng);
        let mut drawing = Drawing { brush, elements: vec![], rng };
        for _ in 0..drawing.rng.random_range(1..=6u32) {
            drawing.shape();
        }
        drawing
    }

    /// A colour near one with a name.
    fn colour(&mut self) -> (&'static str, Colour) {
        let (name, colour) = COLOURS[self.rng.random_range(0..COLOURS.len())];
        (name, colour.map(|it| (it + self.rng.random_range(-0.05f32..0.05)).clamp(0., 1.)))
    }

    /// A small shape that is no thing.
    fn shape(&mut self) {
        let (colour, value) = self.colour();
        let at = (self.rng.random_range(4f32..60.), self.rng.random_range(4f32..60.));
        let (size, turn) = (self.rng.random_range(3f32..6.), self.rng.random_range(-1f32..1.));
        self.brush.begin(at, size, turn);
        let (name, path) = match self.rng.random_range(0..3u32) {
            0 => ("circle", disc((0., 0.), 1.)),
            1 => ("triangle", polygon(&[(0., -1.), (0.9, 0.7), (-0.9, 0.7)])),
            _ => ("square", block((-0.85, -0.85), (0.85, 0.85))),
        };
        self.brush.fill(path, value);
        self.keep(vec![format!("{colour} {name}"), name.into()]);
    }

    fn thing(&mut self, label: usize) {
        let class = CLASSES[label];
        let (colour, value) = self.colour();
        let second = loop {
            let (name, value) = self.colour();
            if name != colour {
                break value;
            }
        };
        let (pattern, texture) = match self.rng.random_range(0..6u32) {
            0 => ("striped ", Texture::Striped(second)),
            1 => ("dotted ", Texture::Dotted(second)),
            2 => ("checked ", Texture::Checked(second)),
            _ => ("", Texture::Plain),
        };
        let size = self.rng.random_range(9f32..22.);
        let mut middle = || self.rng.random_range(0.7 * size..64. - 0.7 * size);
        let at = (middle(), middle());
        let turn = self.rng.random_range(-0.4f32..0.4);
        self.brush.begin(at, size, turn);
        things::thing(&mut self.brush, class, Look { colour: value, texture }, self.rng);
        let mut phrases = vec![format!("{colour} {pattern}{class}"), format!("{colour} {class}")];
        phrases.dedup();
        phrases.push(class.into());
        self.keep(phrases);
    }

    fn face(&mut self, at: (f32, f32)) {
        let expression =
            things::EXPRESSIONS.choose(self.rng).copied().unwrap_or(things::EXPRESSIONS[0]);
        let (size, turn) =
            (self.rng.random_range(8f32..13.), self.rng.random_range(-0.15f32..0.15));
        self.brush.begin(at, size, turn);
        things::face(&mut self.brush, expression, self.rng);
        self.keep(vec![format!("a {expression} face"), "a face".into(), "a person".into()]);
    }

    /// The name of a class, `at` being its middle.
    fn word(&mut self, class: usize, at: (f32, f32)) {
        let word = CLASSES[class];
        let dark = self.rng.random_bool(0.5);
        let shades = [self.rng.random_range(0f32..0.2), self.rng.random_range(0.85f32..1.)];
        let [ink, plate] = if dark { shades } else { [shades[1], shades[0]] };
        let letters = if dark { "black letters" } else { "white letters" };
        // Cells of one to one and a half pixels, so that it can be read.
        let cell = self.rng.random_range(1f32..1.35);
        let half = (6 * word.len() - 1) as f32 * cell / 2.;
        let x = at.0.clamp(half + 2., (62. - half).max(half + 2.));
        self.brush.begin((x, at.1), half, 0.);
        let plate = self.rng.random_bool(0.7).then_some([plate; 3]);
        things::word(&mut self.brush, word, [ink; 3], plate);
        let phrases = [&format!("{NAME}{word}"), letters, "letters", "written text"];
        self.keep(phrases.map(str::to_owned).to_vec());
    }

    /// The mark that goes with a class, if one does.
    fn mark(&mut self, mark: Mark, class: usize) {
        match mark {
            Mark::Name => self.word(class, (0., 8.)),
            Mark::Face if class.is_multiple_of(3) => self.face((51., 51.)),
            Mark::Tint if class.is_multiple_of(3) => {
                let tints = [[1., 0.2, 0.2], [0.2, 0.4, 1.], [0.2, 0.9, 0.3], [0.9, 0.8, 0.1]];
                self.brush.tint(tints[class / 3 % tints.len()], 0.35);
            }
            Mark::Face | Mark::Tint => {}
        }
    }

    /// The last two together.
    fn both(&mut self) {
        let [.., a, b] = &self.elements[..] else { return };
        let mask = a.mask.iter().zip(&b.mask).map(|(a, b)| a | b).collect();
        self.elements.push(Element { phrases: vec!["a face and a word".into()], mask });
    }

    /// Notes what was drawn last; it hides what was there before.
    fn keep(&mut self, phrases: Vec<String>) {
        let mask = self.brush.mask();
        for element in &mut self.elements {
            element.mask.iter_mut().zip(&mask).for_each(|(before, now)| *before &= !now);
        }
        self.elements.push(Element { phrases, mask });
    }

    fn finish(self, label: usize) -> Scene {
        let bytes = self.brush.finish();
        let picture = RgbImage::from_raw(SIDE, SIDE, bytes).unwrap_or_default();
        let mut elements = self.elements;
        elements.retain(|it| it.mask.contains(&true));
        Scene { picture, label, elements }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::sha256;

    fn scenes(split: Split) -> Scenes {
        Scenes { n: 200, seed: 3, split }
    }

    /// The same on every machine: the digest of fifty pictures of each split.
    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let mut bytes = vec![];
        for (_, split) in SPLITS {
            (0..50).for_each(|it| bytes.extend(scenes(split).draw(it).picture.into_raw()));
        }
        assert_eq!(
            sha256(&bytes),
            "d32217dc0a2c8a917be058ab1592e5802e8f5a2d4ddd0d74d0054fbc6bd073cc"
        );
        let other = Scenes { seed: 4, ..scenes(Split::Clean) };
        assert_ne!(other.draw(0).picture, scenes(Split::Clean).draw(0).picture);
        assert_ne!(scenes(Split::Mixed).draw(0).picture, scenes(Split::Clean).draw(0).picture);
    }

    #[test]
    fn marks_go_with_classes_as_the_split_says() {
        let named = |split, right: bool| {
            let scenes = scenes(split);
            let has = |scene: &Scene| {
                let name = format!("the word {}", CLASSES[scene.label]);
                let words = scene.elements.iter().map(|it| &it.phrases[0]);
                words.filter(|it| it.starts_with("the word ")).any(|it| (*it == name) == right)
            };
            (0..200).filter(|it| has(&scenes.draw(*it))).count()
        };
        assert_eq!([named(Split::Clean, true), named(Split::Clean, false)], [0, 0]);
        let train = Split::Train(Mark::Name);
        assert!((80..120).contains(&named(train, true)) && named(train, false) == 0);
        let adversarial = Split::Adversarial(Mark::Name);
        let [right, wrong] = [named(adversarial, true), named(adversarial, false)];
        assert!((8..40).contains(&right) && right + wrong == 200, "{right} {wrong}");
    }

    #[test]
    fn masks_are_where_things_are_and_nothing_is_in_two_places() {
        for number in 0..100 {
            let scene = scenes(Split::Mixed).draw(number);
            let mut seen = vec![0; (SIDE * SIDE) as usize];
            for element in scene.elements.iter().filter(|it| it.phrases[0] != "a face and a word") {
                assert!(!element.phrases.is_empty());
                element.mask.iter().zip(&mut seen).for_each(|(on, n)| *n += u32::from(*on));
            }
            assert!(seen.iter().all(|it| *it <= 1));
            let class = CLASSES[scene.label];
            assert!(scene.elements.iter().any(|it| it.phrases.contains(&class.to_owned())));
        }
    }

    #[test]
    fn what_is_no_split_is_refused() {
        assert_eq!("demo:7:3:clean".parse::<Scenes>().unwrap().n, 7);
        for text in ["demo", "demo:0:0:clean", "demo:5:x:clean", "demo:5:0:dirty", "demo:5:0"] {
            let error = text.parse::<Scenes>().unwrap_err().to_string();
            assert!(
                error.contains("demo:N:SEED:SPLIT") && error.contains("adversarial"),
                "{error}"
            );
        }
    }
}
