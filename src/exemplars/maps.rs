//! What is asked of maps, whether the engine holds them or they were copied from another device.

use crate::model::engine::{Blocks, Survey};

/// The maps of some pictures, wherever they lie.
pub(super) trait Maps {
    /// Pictures, channels, height and width.
    fn dims(&self) -> (usize, usize, usize, usize);

    fn value(&self, picture: usize, channel: usize, cell: (usize, usize)) -> f32;

    /// The map of a channel, row after row.
    fn map(&self, picture: usize, channel: usize) -> Vec<f32>;

    /// Tells what there is on a picture.
    fn survey(&self, picture: usize, survey: &mut dyn Survey);

    /// The greatest of some values of a map.
    fn greatest(&self, picture: usize, channel: usize, cells: &[(usize, usize)]) -> Option<f32> {
        cells.iter().map(|&cell| self.value(picture, channel, cell)).max_by(f32::total_cmp)
    }
}

impl Maps for Blocks<'_> {
    fn dims(&self) -> (usize, usize, usize, usize) {
        self.dims()
    }

    fn value(&self, picture: usize, channel: usize, cell: (usize, usize)) -> f32 {
        self.value(picture, channel, cell)
    }

    fn map(&self, picture: usize, channel: usize) -> Vec<f32> {
        self.map(picture, channel)
    }

    fn survey(&self, picture: usize, survey: &mut dyn Survey) {
        self.survey(picture, survey);
    }
}

/// The mean of a map of which all values are the same.
pub(super) fn flat((least, most): (f32, f32)) -> Option<f64> {
    (least == most).then_some(f64::from(most))
}

/// Of a map's values, in their order and in double precision, so that it is the same wherever it is taken.
pub(super) fn mean(map: &[f32]) -> f64 {
    map.iter().copied().map(f64::from).sum::<f64>() / map.len() as f64
}
