//! Paths on a picture, with a record of which pixels belong to what is being drawn.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tiny_skia::{
    Color, FillRule, Mask, Paint, Path, PathBuilder, Pixmap, Rect, Shader, Stroke, Transform,
};

/// Red, green and blue in 0..=1.
pub(super) type Colour = [f32; 3];

/// How a surface looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) colour: Colour,
    pub(super) texture: Texture,
}

/// A pattern of a second colour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Texture {
    Plain,
    Striped(Colour),
    Dotted(Colour),
    Checked(Colour),
}

/// A picture being drawn. Coordinates of a thing are -1..1 in both directions, down being positive.
pub(super) struct Brush {
    pixmap: Pixmap,
    /// Where the pixels of the thing being drawn are.
    own: Mask,
    /// From the thing's coordinates to pixels.
    place: Transform,
}

impl Brush {
    pub(super) fn new(side: u32) -> Option<Brush> {
        let (pixmap, own) = (Pixmap::new(side, side)?, Mask::new(side, side)?);
        Some(Brush { pixmap, own, place: Transform::identity() })
    }

    /// Begins a thing at `x`, `y`, `size` pixels from its middle to its edge, turned by `turn`: half the angle's tangent.
    pub(super) fn begin(&mut self, (x, y): (f32, f32), size: f32, turn: f32) {
        // Without sine and cosine, which differ from machine to machine in their last digit.
        let length = 1. + turn * turn;
        let (cos, sin) = (size * (1. - turn * turn) / length, size * 2. * turn / length);
        self.place = Transform::from_row(cos, sin, -sin, cos, x, y);
        self.own.clear();
    }

    /// The pixels of the thing, row after row.
    pub(super) fn mask(&self) -> Vec<bool> {
        self.own.data().iter().map(|it| 127 < *it).collect()
    }

    pub(super) fn fill(&mut self, path: Option<Path>, colour: Colour) {
        let Some(path) = path else { return };
        let fill = FillRule::Winding;
        self.pixmap.fill_path(&path, &paint(colour), fill, self.place, None);
        self.own.fill_path(&path, fill, true, self.place);
    }

    /// A surface with its texture.
    pub(super) fn cover(&mut self, path: Option<Path>, look: Look) {
        let Some(path) = path else { return };
        self.fill(Some(path.clone()), look.colour);
        let (pattern, second) = match look.texture {
            Texture::Plain => return,
            Texture::Striped(second) => (stripes(), second),
            Texture::Dotted(second) => (dots(), second),
            Texture::Checked(second) => (checks(), second),
        };
        let Some(mut inside) = Mask::new(self.pixmap.width(), self.pixmap.height()) else { return };
        inside.fill_path(&path, FillRule::Winding, true, self.place);
        if let Some(pattern) = pattern {
            let (fill, paint) = (FillRule::Winding, paint(second));
            self.pixmap.fill_path(&pattern, &paint, fill, self.place, Some(&inside));
        }
    }

    /// A line of some width, in the thing's coordinates.
    pub(super) fn line(&mut self, points: &[(f32, f32)], width: f32, colour: Colour) {
        let stroke = Stroke { width, ..Stroke::default() };
        let outline = through(points).finish().and_then(|it| it.stroke(&stroke, 8.));
        self.fill(outline, colour);
    }

    /// Fills everything with a slope from one colour to another, and a little noise.
    pub(super) fn ground(&mut self, from: Colour, to: Colour, noise: f32, rng: &mut ChaCha8Rng) {
        let side = self.pixmap.width() as f32;
        let width = self.pixmap.width() as usize;
        for (at, pixel) in self.pixmap.pixels_mut().iter_mut().enumerate() {
            let share = (at / width) as f32 / side;
            let shade = rng.random_range(-1f32..1.) * noise;
            let value = |i: usize| (from[i] + (to[i] - from[i]) * share + shade).clamp(0., 1.);
            *pixel = opaque([0, 1, 2].map(value)).premultiply().to_color_u8();
        }
    }

    /// Lays a colour over everything, so much of it.
    pub(super) fn tint(&mut self, colour: Colour, share: f32) {
        for pixel in self.pixmap.pixels_mut() {
            let old = [pixel.red(), pixel.green(), pixel.blue()].map(|it| f32::from(it) / 255.);
            let value = |i: usize| old[i] + (colour[i] - old[i]) * share;
            *pixel = opaque([0, 1, 2].map(value)).premultiply().to_color_u8();
        }
    }

    /// Bytes of red, green and blue, row after row.
    pub(super) fn finish(self) -> Vec<u8> {
        let pixels = self.pixmap.pixels().iter();
        pixels.flat_map(|it| [it.red(), it.green(), it.blue()]).collect()
    }
}

fn paint(colour: Colour) -> Paint<'static> {
    Paint { shader: Shader::SolidColor(opaque(colour)), anti_alias: true, ..Paint::default() }
}

fn opaque([red, green, blue]: Colour) -> Color {
    Color::from_rgba(red, green, blue, 1.).unwrap_or(Color::BLACK)
}

pub(super) fn disc((x, y): (f32, f32), radius: f32) -> Option<Path> {
    PathBuilder::from_circle(x, y, radius)
}

pub(super) fn oval((x, y): (f32, f32), (width, height): (f32, f32)) -> Option<Path> {
    Rect::from_xywh(x - width, y - height, 2. * width, 2. * height).and_then(PathBuilder::from_oval)
}

pub(super) fn block((left, top): (f32, f32), (right, bottom): (f32, f32)) -> Option<Path> {
    Rect::from_ltrb(left, top, right, bottom).map(PathBuilder::from_rect)
}

pub(super) fn polygon(points: &[(f32, f32)]) -> Option<Path> {
    let mut path = through(points);
    path.close();
    path.finish()
}

/// Straight lines from point to point.
fn through(points: &[(f32, f32)]) -> PathBuilder {
    let mut path = PathBuilder::new();
    for (at, &(x, y)) in points.iter().enumerate() {
        if at == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    path
}

/// The upper half of an oval.
pub(super) fn dome((x, y): (f32, f32), (width, height): (f32, f32)) -> Option<Path> {
    let mut path = PathBuilder::new();
    path.move_to(x - width, y);
    path.cubic_to(x - width, y - 1.33 * height, x + width, y - 1.33 * height, x + width, y);
    path.close();
    path.finish()
}

fn stripes() -> Option<Path> {
    let mut path = PathBuilder::new();
    for at in 0..5 {
        let left = -0.95 + 0.4 * at as f32;
        path.push_rect(Rect::from_ltrb(left, -1.2, left + 0.18, 1.2)?);
    }
    path.finish()
}

fn dots() -> Option<Path> {
    let mut path = PathBuilder::new();
    for at in 0..36 {
        let (x, y) = ((at % 6) as f32, (at / 6) as f32);
        path.push_circle(0.36 * x - 0.9, 0.36 * y - 0.9, 0.1);
    }
    path.finish()
}

fn checks() -> Option<Path> {
    let mut path = PathBuilder::new();
    for at in (0..64).filter(|at| (at % 8 + at / 8) % 2 == 0) {
        let (x, y) = (0.25 * (at % 8) as f32 - 1., 0.25 * (at / 8) as f32 - 1.);
        path.push_rect(Rect::from_ltrb(x, y, x + 0.25, y + 0.25)?);
    }
    path.finish()
}
