//! MILAN: the sentence with the highest mutual information with the regions that a unit fires on.
//!
//! Hernandez et al. 2022, <https://arxiv.org/abs/2201.11114>: an [`encoder`] looks at the regions, a
//! [`captioner`] says how probable a sentence is given them, a language model ([`lm`]) how probable it is
//! anyway, and [`decode`] searches for the sentence where the two differ most. [`authors`] reads the files
//! that the authors publish.

pub mod authors;
pub mod captioner;
pub mod decode;
pub mod encoder;
pub mod lm;
pub mod vocab;

mod lstm;
