//! What each unit fires on.
