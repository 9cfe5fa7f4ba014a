//! Bytes on disk to named tensors, and back.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Change {
    pub tensor: String,
    pub axis: usize,
    pub indices: Vec<usize>,
}
