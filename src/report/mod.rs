//! Results out: one file a format.
