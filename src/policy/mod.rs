//! Words to findings.
