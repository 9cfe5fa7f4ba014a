//! The words every stage shares: a unit, and what is said of it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail};
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::usage;

/// One channel of one site of a network, written `layer4.1:37`.
///
/// The site is named as the checkpoint names the module whose output is looked at.
/// Units are ordered by site name, then channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit {
    pub site: String,
    pub channel: usize,
}

impl Unit {
    pub fn new(site: impl Into<String>, channel: usize) -> Unit {
        Unit { site: site.into(), channel }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.site, self.channel)
    }
}

impl FromStr for Unit {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Unit> {
        let Some((site, channel)) = text.rsplit_once(':') else {
            bail!("`{text}` is not a unit; wanted `layer:channel`, such as `layer4.1:37`");
        };
        let channel = channel
            .parse()
            .with_context(|| format!("`{channel}` in unit `{text}` is not a channel number"))?;
        if site.is_empty() {
            bail!("unit `{text}` names no layer; wanted `layer:channel`, such as `layer4.1:37`");
        }
        Ok(Unit::new(site, channel))
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unit, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What kind of unit the units of a site are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One map of a convolutional layer, or of what follows it.
    ConvChannel,
    /// One number of a fully connected layer, at every token where there are tokens.
    MlpNeuron,
}

/// What is known of a unit after describing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It has at least one reading at or above the confidence floor.
    Described,
    /// It fires, but nothing was said of it with enough confidence. Never counts as clean.
    Unknown,
    /// It gave the same value at every position of every picture. Never counts as clean.
    Dead,
    /// It fires, but its strongest pictures are all equally strong, or nothing is above its threshold: which pictures
    /// excite it cannot be told, so nothing is said of it. Never counts as clean.
    Saturated,
}

/// One thing said of a unit, and how probable it is, 0..=1, that a person would agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    pub text: String,
    pub confidence: f32,
}

/// How probable it is that somebody names what a rule asks for, and what that rests on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// That at least one of three people who look at the unit's exemplars names it, 0..=1.
    pub probability: f32,
    /// The share of all that the critics expect people to say of the exemplars that speaks of it, 0..=1.
    pub expected: f32,
    /// The geometric mean of `expected` over all units of the layers looked at.
    pub network: f32,
    /// The same of each exemplar's region alone, on the average.
    pub firing: f32,
    /// The same of places all over the exemplars' pictures, on the average.
    pub elsewhere: f32,
    /// How much less often people name it at this depth of another network than of the one that was learnt from, beyond
    /// how much less often they do of deep layers, as a factor of the odds, 0..=1: 1 of deep layers, and where it is not
    /// less often.
    pub depth: f32,
    /// The confidence of the surest reading that speaks of it, 0..=1; 0 where none does.
    pub said: f32,
}

/// In how many of the pictures that were looked at the critics see what a rule asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Places, and the pictures in which they are.
    pub places: usize,
    pub pictures: usize,
    /// Pictures that were looked at.
    pub of: usize,
}

/// All that is said of one unit: the best reading first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    pub unit: Unit,
    pub status: Status,
    pub readings: Vec<Reading>,
    /// How probable it is, 0..=1, that a person names a phrase of the unit, for each phrase asked about.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: BTreeMap<String, f32>,
    /// By the name of the rule; empty where the describer has no critic.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub judged: BTreeMap<String, Judgement>,
}

impl Description {
    /// The best reading, if anything was said.
    pub fn best(&self) -> Option<&Reading> {
        self.readings.first()
    }
}

/// Layer names by pattern: `*` stands for one part of a name or some of it, `**` for any number of
/// parts, `!` before a pattern takes its names out again. The last pattern that matches decides.
#[derive(Debug, Clone)]
pub struct Globs {
    patterns: Vec<String>,
    compiled: Vec<(bool, GlobMatcher)>,
}

impl Globs {
    /// Errs on a malformed pattern, with its text.
    pub fn new(patterns: &[String]) -> anyhow::Result<Globs> {
        let compile = |pattern: &String| {
            let (takes_out, glob) = match pattern.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, pattern.as_str()),
            };
            // Layer names are paths whose parts a dot separates.
            let glob = GlobBuilder::new(&glob.replace('.', "/")).literal_separator(true).build();
            let glob =
                glob.map_err(|error| usage!("`{pattern}` is no layer pattern: {}", error.kind()))?;
            Ok((takes_out, glob.compile_matcher()))
        };
        let compiled = patterns.iter().map(compile).collect::<anyhow::Result<_>>()?;
        Ok(Globs { patterns: patterns.to_vec(), compiled })
    }

    /// Every layer.
    pub fn everything() -> Globs {
        Globs { patterns: vec![], compiled: vec![] }
    }

    /// Whether a layer is meant. No pattern at all means every layer.
    pub fn matches(&self, layer: &str) -> bool {
        let path = layer.replace('.', "/");
        let starts_full = self.compiled.first().is_none_or(|(takes_out, _)| *takes_out);
        let last = self.compiled.iter().rev().find(|(_, glob)| glob.is_match(&path));
        last.map_or(starts_full, |(takes_out, _)| !takes_out)
    }

    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_reads_back_as_written() {
        let unit: Unit = "features.18:1279".parse().unwrap();
        assert_eq!(unit, Unit::new("features.18", 1279));
        assert_eq!(unit.to_string(), "features.18:1279");
    }

    #[test]
    fn a_malformed_unit_says_what_was_wanted() {
        for text in ["layer4", "layer4:x", ":3", "layer4:-1"] {
            let message = text.parse::<Unit>().unwrap_err().to_string();
            assert!(message.contains(text), "{message}");
        }
    }

    #[test]
    fn layer_patterns_know_the_parts_of_a_name() {
        let check = |patterns: &[&str], layer: &str, wanted: bool| {
            let patterns: Vec<String> = patterns.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(
                Globs::new(&patterns).unwrap().matches(layer),
                wanted,
                "{patterns:?} {layer}"
            );
        };
        check(&["layer*"], "layer1", true);
        check(&["layer*"], "layer1.0", false);
        check(&["layer1.**"], "layer1.0.bn1", true);
        check(&["layer{3,4}"], "layer4", true);
        check(&["**", "!**.downsample.*"], "layer2.0.downsample.1", false);
        check(&["!layer1"], "layer2", true);
        check(&[], "anything", true);
        let message = Globs::new(&["layer[".to_owned()]).unwrap_err().to_string();
        assert!(message.starts_with("`layer[` is no layer pattern: "), "{message}");
    }
}
