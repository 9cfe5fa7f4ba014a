//! Units to a change of weights.
