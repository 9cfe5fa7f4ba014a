//! A safetensors file written anew, with the header's keys in one order, which the crate's own writer
//! does not keep: the same tensors give the same bytes.

use half::f16;
use serde_json::{Map, Value, json};

/// One tensor to write.
pub struct Entry {
    pub name: String,
    /// As the format names it, such as `F32`.
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    /// Little-endian, row by row.
    pub bytes: Vec<u8>,
}

impl Entry {
    pub fn f32(name: &str, shape: &[usize], values: &[f32]) -> Entry {
        Entry::new(name, "F32", shape, values, |it| it.to_le_bytes())
    }

    /// In half precision.
    pub fn f16(name: &str, shape: &[usize], values: &[f32]) -> Entry {
        Entry::new(name, "F16", shape, values, |&it| f16::from_f32(it).to_le_bytes())
    }

    pub fn new<const N: usize, T>(
        name: &str,
        dtype: &'static str,
        shape: &[usize],
        values: &[T],
        word: impl Fn(&T) -> [u8; N],
    ) -> Entry {
        let bytes = values.iter().flat_map(word).collect();
        Entry { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
    }
}

/// The whole file. Tensors lie in the order given, so wide types should come first.
pub fn to_bytes(metadata: &[(&str, String)], tensors: Vec<Entry>) -> Vec<u8> {
    let mut header = Map::new();
    let metadata: Map<String, Value> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    header.insert("__metadata__".into(), Value::Object(metadata));
    let mut end = 0;
    for Entry { name, dtype, shape, bytes } in &tensors {
        let offsets = [end, end + bytes.len()];
        end = offsets[1];
        let tensor = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
        header.insert(name.clone(), tensor);
    }
    let mut header = Value::Object(header).to_string();
    let padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));

    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    tensors.into_iter().for_each(|tensor| file.extend(tensor.bytes));
    file
}
