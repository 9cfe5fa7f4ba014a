//! Which of the matching units to delete, and in what order.

use std::str::FromStr;

use crate::unit::Unit;
use crate::usage;

/// A unit that could be deleted, and what speaks for or against it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub unit: Unit,
    /// How sure the describer is of the matching description, 0..=1.
    pub confidence: Option<f32>,
    /// The accuracy that zeroing this unit alone costs, 0..=1; below 0 where it helps.
    pub importance: Option<f64>,
}

/// In which order units are deleted when not all are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The least important first (Hernandez et al. 2022, section 7).
    Importance,
    /// The surest description first.
    Confidence,
    /// As given.
    Listed,
}

impl FromStr for Order {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Order> {
        Ok(match text {
            "importance" => Order::Importance,
            "confidence" => Order::Confidence,
            "listed" => Order::Listed,
            _ => {
                return Err(usage!(
                    "`{text}` is no order; there are importance, confidence, listed"
                ));
            }
        })
    }
}

/// The first candidates in that order; equal ones stay as given.
pub fn choose(mut candidates: Vec<Candidate>, order: Order) -> Vec<Candidate> {
    match order {
        Order::Importance => candidates.sort_by(|a, b| {
            let of = |it: &Candidate| it.importance.unwrap_or(f64::INFINITY);
            of(a).total_cmp(&of(b))
        }),
        Order::Confidence => candidates.sort_by(|a, b| {
            let of = |it: &Candidate| it.confidence.unwrap_or(f32::NEG_INFINITY);
            of(b).total_cmp(&of(a))
        }),
        Order::Listed => {}
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(order: Order, wanted: &[usize]) {
        let candidate = |channel, confidence, importance| Candidate {
            unit: Unit::new("a", channel),
            confidence: Some(confidence),
            importance: Some(importance),
        };
        let candidates =
            vec![candidate(0, 0.5, 0.02), candidate(1, 0.9, 0.0), candidate(2, 0.9, -0.01)];
        let chosen = choose(candidates, order);
        assert_eq!(chosen.iter().map(|it| it.unit.channel).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn orders() {
        check(Order::Importance, &[2, 1, 0]);
        check(Order::Confidence, &[1, 2, 0]);
        check(Order::Listed, &[0, 1, 2]);
    }
}
