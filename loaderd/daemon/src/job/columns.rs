//! What every column that is asked for becomes.
//!
//! Enters: the request and the dataset's fields. Leaves: for each column where its values
//! come from and what kind of array they become, or a refusal that says what to ask for
//! instead. It reads no row.
//!
//! | the dataset has | without a transform | with one |
//! |---|---|---|
//! | numbers, fixed-size lists of them | dense | refused |
//! | lists, text, lists of them | ragged | boxes that follow an image; text: as bytes, in the files that it names |
//! | bytes | ragged uint8, untouched | images: dense, or ragged uint8 with `Decode()`; masks that follow one |
//!
//! `name._valid` is false where `name` is null. A null list, text or bytes is delivered
//! empty, a null float as NaN; whole numbers with nulls are refused unless `name._valid`
//! is asked for too. A null image is a bad sample.

use loaderd_decode as decode;
use loaderd_wire::layout::{DType, Layout, Ragged, Tensor};
use loaderd_wire::message::{Failure, FailureKind, OpenRequest};
use serde_json::Value;

use super::failure;
use super::follow::{Boxes, Follower};
use super::origin::{Input, Origin};
use crate::source::{ColumnRef, Field, Kind, RaggedKind, Source};

/// Stable row id.
const ROW_ID: &str = "_rowid";
/// Row address: fragment << 32 | offset.
const ROW_ADDRESS: &str = "_rowaddr";
/// False for rows that stand in: a rank's repeated row, a zeroed bad sample.
const VALID: &str = "_valid";
/// After a column's name: false where that column is null.
const VALID_OF: &str = "._valid";
/// The transform that keeps every image's size.
pub(super) const DECODE: &str = "Decode";

/// Most room that a slot gets for ragged columns without being asked, in bytes.
const VARIABLE_DEFAULT_MAX: u64 = 256 << 20;
/// Bytes of pixels that a byte of an encoded photo is reckoned to become: 202k pixels in
/// 110 KB, as in ImageNet, are 5.5; the rest is for photos that compress better.
const PIXELS_PER_BYTE: u64 = 8;

/// Bytes that an image file is reckoned to have: nobody has looked at them yet.
const FILE_BYTES: u64 = 100 << 10;

/// The columns, and what to ask the source for.
#[derive(Default)]
pub(super) struct Chosen {
    pub(super) bytes: Vec<String>,
    /// Those of them that are decoded, where it is the pixels that count and not the bytes.
    pub(super) tiled: Vec<String>,
    pub(super) fixed: Vec<String>,
    pub(super) variable: Vec<String>,
    /// One per tensor, in its order.
    pub(super) origins: Vec<Origin>,
    pub(super) tensors: Vec<Tensor>,
}

/// Decides for every column asked for what it becomes.
pub(super) fn choose(request: &OpenRequest, fields: &[Field]) -> Result<Chosen, Failure> {
    let mut chosen = Chosen::default();
    for name in &request.columns {
        let transform = request.transform.get(name);
        let (origin, tensor) = match field_of(name, fields) {
            Some(field) => {
                let refused = |(kind, text): (FailureKind, String)| {
                    failure(kind, format!("column {name:?} of {}: {text}", request.uri))
                };
                match transform.and_then(Follower::parse) {
                    Some(follower) => follower
                        .and_then(|follower| chosen.follower(request, field, fields, &follower))
                        .map_err(|text| refused((FailureKind::Transform, text)))?,
                    None => chosen.column(request, field, transform).map_err(refused)?,
                }
            }
            None => made(name, fields, &mut chosen)
                .ok_or_else(|| failure(FailureKind::Dataset, missing(name, request, fields)))?,
        };
        chosen.origins.push(origin);
        chosen.tensors.push(tensor);
    }
    chosen.check_shared(request)?;
    Ok(chosen)
}

pub(super) fn field_of<'a>(name: &str, fields: &'a [Field]) -> Option<&'a Field> {
    fields.iter().find(|field| field.name == name)
}

