//! Columns that follow an image: its boxes and its masks.
//!
//! Enters: a column's transform and the request it stands in. Leaves: a [`Follower`] with its
//! bounds checked, the pipeline of the image it follows, and where that is; or a refusal that
//! says what to change. It sees no row.

use loaderd_decode as decode;
use loaderd_names::listed;
use loaderd_wire::layout::DType;
use loaderd_wire::message::OpenRequest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns;
use crate::source::{Field, Kind, RaggedKind};

/// What the numbers of a box are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BoxFormat {
    /// Left, top, right, bottom.
    #[default]
    Xyxy,
    /// Left, top, width, height.
    Xywh,
    /// The centre's column and row, width, height.
    Cxcywh,
}

/// A transform that takes everything from an image's own. Field order is the canonical order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", deny_unknown_fields)]
pub enum Follower {
    /// Boxes.
    BoundingBoxes(Boxes),
    /// A mask.
    Mask {
        /// The image's column.
        follows: String,
        /// The value outside the picture.
        #[serde(default)]
        fill: u8,
    },
}

/// How boxes follow their image, in the words of torchvision's `SanitizeBoundingBoxes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boxes {
    /// The image's column.
    pub follows: String,
    /// Of the boxes in the dataset, in pixels of the image.
    #[serde(default)]
    pub format: BoxFormat,
    /// Of the boxes delivered, in pixels of the finished image.
    #[serde(default)]
    pub format_out: BoxFormat,
    /// Least width and height of a box that is kept, in pixels of the finished image.
    #[serde(default = "one")]
    pub min_size: f32,
    /// Least area, likewise.
    #[serde(default = "one")]
    pub min_area: f32,
    /// Whether smaller boxes are dropped.
    #[serde(default = "yes")]
    pub drop_degenerate: bool,
    /// Columns of one entry a box, from which the same entries are dropped.
    #[serde(default)]
    pub with_columns: Vec<String>,
}

fn one() -> f32 {
    1.0
}

fn yes() -> bool {
    true
}

impl Follower {
    /// The follower that a transform list is, if it is one.
    pub(super) fn parse(transform: &Value) -> Option<Result<Follower, String>> {
        let steps = transform.as_array()?;
        let follows = |step: &&Value| step["name"] == "BoundingBoxes" || step["name"] == "Mask";
        let step = steps.iter().find(follows)?;
        let name = step["name"].as_str().unwrap_or_default();
        if steps.len() > 1 {
            return Some(Err(format!(
                "{name} stands alone: crop, resize and flips are those of the image it follows"
            )));
        }
        let follower = serde_json::from_value(step.clone())
            .map_err(|error| format!("{name}: {error}"))
            .and_then(|follower: Follower| follower.check().map(|()| follower));
        Some(follower)
    }

    fn check(&self) -> Result<(), String> {
        let Follower::BoundingBoxes(boxes) = self else {
            return Ok(());
        };
        for (field, value) in [("min_size", boxes.min_size), ("min_area", boxes.min_area)] {
            if !(value >= 1.0 && value.is_finite()) {
                return Err(format!(
                    "BoundingBoxes: {field} must be at least 1, found {value}"
                ));
            }
        }
        Ok(())
    }

    /// The column of the image.
    pub fn follows(&self) -> &str {
        match self {
            Follower::BoundingBoxes(boxes) => &boxes.follows,
            Follower::Mask { follows, .. } => follows,
        }
    }

    /// With every default written out, as JSON.
    pub(super) fn canonical(&self) -> String {
        serde_json::to_string(self).expect("finite numbers and plain names serialise")
    }

    /// The number, among the request's columns, of the image that is followed, and its
    /// pipeline.
    pub(super) fn image(
        &self,
        request: &OpenRequest,
        fields: &[Field],
    ) -> Result<(usize, decode::Pipeline), String> {
        let follows = self.follows();
        let image = position(request, fields, follows)?;
        let field = columns::field_of(follows, fields);
        let images = field.is_some_and(|field| match &field.kind {
            Kind::Bytes => true,
            Kind::Ragged(kind) => kind.text && kind.levels == 1,
            _ => false,
        });
        // What follows itself, or keeps every image's own size, has no one size to give.
        let sizes = |transform: &&Value| {
            images
                && !transform
                    .as_array()
                    .is_some_and(|steps| steps.iter().any(|step| step["name"] == columns::DECODE))
                && Follower::parse(transform).is_none()
        };
        let Some(transform) = request.transform.get(follows).filter(sizes) else {
            return Err(format!(
                "it follows {follows:?}, which is no column of images that a transform gives one size"
            ));
        };
        let pipeline = decode::Pipeline::parse(transform, columns::options(request))
            .map_err(|error| format!("it follows {follows:?}, of which {error}"))?;
        pipeline
            .check_followers()
            .map_err(|error| format!("it follows {follows:?}, of which {error}"))?;
        Ok((image, pipeline))
    }
}

impl Boxes {
    /// The numbers, among the request's columns, of [`Boxes::with_columns`].
    pub(super) fn with(
        &self,
        request: &OpenRequest,
        fields: &[Field],
    ) -> Result<Vec<usize>, String> {
        let mut with = Vec::new();
        for name in &self.with_columns {
            let column = position(request, fields, name)?;
            let lists = columns::field_of(name, fields).is_some_and(
                |field| matches!(&field.kind, Kind::Ragged(kind) if !(kind.text && kind.levels == 1)),
            );
            if !lists || request.transform.contains_key(name) {
                return Err(format!(
                    "with_columns names {name:?}, which is no column of lists without a transform"
                ));
            }
            if with.contains(&column) {
                return Err(format!("with_columns names {name:?} twice"));
            }
            with.push(column);
        }
        Ok(with)
    }

    /// Refuses columns that hold no boxes.
    pub(super) fn check_kind(kind: &Kind) -> Result<DType, String> {
        match kind {
            Kind::Ragged(RaggedKind {
                dtype: dtype @ (DType::Float32 | DType::Float64 | DType::Int32 | DType::Int64),
                shape,
                levels: 1,
                text: false,
            }) if shape == &[4] => Ok(*dtype),
            _ => Err(
                "BoundingBoxes works on lists of fixed-size lists of 4 numbers: float32, float64, int32 or int64"
                    .into(),
            ),
        }
    }
}

/// The number of a column among those asked for.
fn position(request: &OpenRequest, fields: &[Field], name: &str) -> Result<usize, String> {
    let position = request.columns.iter().position(|column| column == name);
    position.ok_or_else(|| match columns::field_of(name, fields) {
        Some(_) => format!(
            "{name:?} is not among columns {}: ask for it too",
            listed(&request.columns)
        ),
        None => columns::missing(name, request, fields),
    })
}
