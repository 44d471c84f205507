use super::*;
use candle_core::Device;
use candle_nn::optim::{Optimizer as _, ParamsAdamW};

#[test]
fn the_rate_rises_then_falls() {
    let schedule = Schedule { peak: 1., steps: 100, warmup: 0.1, flat: 0. };
    assert!((schedule.rate(0) - 0.1).abs() < 1e-9);
    assert!(schedule.rate(9) > 0.9 && schedule.rate(9) > schedule.rate(50));
    assert!((schedule.rate(50) - 0.5).abs() < 1e-9);
    assert!((schedule.rate(99) - 0.02).abs() < 1e-9);
    let flat = Schedule { flat: 0.2, ..schedule };
    assert!((flat.rate(10) - 1.).abs() < 1e-9 && (flat.rate(20) - 1.).abs() < 1e-9);
    assert!((flat.rate(60) - 0.5).abs() < 1e-9);
}

/// candle-nn's AdamW is the oracle, where nothing is clipped.
#[test]
fn steps_equal_candles_adamw() -> Result<()> {
    // A matrix: others do not decay.
    let start = Tensor::new(&[[1f32, -2., 3.]], &Device::Cpu)?;
    let (ours, candles) = (Var::from_tensor(&start)?, Var::from_tensor(&start)?);
    let settings = AdamW { clip_norm: 1e9, ..AdamW::default() };
    let mut optimizer = Optimizer::new(settings, &BTreeMap::from([("x".into(), ours.clone())]), |_| 1.)?;
    let mut oracle = candle_nn::AdamW::new(
        vec![candles.clone()],
        ParamsAdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 },
    )?;
    for _ in 0..5 {
        let loss = |x: &Var| x.as_tensor().powf(3.)?.sum_all();
        let gradients = loss(&ours)?.backward()?;
        optimizer.step(|variable| gradients.get(variable).cloned(), 0.1)?;
        oracle.step(&loss(&candles)?.backward()?)?;
    }
    let numbers = |x: &Var| x.flatten_all()?.to_vec1::<f32>();
    for (a, b) in numbers(&ours)?.into_iter().zip(numbers(&candles)?) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    Ok(())
}

#[test]
fn large_gradients_are_clipped_and_others_are_refused() -> Result<()> {
    let x = Var::from_tensor(&Tensor::new(&[3f32, 4.], &Device::Cpu)?)?;
    let settings = AdamW { beta1: 0., beta2: 0., epsilon: 1., weight_decay: 0., clip_norm: 1., average_decay: 0. };
    let mut optimizer = Optimizer::new(settings, &BTreeMap::from([("x".into(), x.clone())]), |_| 1.)?;
    // The gradient is 2 x = (6, 8), of norm 10; clipped it is (0.6, 0.8).
    let gradients = x.sqr()?.sum_all()?.backward()?;
    optimizer.step(|variable| gradients.get(variable).cloned(), 1.)?;
    let norm = optimizer.norm()?;
    assert!((norm - 10.).abs() < 1e-5);
    let expected = [3. - 0.6 / 1.6, 4. - 0.8 / 1.8];
    for (found, expected) in x.to_vec1::<f32>()?.into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
    let before = x.to_vec1::<f32>()?;
    let infinite = (x.as_tensor() * f64::INFINITY)?.sum_all()?.backward()?;
    assert!(matches!(optimizer.step(|variable| infinite.get(variable).cloned(), 1.), Err(Error::Diverged { step: 1 })));
    assert_eq!(x.to_vec1::<f32>()?, before);
    Ok(())
}

#[test]
fn the_average_follows_the_values_and_can_be_shown() -> Result<()> {
    let x = Var::from_tensor(&Tensor::new(&[1f32], &Device::Cpu)?)?;
    let settings = AdamW { average_decay: 0.5, weight_decay: 0., ..AdamW::default() };
    let mut optimizer = Optimizer::new(settings, &BTreeMap::from([("x".into(), x.clone())]), |_| 1.)?;
    let mut average = 1.;
    for step in 1..=20 {
        let gradients = x.sqr()?.sum_all()?.backward()?;
        optimizer.step(|variable| gradients.get(variable).cloned(), 0.1)?;
        let decay = f32::min(0.5, (1. + step as f32) / (10. + step as f32));
        average = average * decay + x.to_vec1::<f32>()?[0] * (1. - decay);
    }
    let value = x.to_vec1::<f32>()?;
    optimizer.show_average()?;
    assert!((x.to_vec1::<f32>()?[0] - average).abs() < 1e-6 && (average - value[0]).abs() > 1e-3);
    optimizer.show_values()?;
    assert_eq!(x.to_vec1::<f32>()?, value);
    Ok(())
}

#[test]
fn frozen_values_stay_and_later_take_steps_of_the_usual_size() -> Result<()> {
    let [x, y] = [2f32, 3.].map(|start| Var::from_tensor(&Tensor::new(&[[start]], &Device::Cpu).unwrap()).unwrap());
    let variables = BTreeMap::from([("x".into(), x.clone()), ("y".into(), y.clone())]);
    let mut optimizer = Optimizer::new(AdamW { clip_norm: 1e9, ..AdamW::default() }, &variables, |_| 1.)?;
    let number = |x: &Var| x.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
    let mut step = |frozen: Option<&str>| -> Result<[f32; 2]> {
        optimizer.train_only(|name| Some(name) != frozen)?;
        let before = [number(&x), number(&y)];
        let gradients = (x.as_tensor() + y.as_tensor())?.sum_all()?.backward()?;
        optimizer.step(|variable| gradients.get(variable).cloned(), 0.1)?;
        Ok([number(&x) - before[0], number(&y) - before[1]])
    };
    for _ in 0..10 {
        let [x, y] = step(Some("x"))?;
        assert!(x == 0. && y < -0.09, "{x} {y}");
    }
    let [x, y] = step(None)?;
    assert!((-0.11..-0.09).contains(&x) && y < -0.09, "{x} {y}");
    Ok(())
}
