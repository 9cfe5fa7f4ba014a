//! Bytes on disk to named tensors, and back.
