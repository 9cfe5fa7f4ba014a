//! `--device`: where tensors are computed with.

use candle_core::Device;

use crate::usage;

/// The device of that name: `cpu`, `cuda` or `cuda:N`. Errs where there is no such name, where the program was built
/// without the feature `cuda`, and where the machine has no such device.
pub(super) fn open(name: &str) -> anyhow::Result<Device> {
    let index = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        _ => name
            .strip_prefix("cuda:")
            .and_then(|index| index.parse().ok())
            .ok_or_else(|| usage!("--device `{name}` is none of cpu, cuda, cuda:N"))?,
    };
    if !cfg!(feature = "cuda") {
        return Err(usage!(
            "--device {name}: this program was built without the cargo feature `cuda`"
        ));
    }
    Device::new_cuda(index).map_err(|_| {
        anyhow::anyhow!("there is no CUDA device {index}, or its driver does not answer")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, kind};

    #[test]
    fn the_cpu_is_always_there() {
        assert!(open("cpu").unwrap().is_cpu());
    }

    #[test]
    fn an_unknown_device_is_a_mistake_of_the_user() {
        for name in ["tpu", "cuda:", "cuda:x", "CPU"] {
            let error = open(name).unwrap_err();
            assert_eq!(kind(&error), Kind::Usage);
            assert!(error.to_string().contains(&format!("`{name}` is none of cpu, cuda, cuda:N")));
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_program_without_the_feature_says_so() {
        let error = open("cuda:1").unwrap_err();
        assert_eq!(kind(&error), Kind::Usage);
        assert!(error.to_string().starts_with("--device cuda:1: this program was built without"));
    }
}
