//! How maps lie in memory while the engine works on them.

use std::ops::Range;

/// Values that begin where a cache line does: a vector that crosses a line is read twice.
#[derive(Default)]
pub(super) struct Aligned {
    values: Vec<f32>,
    start: usize,
    len: usize,
}

/// Values of f32 in a cache line.
const LINE: usize = 16;

impl Aligned {
    pub(super) fn zeros(len: usize) -> Aligned {
        let values = vec![0f32; len + LINE - 1];
        let start = values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE - 1);
        Aligned { values, start, len }
    }

    /// At least so many values; what they are is left open.
    pub(super) fn grow(&mut self, len: usize) {
        if self.len < len {
            *self = Aligned::zeros(len);
        }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..][..self.len]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..][..self.len]
    }
}

/// The map of one picture: channels in blocks of `lanes`, in a block row after row, in a row position after
/// position, at a position its `lanes` channels side by side. Around each block lie zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) c: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    /// Zeros above and left.
    pub(super) top: usize,
    pub(super) left: usize,
    /// Of a block, zeros included.
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Channels of a block; 1 for pictures, whose few channels would leave most lanes empty.
    pub(super) lanes: usize,
}

impl Shape {
    pub(super) fn new((c, h, w): (usize, usize, usize), around: Around, lanes: usize) -> Shape {
        let Around { top, bottom, left, right } = around;
        Shape { c, h, w, top, left, rows: top + h + bottom, columns: left + w + right, lanes }
    }

    pub(super) fn blocks(&self) -> usize {
        self.c.div_ceil(self.lanes)
    }

    /// Values from one row to the next, from one block to the next, from one picture to the next.
    pub(super) fn row(&self) -> usize {
        self.columns * self.lanes
    }

    pub(super) fn block(&self) -> usize {
        self.rows * self.row()
    }

    pub(super) fn picture(&self) -> usize {
        self.blocks() * self.block()
    }

    /// The place of a position in its picture.
    pub(super) fn at(&self, block: usize, y: usize, x: usize) -> usize {
        block * self.block() + (y + self.top) * self.row() + (x + self.left) * self.lanes
    }

    /// The places of a row of a block, zeros around it left out.
    pub(super) fn line(&self, picture: usize, block: usize, y: usize) -> Range<usize> {
        let start = picture * self.picture() + self.at(block, y, 0);
        start..start + self.w * self.lanes
    }

    /// Whether the rows of the map follow each other without zeros between them.
    pub(super) fn is_flat(&self) -> bool {
        self.columns == self.w
    }
}

/// Zeros on each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Around {
    pub(super) top: usize,
    pub(super) bottom: usize,
    pub(super) left: usize,
    pub(super) right: usize,
}

impl Around {
    /// Enough for both.
    pub(super) fn max(self, other: Around) -> Around {
        Around {
            top: self.top.max(other.top),
            bottom: self.bottom.max(other.bottom),
            left: self.left.max(other.left),
            right: self.right.max(other.right),
        }
    }
}

/// The maps of `n` pictures.
pub(super) struct Maps {
    pub(super) n: usize,
    pub(super) shape: Shape,
    pub(super) values: Aligned,
}

impl Default for Maps {
    fn default() -> Maps {
        let shape = Shape::new((0, 0, 0), Around::default(), 1);
        Maps { n: 0, shape, values: Aligned::default() }
    }
}

impl Maps {
    pub(super) fn zeros(n: usize, shape: Shape) -> Maps {
        Maps { n, shape, values: Aligned::zeros(n * shape.picture()) }
    }

    /// Some of the pictures.
    pub(super) fn part(&self, pictures: Range<usize>) -> Part<'_> {
        let each = self.shape.picture();
        let values = &self.values[pictures.start * each..pictures.end * each];
        Part { n: pictures.len(), shape: self.shape, values }
    }

    pub(super) fn part_mut(&mut self, pictures: Range<usize>) -> PartMut<'_> {
        let each = self.shape.picture();
        let values = &mut self.values[pictures.start * each..pictures.end * each];
        PartMut { n: pictures.len(), shape: self.shape, values }
    }
}

/// The maps of some pictures.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) n: usize,
    pub(super) shape: Shape,
    pub(super) values: &'a [f32],
}

pub(super) struct PartMut<'a> {
    pub(super) n: usize,
    pub(super) shape: Shape,
    pub(super) values: &'a mut [f32],
}

impl PartMut<'_> {
    pub(super) fn part(&self) -> Part<'_> {
        Part { n: self.n, shape: self.shape, values: self.values }
    }

    /// Takes `(n, c, h, w)` in.
    pub(super) fn read(&mut self, values: &[f32]) {
        let shape = self.shape;
        for (picture, block, y, lane, channel) in self.part().rows() {
            let row = &mut self.values[shape.line(picture, block, y)];
            let from = &values[((picture * shape.c + channel) * shape.h + y) * shape.w..];
            let to = row.chunks_exact_mut(shape.lanes);
            to.zip(from).for_each(|(to, &from)| to[lane] = from);
        }
    }
}

impl Part<'_> {
    /// As `(n, c, h, w)`.
    pub(super) fn write(&self) -> Vec<f32> {
        let shape = self.shape;
        let mut values = vec![0.; self.n * shape.c * shape.h * shape.w];
        for (picture, block, y, lane, channel) in self.rows() {
            let row = &self.values[shape.line(picture, block, y)];
            let to = &mut values[((picture * shape.c + channel) * shape.h + y) * shape.w..];
            let from = row.chunks_exact(shape.lanes);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from[lane]);
        }
        values
    }

    /// Every row of every channel: picture, block, y, lane, and the channel that these are.
    fn rows(&self) -> impl Iterator<Item = (usize, usize, usize, usize, usize)> + use<> {
        let Shape { c, h, lanes, .. } = self.shape;
        let blocks = (0..self.n).flat_map(move |n| (0..c.div_ceil(lanes)).map(move |it| (n, it)));
        let lines = blocks.flat_map(move |(n, block)| (0..h).map(move |y| (n, block, y)));
        lines.flat_map(move |(n, block, y)| {
            let lanes_here = lanes.min(c - block * lanes);
            (0..lanes_here).map(move |lane| (n, block, y, lane, block * lanes + lane))
        })
    }
}