/// A column that loaderd makes itself.
fn made(name: &str, fields: &[Field], chosen: &mut Chosen) -> Option<(Origin, Tensor)> {
    let (origin, dtype) = match name {
        ROW_ID => (Origin::RowId, DType::Int64),
        ROW_ADDRESS => (Origin::RowAddress, DType::Int64),
        VALID => (Origin::Valid, DType::Bool),
        _ => {
            let field = field_of(name.strip_suffix(VALID_OF)?, fields)?;
            let name = &field.name;
            let of = match field.kind {
                Kind::Bytes => ColumnRef::Bytes(number(&mut chosen.bytes, name)),
                Kind::Fixed(..) => ColumnRef::Fixed(number(&mut chosen.fixed, name)),
                Kind::Ragged(_) => ColumnRef::Variable(number(&mut chosen.variable, name)),
                Kind::Other(_) => return None,
            };
            (Origin::IsValid { of }, DType::Bool)
        }
    };
    Some((origin, Tensor::dense(name, dtype, vec![])))
}

/// The column's number in the list, at whose end it is put where it is missing.
fn number(columns: &mut Vec<String>, name: &str) -> usize {
    columns
        .iter()
        .position(|column| column == name)
        .unwrap_or_else(|| {
            columns.push(name.into());
            columns.len() - 1
        })
}

type Refusal = (FailureKind, String);

impl Chosen {
    /// Refuses whole numbers that would stand for nulls without a word.
    pub(super) fn check_nulls(
        &self,
        request: &OpenRequest,
        source: &dyn Source,
    ) -> Result<(), Failure> {
        for (tensor, origin) in self.tensors.iter().zip(&self.origins) {
            let Origin::Fixed { column } = origin else {
                continue;
            };
            let float = matches!(
                tensor.dtype,
                DType::Float16 | DType::Float32 | DType::Float64
            );
            let valid = format!("{}{VALID_OF}", tensor.name);
            let nulls = source.fixed_nulls(*column);
            if nulls > 0 && !float && !request.columns.contains(&valid) {
                return Err(failure(
                    FailureKind::Dataset,
                    format!(
                        "column {:?} of {} is null in {nulls} of {} rows, and {} has no value that says so: ask for \
                         {valid:?} too, which is false there (the value is then 0), or leave those rows out with \
                         filter=\"{} IS NOT NULL\"",
                        tensor.name,
                        request.uri,
                        source.rows(),
                        format!("{:?}", tensor.dtype).to_lowercase(),
                        tensor.name,
                    ),
                ));
            }
        }
        Ok(())
    }

    /// What lies where in a slot.
    pub(super) fn layout(
        &self,
        request: &OpenRequest,
        source: &dyn Source,
    ) -> Result<Layout, Failure> {
        let batch_size = request.batch_size;
        let variable_bytes = request
            .variable_bytes
            .unwrap_or_else(|| self.variable_bytes(batch_size, source));
        Layout::new(self.tensors.clone(), batch_size, variable_bytes).ok_or_else(|| {
            failure(
                FailureKind::Limit,
                "a batch is larger than 64 bits can count",
            )
        })
    }

    /// Room for the ragged columns of a batch in which every value is as long as most values
    /// are at most, up to [`VARIABLE_DEFAULT_MAX`].
    fn variable_bytes(&self, batch_size: u32, source: &dyn Source) -> u64 {
        let rows = u64::from(batch_size);
        let columns = self.tensors.iter().zip(&self.origins);
        let columns = columns.filter_map(|(tensor, origin)| {
            let ragged = tensor.ragged?;
            let row_bytes = match origin {
                Origin::Raw { .. } => u64::from(source.typical_length()),
                Origin::Decoded { input, .. } => {
                    let encoded = match input {
                        Input::Bytes(_) => u64::from(source.typical_length()),
                        Input::File(_) => FILE_BYTES,
                    };
                    encoded * PIXELS_PER_BYTE + 12
                }
                // 32-bit whole numbers become as many floats.
                Origin::Boxes { column, .. } => u64::from(source.variable_typical(*column)),
                // An inner list's length has four bytes on its way, and its offset eight.
                Origin::Ragged { column } => {
                    u64::from(source.variable_typical(*column)) * u64::from(ragged.levels)
                }
                _ => return None,
            };
            // An offset a row, and the ends of at most four arrays.
            Some((row_bytes + 8).saturating_mul(rows).saturating_add(512))
        });
        columns
            .fold(0, u64::saturating_add)
            .min(VARIABLE_DEFAULT_MAX)
    }

    /// Whether there are images that a GPU can finish.
    pub(super) fn has_work_for_gpu(&self) -> bool {
        self.origins.iter().any(|origin| match origin {
            Origin::Image { pipeline, .. } => pipeline.device_batch().is_some(),
            _ => false,
        })
    }

