//! Where a column of the batch comes from.
//!
//! Enters: what [`super::columns`] has decided. Leaves: for each tensor its column of the source, and
//! what is done with a value on its way. Plain data.

use loaderd_decode as decode;
use loaderd_wire::layout::DType;

use super::follow::Boxes;
use crate::source::ColumnRef;

/// Where the bytes of an encoded image come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// A value, by number among the source's bytes columns.
    Bytes(usize),
    /// A file that a value names, by number among the source's variable columns.
    File(usize),
}

impl Input {
    /// The column of the source.
    pub fn column(self) -> ColumnRef {
        match self {
            Input::Bytes(column) => ColumnRef::Bytes(column),
            Input::File(column) => ColumnRef::Variable(column),
        }
    }

    /// A number of its own for each column, for the draws of its transforms.
    pub fn number(self) -> u32 {
        match self {
            Input::Bytes(column) => column as u32,
            Input::File(column) => 1 << 16 | column as u32,
        }
    }
}

/// Where a column of the batch comes from.
#[derive(Debug)]
pub enum Origin {
    /// An image in the size that its transforms give it: dense.
    Image {
        /// The encoded image.
        input: Input,
        /// What makes pixels of it.
        pipeline: decode::Pipeline,
    },
    /// A mask that is placed as its image is: dense.
    PixelMask {
        /// The encoded mask.
        input: Input,
        /// The tensor of the image.
        image: usize,
        /// What the image is put through.
        pipeline: Box<decode::Pipeline>,
        /// The value outside the picture.
        fill: u8,
    },
    /// Boxes that move with their image: ragged.
    Boxes {
        /// Number among the source's variable columns.
        column: usize,
        /// Of their numbers in the dataset.
        dtype: DType,
        /// The tensor of the image.
        image: usize,
        /// How.
        rule: Boxes,
        /// Tensors from which entries are dropped along with boxes.
        with: Vec<usize>,
    },
    /// An image in its own size: ragged.
    Decoded {
        /// The encoded image.
        input: Input,
        /// How it is decoded.
        options: decode::Options,
    },
    /// Bytes as they are, by number among the source's bytes columns: ragged.
    Raw {
        /// Number among the source's bytes columns.
        column: usize,
    },
    /// Copied from a variable column of the source: ragged.
    Ragged {
        /// Number among the source's variable columns.
        column: usize,
    },
    /// Copied from a fixed column of the source.
    Fixed {
        /// Number among the source's fixed columns.
        column: usize,
    },
    /// Whether another column is not null, bool.
    IsValid {
        /// The other column.
        of: ColumnRef,
    },
    /// `_rowid`, int64.
    RowId,
    /// `_rowaddr`, int64.
    RowAddress,
    /// `_valid`, bool.
    Valid,
}

impl Origin {
    /// What has to be fetched for each row, if anything has.
    pub fn input(&self) -> Option<Input> {
        match self {
            Origin::Image { input, .. }
            | Origin::PixelMask { input, .. }
            | Origin::Decoded { input, .. } => Some(*input),
            Origin::Raw { column } => Some(Input::Bytes(*column)),
            _ => None,
        }
    }

    /// The column of the source whose values it delivers, if they vary in length.
    pub fn column(&self) -> Option<ColumnRef> {
        match self.variable() {
            Some(column) => Some(ColumnRef::Variable(column)),
            None => self.input().map(Input::column),
        }
    }

    /// The variable column of the source whose values are packed.
    pub fn variable(&self) -> Option<usize> {
        match self {
            Origin::Ragged { column } | Origin::Boxes { column, .. } => Some(*column),
            _ => None,
        }
    }

    /// The tensor of the image that is followed.
    pub fn follows(&self) -> Option<usize> {
        match self {
            Origin::PixelMask { image, .. } | Origin::Boxes { image, .. } => Some(*image),
            _ => None,
        }
    }
}
