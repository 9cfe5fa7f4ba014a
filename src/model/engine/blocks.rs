//! Maps as the engine holds them, for whoever looks at every value while it is in the cache.

use candle_core::Tensor;

use super::edges::read;
use super::layout::{Around, Maps, PartMut, Shape};
use super::vector::{Isa, MOST_LANES, Vector, Work};

/// The maps of some pictures.
pub struct Blocks<'a> {
    isa: Isa,
    maps: PartMut<'a>,
    /// What is seen of them.
    shape: Shape,
}

/// What is told about the channels of a picture.
pub trait Survey {
    /// Values of a channel that are not above it are of no interest.
    fn floor(&self, channel: usize) -> f32;

    /// Values above the floor, or what it was a little while ago. It may rise by them.
    fn above(&mut self, channel: usize, values: &[f32]);

    /// The least and the greatest value of a channel; nothing where one is NaN or infinite.
    fn range(&mut self, channel: usize, range: Option<(f32, f32)>);
}

impl<'a> Blocks<'a> {
    pub(super) fn new(isa: Isa, maps: PartMut<'a>) -> Blocks<'a> {
        let shape = maps.shape;
        Blocks { isa, maps, shape }
    }

    /// Tokens as the map of their patches. The class token, before its first row, is not seen.
    pub(super) fn of_tokens(isa: Isa, tokens: PartMut<'a>, side: usize) -> Blocks<'a> {
        let Shape { c, lanes, .. } = tokens.shape;
        // A token later the rows of a map of one row more.
        let around = Around { bottom: 1, ..Around::default() };
        let shape = Shape { left: 1, ..Shape::new((c, side, side), around, lanes) };
        debug_assert_eq!(shape.block(), tokens.shape.block());
        Blocks { isa, maps: tokens, shape }
    }

    /// Lets `work` see `(n, c, h, w)` as if the engine had computed it.
    pub fn of<T>(ys: &Tensor, work: impl FnOnce(&Blocks<'_>) -> T) -> anyhow::Result<T> {
        let isa = Isa::best();
        let (n, c, h, w) = ys.dims4()?;
        let mut maps = Maps::zeros(n, Shape::new((c, h, w), Around::default(), isa.lanes()));
        let mut maps = maps.part_mut(0..n);
        read(&mut maps, ys)?;
        Ok(work(&Blocks::new(isa, maps)))
    }

    /// Pictures, channels, height and width.
    pub fn dims(&self) -> (usize, usize, usize, usize) {
        let Shape { c, h, w, .. } = self.shape;
        (self.maps.n, c, h, w)
    }

    pub fn value(&self, picture: usize, channel: usize, (y, x): (usize, usize)) -> f32 {
        let shape = self.shape;
        let at = shape.at(channel / shape.lanes, y, x) + channel % shape.lanes;
        self.maps.values[picture * shape.picture() + at]
    }

    /// The map of a channel, row after row.
    pub fn map(&self, picture: usize, channel: usize) -> Vec<f32> {
        let shape = self.shape;
        let (block, lane) = (channel / shape.lanes, channel % shape.lanes);
        let mut map = Vec::with_capacity(shape.h * shape.w);
        for y in 0..shape.h {
            let row = &self.maps.values[shape.line(picture, block, y)];
            map.extend(row.chunks_exact(shape.lanes).map(|position| position[lane]));
        }
        map
    }

    /// Sets a channel to zero in all pictures, at what is not seen as well.
    pub fn silence(&mut self, channel: usize) {
        let shape = self.maps.shape;
        let (block, lane) = (channel / shape.lanes, channel % shape.lanes);
        for picture in 0..self.maps.n {
            for y in 0..shape.h {
                let row = &mut self.maps.values[shape.line(picture, block, y)];
                row.iter_mut().skip(lane).step_by(shape.lanes).for_each(|it| *it = 0.);
            }
        }
    }

    /// Goes through all values of a picture once.
    pub fn survey(&self, picture: usize, survey: &mut dyn Survey) {
        self.isa.run(Job { blocks: self, picture, survey });
    }
}

struct Job<'a> {
    blocks: &'a Blocks<'a>,
    picture: usize,
    survey: &'a mut dyn Survey,
}

impl Work for Job<'_> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        let Job { blocks: Blocks { maps, shape, .. }, picture, survey } = self;
        for block in 0..shape.blocks() {
            let first = block * M::LANES;
            let channels = first..shape.c.min(first + M::LANES);
            // Nothing is above it where there is no channel.
            let mut floors = Lanes([f32::INFINITY; MOST_LANES]);
            for (floor, channel) in floors.0.iter_mut().zip(channels.clone()) {
                *floor = survey.floor(channel);
            }
            let mut floor = m.load(&floors.0);
            let nothing = m.splat(0.);
            let (mut least, mut most) = (m.splat(f32::INFINITY), m.splat(f32::NEG_INFINITY));
            let mut sum = nothing;
            let (mut found, mut n_found) = ([[0f32; FOUND]; MOST_LANES], [0; MOST_LANES]);
            for y in 0..shape.h {
                let row = &maps.values[shape.line(picture, block, y)];
                for position in row.chunks_exact(M::LANES) {
                    let value = m.load(position);
                    least = m.min(least, value);
                    most = m.max(most, value);
                    // What is not finite is not finite times nothing, either, and spoils the sum.
                    sum = m.mul_add(value, nothing, sum);
                    if m.is_any_above(value, floor) {
                        let mut above = m.above(value, floor);
                        while above != 0 {
                            let lane = above.trailing_zeros() as usize;
                            above &= above - 1;
                            let (found, n) = (&mut found[lane], &mut n_found[lane]);
                            found[*n] = position[lane];
                            *n += 1;
                            if *n == FOUND {
                                *n = 0;
                                survey.above(first + lane, found);
                                floors.0[lane] = survey.floor(first + lane);
                                floor = m.load(&floors.0);
                            }
                        }
                    }
                }
            }
            for (lane, channel) in channels.clone().enumerate() {
                survey.above(channel, &found[lane][..n_found[lane]]);
            }
            let mut ends = [Lanes([0.; MOST_LANES]); 3];
            m.store(least, &mut ends[0].0);
            m.store(most, &mut ends[1].0);
            m.store(sum, &mut ends[2].0);
            for (lane, channel) in channels.enumerate() {
                let [least, most, sum] = ends.map(|it| it.0[lane]);
                survey.range(channel, (sum == 0. && least <= most).then_some((least, most)));
            }
        }
    }
}

