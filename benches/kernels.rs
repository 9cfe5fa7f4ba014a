//! The engine's kernels one by one, on one thread, beside the most that the machine could do.
//!
//! `cargo bench --bench kernels`. Each network is a stem and then the same op again and again on four pictures. What
//! is shown as elements per second are floating-point operations of the sum as it is defined, also where
//! Winograd's transforms need fewer: a multiply-add counts as two, a comparison of pooling as one.

use std::hint::black_box;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use milan::model::engine::Isa;
use milan::model::graph::Graph;
use milan::model::op::{Op, Padding};
use milan::model::run::{Compute, Network, Untapped};
use pulp::{Arch, Simd, WithSimd};

mod random;

const PICTURES: usize = 4;
const REPEATS: usize = 4;

fn conv(c_out: usize, kernel: usize, stride: usize, groups: usize) -> Op {
    let padding = Padding::Even(kernel / 2);
    Op::Conv2d { c_out, kernel, stride, padding, groups, bias: true }
}

/// `ops` one after the other, several times, on maps of `c` channels.
fn network(c: usize, ops: &[Op], by: Compute) -> Network {
    let mut graph = Graph::new(3);
    let mut last = graph.add("stem", conv(c, 1, 1, 1), &[0]);
    for repeat in 0..REPEATS {
        for (at, op) in ops.iter().enumerate() {
            last = graph.add(format!("{repeat}.{at}"), *op, &[last]);
        }
    }
    graph.add("mean", Op::GlobalAvgPool, &[last]);
    random::network(graph, by).expect("the wiring is fixed")
}

fn kernels(criterion: &mut Criterion) {
    let isa = Isa::best();
    let (direct, winograd) = (Compute::Direct(isa), Compute::Winograd(isa));
    let (narrow, wide) = (conv(64, 1, 1, 1), conv(256, 1, 1, 1));
    let pool = Op::MaxPool { size: 3, stride: 1, padding: 1 };
    for (name, c, side, ops, by) in [
        ("3x3, 64 channels, 56 x 56", 64, 56, vec![conv(64, 3, 1, 1)], direct),
        ("3x3 by Winograd, 64 channels, 56 x 56", 64, 56, vec![conv(64, 3, 1, 1)], winograd),
        ("3x3, 256 channels, 14 x 14", 256, 14, vec![conv(256, 3, 1, 1)], direct),
        ("3x3 by Winograd, 256 channels, 14 x 14", 256, 14, vec![conv(256, 3, 1, 1)], winograd),
        ("1x1, 64 to 256 and back, 28 x 28", 64, 28, vec![wide, narrow], direct),
        ("depthwise 3x3, 192 channels, 28 x 28", 192, 28, vec![conv(192, 3, 1, 192)], direct),
        ("depthwise 5x5, 192 channels, 28 x 28", 192, 28, vec![conv(192, 5, 1, 192)], direct),
        ("max pool 3x3, 64 channels, 56 x 56", 64, 56, vec![pool], direct),
    ] {
        let network = network(c, &ops, by);
        let xs = Tensor::rand(-1f32, 1., (PICTURES, 3, side, side), &Device::Cpu).expect("memory");
        let mut channels = c;
        let mut each = 0;
        for op in &ops {
            each += match *op {
                Op::Conv2d { c_out, kernel, groups, .. } => {
                    let macs = kernel * kernel * channels / groups * c_out;
                    channels = c_out;
                    2 * macs
                }
                _ => 9 * channels,
            };
        }
        let mut group = criterion.benchmark_group("kernels");
        group.throughput(Throughput::Elements((PICTURES * REPEATS * each * side * side) as u64));
        group.bench_function(name, |it| {
            it.iter(|| network.run(black_box(&xs), &mut Untapped).expect("it ran before"));
        });
        group.finish();
    }
}

/// Multiply-adds on registers alone.
struct Peak;

const SUMS: usize = 12;
const STEPS: usize = 10_000;

impl WithSimd for Peak {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (a, b) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(0.001)));
        let mut sums = [b; SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, a, b);
            }
        }
        let mut all = b;
        for sum in sums {
            all = simd.add_f32s(all, sum);
        }
        simd.reduce_sum_f32s(all)
    }
}

fn peak(criterion: &mut Criterion) {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;

        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    let arch = Arch::new();
    let mut group = criterion.benchmark_group("peak");
    group.throughput(Throughput::Elements((2 * SUMS * STEPS * arch.dispatch(Lanes)) as u64));
    group.bench_function("multiply-adds on registers", |it| it.iter(|| arch.dispatch(Peak)));
    group.finish();
}

criterion_group!(benches, kernels, peak);
criterion_main!(benches);
