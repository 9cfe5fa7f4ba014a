//! Pictures in: folders, labels, and preprocessing.