/// Values of a channel that are told together.
const FOUND: usize = 64;

/// One vector's values, where loading them is cheapest.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Lanes([f32; MOST_LANES]);

#[cfg(test)]
mod tests {
    use super::*;

    struct Found {
        floors: Vec<f32>,
        above: Vec<Vec<f32>>,
        ranges: Vec<Option<(f32, f32)>>,
    }

    impl Survey for Found {
        fn floor(&self, channel: usize) -> f32 {
            self.floors[channel]
        }

        fn above(&mut self, channel: usize, values: &[f32]) {
            self.above[channel].extend(values);
            self.floors[channel] = values.iter().copied().fold(self.floors[channel], f32::max);
        }

        fn range(&mut self, channel: usize, range: Option<(f32, f32)>) {
            self.ranges[channel] = range;
        }
    }

    #[test]
    fn a_survey_tells_what_is_there() {
        let (n, c, h, w) = (2, 21, 9, 13);
        let value = |i: usize| ((i * 7919) % 1009) as f32 / 8. - 60.;
        let mut values: Vec<f32> = (0..n * c * h * w).map(value).collect();
        values[c * h * w + 4 * h * w + 2] = f32::NAN;
        values[c * h * w + 20 * h * w] = f32::NEG_INFINITY;
        for isa in [Isa::best(), Isa::Plain, Isa::Wide] {
            // Zeros around the maps are not values of them.
            let around = Around { top: 1, bottom: 2, left: 1, right: 1 };
            let mut maps = Maps::zeros(n, Shape::new((c, h, w), around, isa.lanes()));
            maps.part_mut(0..n).read(&values);
            let blocks = Blocks::new(isa, maps.part_mut(0..n));
            assert_eq!(blocks.dims(), (n, c, h, w));
            for picture in 0..n {
                let mut found = Found {
                    floors: vec![-10.; c],
                    above: vec![vec![]; c],
                    ranges: vec![Some((0., 0.)); c],
                };
                blocks.survey(picture, &mut found);
                for channel in 0..c {
                    let map = &values[(picture * c + channel) * h * w..][..h * w];
                    let seen = blocks.map(picture, channel);
                    assert!(seen.iter().zip(map).all(|(a, b)| a.to_bits() == b.to_bits()));
                    // Once so many were told the floor had risen to the highest.
                    let above: Vec<f32> = map.iter().copied().filter(|it| -10. < *it).collect();
                    let (told, later) = above.split_at(above.len().min(FOUND));
                    let floor = told.iter().copied().fold(-10., f32::max);
                    let later = later.iter().filter(|it| floor < **it);
                    let wanted: Vec<f32> = told.iter().chain(later).copied().collect();
                    assert_eq!(found.above[channel], wanted);
                    let low = map.iter().copied().reduce(f32::min).unwrap();
                    let high = map.iter().copied().reduce(f32::max).unwrap();
                    let finite = map.iter().all(|it| it.is_finite());
                    assert_eq!(found.ranges[channel], finite.then_some((low, high)), "{channel}");
                }
            }
        }
    }