    /// The canonical pipeline of every column that has one, as one JSON object.
    pub(super) fn canonical_transforms(&self, columns: &[String]) -> String {
        let by_column: Vec<String> = columns
            .iter()
            .zip(&self.origins)
            .filter_map(|(name, origin)| {
                let pipeline = match origin {
                    Origin::Image { pipeline, .. } => pipeline.canonical(),
                    Origin::Boxes { rule, .. } => Follower::BoundingBoxes(rule.clone()).canonical(),
                    Origin::PixelMask { image, fill, .. } => Follower::Mask {
                        follows: columns[*image].clone(),
                        fill: *fill,
                    }
                    .canonical(),
                    Origin::Decoded { options, .. } => {
                        let upright = options.exif_orientation;
                        format!(r#"{{"transforms":["{DECODE}"],"exif_orientation":{upright}}}"#)
                    }
                    _ => return None,
                };
                Some(format!("{}:{pipeline}", Value::from(name.as_str())))
            })
            .collect();
        format!("{{{}}}", by_column.join(","))
    }

    /// A column that follows an image.
    fn follower(
        &mut self,
        request: &OpenRequest,
        field: &Field,
        fields: &[Field],
        follower: &Follower,
    ) -> Result<(Origin, Tensor), String> {
        let name = &field.name;
        let (image, pipeline) = follower.image(request, fields)?;
        match follower {
            Follower::BoundingBoxes(rule) => {
                let dtype = Boxes::check_kind(&field.kind)?;
                let origin = Origin::Boxes {
                    column: number(&mut self.variable, name),
                    dtype,
                    image,
                    rule: rule.clone(),
                    with: rule.with(request, fields)?,
                };
                let list = Ragged {
                    levels: 1,
                    ..Ragged::default()
                };
                let tensor = Tensor::ragged(name, DType::Float32, vec![4], list);
                Ok((origin, tensor))
            }
            Follower::Mask { fill, .. } => {
                let input = match &field.kind {
                    Kind::Bytes => {
                        self.may_be_tiled(request, name);
                        Input::Bytes(number(&mut self.bytes, name))
                    }
                    Kind::Ragged(kind) if kind.text && kind.levels == 1 => {
                        Input::File(number(&mut self.variable, name))
                    }
                    _ => {
                        return Err(
                            "Mask works on PNGs, in binary columns or in files that a text \
                                    column names"
                                .into(),
                        );
                    }
                };
                let size = pipeline.size().map(u64::from);
                let origin = Origin::PixelMask {
                    input,
                    image,
                    pipeline: Box::new(pipeline),
                    fill: *fill,
                };
                Ok((origin, Tensor::dense(name, DType::Uint8, size.to_vec())))
            }
        }
    }

    /// A column of bytes is decoded, so its tiled form may be read instead.
    fn may_be_tiled(&mut self, request: &OpenRequest, name: &str) {
        if request.use_tiled {
            self.tiled.push(name.into());
        }
    }

    /// Refuses a column from which two columns of boxes would drop entries.
    fn check_shared(&self, request: &OpenRequest) -> Result<(), Failure> {
        let mut taken = std::collections::BTreeSet::new();
        for origin in &self.origins {
            let Origin::Boxes { with, .. } = origin else {
                continue;
            };
            if let Some(twice) = with.iter().find(|&&column| !taken.insert(column)) {
                return Err(failure(
                    FailureKind::Transform,
                    format!(
                        "with_columns of two columns name {:?}: its entries belong to the boxes of one",
                        request.columns[*twice]
                    ),
                ));
            }
        }
        Ok(())
    }

    fn column(
        &mut self,
        request: &OpenRequest,
        field: &Field,
        transform: Option<&Value>,
    ) -> Result<(Origin, Tensor), Refusal> {
        let name = &field.name;
        match (&field.kind, transform) {
            (Kind::Bytes, Some(transform)) => {
                let input = Input::Bytes(number(&mut self.bytes, name));
                self.may_be_tiled(request, name);
                image(request, name, input, transform)
            }
            (Kind::Bytes, None) => {
                let column = number(&mut self.bytes, name);
                let list = Ragged {
                    levels: 1,
                    ..Ragged::default()
                };
                let tensor = Tensor::ragged(name, DType::Uint8, vec![], list);
                Ok((Origin::Raw { column }, tensor))
            }
            (Kind::Fixed(dtype, shape), None) => {
                let column = number(&mut self.fixed, name);
                let tensor = Tensor::dense(name, *dtype, shape.clone());
                Ok((Origin::Fixed { column }, tensor))
            }
            (Kind::Ragged(kind), None) => {
                let column = number(&mut self.variable, name);
                Ok((Origin::Ragged { column }, lists(name, kind)?))
            }
            (Kind::Ragged(kind), Some(transform)) if kind.text && kind.levels == 1 => {
                let input = Input::File(number(&mut self.variable, name));
                image(request, name, input, transform)
            }
            (Kind::Fixed(..) | Kind::Ragged(_), Some(_)) => Err((
                FailureKind::Transform,
                "it holds numbers, or lists: transforms apply to images, in binary columns or in files that a text \
                 column names"
                    .into(),
            )),
            (Kind::Other(what), _) => Err((
                FailureKind::Dataset,
                format!(
                    "it is {what}: numbers, booleans, text, binary, and lists of one or two levels of them can be \
                     delivered: leave it out of columns=, or add a column that holds it as one of these"
                ),
            )),
        }
    }
}

/// A column of lists or text.
fn lists(name: &str, kind: &RaggedKind) -> Result<Tensor, Refusal> {
    if !matches!(kind.levels, 1 | 2) || kind.shape.contains(&0) {
        return Err((
            FailureKind::Dataset,
            format!(
                "it is lists in {} levels of {:?} elements: one or two levels of at least one can be delivered",
                kind.levels, kind.shape
            ),
        ));
    }
    let ragged = Ragged {
        levels: kind.levels,
        text: kind.text,
        images: false,
    };
    Ok(Tensor::ragged(name, kind.dtype, kind.shape.clone(), ragged))
}

/// How the request's images are decoded.
pub(super) fn options(request: &OpenRequest) -> decode::Options {
    decode::Options {
        fast_dct: request.fast_dct,
        exif_orientation: request.exif_orientation,
    }
}

/// A column of images.
fn image(
    request: &OpenRequest,
    name: &str,
    input: Input,
    transform: &Value,
) -> Result<(Origin, Tensor), Refusal> {
    let options = options(request);
    let steps = transform.as_array().map(Vec::as_slice).unwrap_or_default();
    if steps.iter().any(|step| step["name"] == DECODE) {
        if steps.len() > 1 {
            return Err((
                FailureKind::Transform,
                "Decode() stands alone, and gives every image its own size; a list that crops or resizes decodes \
                 without it"
                    .into(),
            ));
        }
        let pixels = Ragged {
            levels: 1,
            text: false,
            images: true,
        };
        let tensor = Tensor::ragged(name, DType::Uint8, vec![], pixels);
        return Ok((Origin::Decoded { input, options }, tensor));
    }
    let pipeline = decode::Pipeline::parse(transform, options).map_err(|error| {
        let hint = match error {
            decode::TransformError::NoSize { .. } => "; [Decode()] keeps every image's own size",
            _ => "",
        };
        (FailureKind::Transform, format!("{error}{hint}"))
    })?;
    let output = pipeline.output();
    let dtype = match output.dtype {
        decode::DType::Uint8 => DType::Uint8,
        decode::DType::Bfloat16 => DType::Bfloat16,
        decode::DType::Float16 => DType::Float16,
        decode::DType::Float32 => DType::Float32,
    };
    let tensor = Tensor::dense(name, dtype, output.shape.to_vec());
    Ok((Origin::Image { input, pipeline }, tensor))
}

/// That there is no such column, or none that can say whether it is null.
pub(super) fn missing(name: &str, request: &OpenRequest, fields: &[Field]) -> String {
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    let made = [ROW_ID, ROW_ADDRESS, VALID];
    // What is misspelt in `name._valid` is the name.
    let base = name.strip_suffix(VALID_OF).unwrap_or(name);
    if field_of(base, fields).is_some() {
        return format!(
            "{} has no column {name:?}: {base:?} can't be delivered, so nothing says where it is null",
            request.uri
        );
    }
    format!(
        "{}; {}, and <column>{VALID_OF} can be asked for too",
        loaderd_names::no_column(&request.uri, base, &names, &made),
        made.join(", ")
    )
}
