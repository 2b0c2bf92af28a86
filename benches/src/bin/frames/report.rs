//! Rates over the rounds, and ours beside the best of testpmd's.

use serde::Serialize;
use underpass_benches::report::{Spread, print_table};

use crate::{Contender, Direction, Measured, Who};

/// One contender over all rounds.
#[derive(Serialize)]
pub(crate) struct Row {
    direction: Direction,
    /// Bytes per frame, without check sequence.
    size: u16,
    contender: String,
    burst: usize,
    frames_per_second: Spread,
    /// What has arrived at the interface, if it was about receiving.
    arrived_per_second: Option<Spread>,
    /// Ours / testpmd with the best settings of its driver, within each round.
    ratio: Option<Spread>,
}

pub(crate) fn rows(contenders: &[Contender], results: &[Vec<Measured>]) -> Vec<Row> {
    let measured = || contenders.iter().zip(results);
    let mut rows = Vec::new();
    for (contender, values) in measured() {
        let Some(frames_per_second) = rates(values) else { continue };
        let beside = match contender.who {
            Who::Ours { beside, .. } => Some(beside),
            Who::Testpmd(_) => None,
        };
        let peers = measured().filter(|(peer, _)| {
            matches!(peer.who, Who::Testpmd(settings) if Some(settings.device.pmd) == beside)
                && (peer.direction, peer.size) == (contender.direction, contender.size)
        });
        let median = |values: &[Measured]| rates(values).map_or(0.0, |rate| rate.median);
        let best = peers.max_by(|(_, a), (_, b)| median(a).total_cmp(&median(b)));
        let ratios = |(_, peer): (&Contender, &Vec<Measured>)| {
            let ratios = values.iter().zip(peer).map(|(ours, peer)| ours.rate / peer.rate);
            Spread::of(&ratios.collect::<Vec<_>>())
        };
        let arrived: Vec<f64> = values.iter().filter_map(|value| value.arrived).collect();
        rows.push(Row {
            direction: contender.direction,
            size: contender.size,
            contender: contender.who.name(),
            burst: contender.who.burst(),
            frames_per_second,
            arrived_per_second: Spread::of(&arrived),
            ratio: best.and_then(ratios),
        });
    }
    rows
}

pub(crate) fn print(rows: &[Row]) {
    println!("million frames per second (min/median/max)\n");
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let arrived = row.arrived_per_second.map(|arrived| format!("{:.2}", millions(arrived)));
            vec![
                format!("{:?}", row.direction).to_lowercase(),
                row.size.to_string(),
                row.contender.clone(),
                row.burst.to_string(),
                format!("{:.3}", millions(row.frames_per_second)),
                arrived.unwrap_or_default(),
                row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            ]
        })
        .collect();
    let header =
        ["direction", "bytes", "contender", "burst", "frames", "arrived", "ours / best testpmd"];
    print_table(&header, &cells);
}

fn rates(values: &[Measured]) -> Option<Spread> {
    Spread::of(&values.iter().map(|value| value.rate).collect::<Vec<_>>())
}

fn millions(rate: Spread) -> Spread {
    Spread { min: rate.min / 1e6, median: rate.median / 1e6, max: rate.max / 1e6 }
}