    /// Of 11 channels at a class token and 3×3 patches, as tokens `(t, c)` the values in their order.
    fn tokens(isa: Isa) -> (Maps, impl Fn(usize, usize) -> f32) {
        let value = |token: usize, channel: usize| (token * 11 + channel) as f32 + 1.;
        let around = Around { right: 2, ..Around::default() };
        let mut tokens = Maps::zeros(2, Shape::new((11, 1, 10), around, isa.lanes()));
        let planes: Vec<f32> = (0..2 * 110).map(|it| value(it % 10, it / 10 % 11)).collect();
        tokens.part_mut(0..2).read(&planes);
        (tokens, value)
    }

    #[test]
    fn tokens_are_seen_as_the_map_of_their_patches() {
        for isa in [Isa::best(), Isa::Plain, Isa::Wide] {
            let (mut tokens, value) = tokens(isa);
            let blocks = Blocks::of_tokens(isa, tokens.part_mut(0..2), 3);
            assert_eq!(blocks.dims(), (2, 11, 3, 3));
            let mut found =
                Found { floors: vec![0.; 11], above: vec![vec![]; 11], ranges: vec![None; 11] };
            blocks.survey(1, &mut found);
            for channel in 0..11 {
                let patches: Vec<f32> = (1..10).map(|token| value(token, channel)).collect();
                assert_eq!(blocks.map(1, channel), patches);
                assert_eq!(blocks.value(1, channel, (1, 2)), patches[5]);
                assert_eq!(found.above[channel], patches);
                assert_eq!(found.ranges[channel], Some((patches[0], patches[8])));
            }
        }
    }

    #[test]
    fn a_channel_is_silenced_at_every_token_the_class_token_among_them() {
        let (mut tokens, value) = tokens(Isa::Plain);
        Blocks::of_tokens(Isa::Plain, tokens.part_mut(0..2), 3).silence(9);
        for (at, now) in tokens.part(0..2).write().into_iter().enumerate() {
            let (token, channel) = (at % 10, at / 10 % 11);
            assert_eq!(now, if channel == 9 { 0. } else { value(token, channel) });
        }
    }

    #[test]
    fn a_channel_that_is_silenced_is_zero_and_no_other_is() {
        let values: Vec<f32> = (1..=2 * 19 * 6).map(|it| it as f32).collect();
        let mut maps = Maps::zeros(2, Shape::new((19, 2, 3), Around::default(), 8));
        maps.part_mut(0..2).read(&values);
        Blocks::new(Isa::Plain, maps.part_mut(0..2)).silence(17);
        for (at, (now, before)) in maps.part(0..2).write().iter().zip(&values).enumerate() {
            assert_eq!(*now, if at / 6 % 19 == 17 { 0. } else { *before });
        }
    }
}
