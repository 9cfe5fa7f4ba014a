//! From what is known of an answer to the probability that it is right: logistic regression.

use serde::{Deserialize, Serialize};

/// `1 / (1 + exp(−(bias + Σ weight · (x − mean) / std)))`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
    pub weights: Vec<f64>,
    pub bias: f64,
}

impl Logistic {
    /// Maximises the likelihood less half the squared weights, by gradient descent. Without any example it
    /// says one half.
    pub fn fit(xs: &[Vec<f64>], ys: &[bool]) -> Logistic {
        Logistic::fit_counting(xs, ys, &vec![1.; xs.len()])
    }

    /// The same, each example counting as so many.
    pub fn fit_counting(xs: &[Vec<f64>], ys: &[bool], counts: &[f64]) -> Logistic {
        let size = xs.first().map_or(0, Vec::len);
        let n = counts.iter().sum::<f64>().max(1.);
        let sum = |of: &dyn Fn(&[f64]) -> f64| -> f64 {
            xs.iter().zip(counts).map(|(x, count)| count * of(x)).sum()
        };
        let mean: Vec<f64> = (0..size).map(|i| sum(&|x| x[i]) / n).collect();
        let std =
            (0..size).map(|i| (sum(&|x| (x[i] - mean[i]).powi(2)) / n).sqrt() + 1e-9).collect();
        let mut fitted = Logistic { mean, std, weights: vec![0.; size], bias: 0. };
        let standard: Vec<Vec<f64>> = xs.iter().map(|x| fitted.standard(x).collect()).collect();
        for _ in 0..2000 {
            let mut gradient: Vec<f64> = fitted.weights.iter().map(|it| it / n).collect();
            let mut bias = 0.;
            for ((x, &y), count) in standard.iter().zip(ys).zip(counts) {
                let error = count * (fitted.of_standard(x) - f64::from(u8::from(y)));
                bias += error / n;
                gradient.iter_mut().zip(x).for_each(|(sum, x)| *sum += error * x / n);
            }
            fitted.bias -= bias;
            fitted.weights.iter_mut().zip(gradient).for_each(|(weight, it)| *weight -= it);
        }
        fitted
    }

    /// Errs with what makes it none.
    pub fn check(&self) -> Result<(), String> {
        let Logistic { mean, std, weights, bias } = self;
        if mean.len() != weights.len() || std.len() != weights.len() {
            let (a, b, c) = (mean.len(), std.len(), weights.len());
            return Err(format!("has {a} means, {b} standard deviations and {c} weights"));
        }
        let all = mean.iter().chain(std).chain(weights).chain([bias]);
        if !all.copied().all(f64::is_finite) || !std.iter().all(|it| 0. < *it) {
            return Err(
                "holds values that are no numbers, or deviations that are not above 0".into()
            );
        }
        Ok(())
    }

    /// The probability, 0..=1.
    pub fn probability(&self, x: &[f64]) -> f32 {
        self.of_standard(&self.standard(x).collect::<Vec<_>>()) as f32
    }

    fn standard(&self, x: &[f64]) -> impl Iterator<Item = f64> {
        let places = self.mean.iter().zip(&self.std);
        x.iter().zip(places).map(|(x, (mean, std))| (x - mean) / std)
    }

    /// The logarithm of the odds of being right.
    pub fn log_odds(&self, x: &[f64]) -> f64 {
        self.bias + self.standard(x).zip(&self.weights).map(|(x, weight)| x * weight).sum::<f64>()
    }

    fn of_standard(&self, x: &[f64]) -> f64 {
        let sum: f64 = x.iter().zip(&self.weights).map(|(x, weight)| x * weight).sum();
        1. / (1. + (-(self.bias + sum)).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_gives_the_frequencies() {
        // Of ten at 0 two are right, of ten at 1 seven.
        let xs: Vec<Vec<f64>> = (0..2000).map(|i| vec![f64::from(i / 1000)]).collect();
        let ys: Vec<bool> = (0..2000).map(|i| i % 10 < if i < 1000 { 2 } else { 7 }).collect();
        let fitted = Logistic::fit(&xs, &ys);
        assert!((fitted.probability(&[0.]) - 0.2).abs() < 0.005, "{fitted:?}");
        assert!((fitted.probability(&[1.]) - 0.7).abs() < 0.005, "{fitted:?}");
        assert_eq!(Logistic::fit(&[], &[]).probability(&[]), 0.5);
        // Where those that are right count half, it is as if there were half as many.
        let counts: Vec<f64> = ys.iter().map(|it| if *it { 0.5 } else { 1. }).collect();
        let fitted = Logistic::fit_counting(&xs, &ys, &counts);
        assert!((fitted.probability(&[1.]) - 3.5 / 6.5).abs() < 0.005, "{fitted:?}");
    }
}
