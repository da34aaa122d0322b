//! Instructions of user mode mean the same in the engine as on the host's CPU.
//!
//! `KDD_DIFF_CASES` is the number of cases per instruction form (sequences follow it), `KDD_DIFF_SEED` the seed of all; given
//! the id of a reported case, `KDD_DIFF_SEED` runs that case alone.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use anyhow::Result;
use tests::differential::campaign::{Campaign, by_id};
use tests::differential::coverage::{self, Row};
use tests::differential::generate::candidates;

const DEFAULT_CASES: u64 = 50;

/// The environment's wishes.
struct Wishes {
    cases: u64,
    seed: u64,
    one: Option<String>,
}

fn wishes() -> Wishes {
    let cases = std::env::var("KDD_DIFF_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(DEFAULT_CASES);
    let text = std::env::var("KDD_DIFF_SEED").unwrap_or_else(|_| "0x6b6464".to_string());
    let seed = u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0);
    Wishes {
        cases,
        seed,
        one: text.contains('/').then_some(text),
    }
}

/// A campaign, unless this host doesn't permit one; on a CI machine that is a failure.
fn campaign() -> Option<Campaign> {
    match Campaign::new() {
        Ok(campaign) => Some(campaign),
        Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => panic!("{error:#}"),
        Err(error) => {
            eprintln!("SKIPPED: {error:#}");
            None
        }
    }
}

fn run(name: &str, work: impl FnOnce(&mut Campaign, &Wishes) -> Result<()>) {
    let wishes = wishes();
    let Some(mut campaign) = campaign() else { return };
    println!("{name}: seed {:#x}, {} cases a form", wishes.seed, wishes.cases);
    if let Some(id) = &wishes.one {
        match by_id(id, |bits| candidates(bits).0) {
            Some(case) => campaign.run(&case).expect("the case runs"),
            None => panic!("no case {id}"),
        }
    } else {
        work(&mut campaign, &wishes).expect("the cases run");
    }
    match campaign.verdict() {
        Ok(numbers) => println!("{name}: {numbers}"),
        Err(report) => panic!("{report}"),
    }
}

#[test]
fn every_user_instruction_of_a_linux_boot_is_covered() {
    const FEW: u64 = 8;
    run("coverage", |campaign, wishes| {
        let mut all_skipped = Vec::new();
        let mut text = String::new();
        campaign.directed()?;
        for bits in [64, 32] {
            let (run, skipped) = candidates(bits);
            campaign.singles(bits, &run, FEW, wishes.seed)?;
            text += &coverage::report(&campaign.coverage, bits, &run, &skipped);
            all_skipped.extend(skipped);
        }
        let rows = coverage::census(&campaign.coverage, &all_skipped);
        let of = |wanted: fn(&Row) -> bool| {
            rows.iter()
                .filter(move |(_, row)| wanted(row))
                .map(|(name, _)| *name)
        };
        println!("{text}");
        println!(
            "census of a Linux boot: {} rows, {} run, {} not in the model",
            rows.len(),
            of(|row| matches!(row, Row::Run(_))).count(),
            of(|row| *row == Row::NotInModel).count()
        );
        for (name, row) in &rows {
            if let Row::Skipped(why) = row {
                println!("  {name}: {why}");
            }
        }
        let missing: Vec<_> = of(|row| *row == Row::Missing).collect();
        assert!(missing.is_empty(), "never run: {missing:?}");
        Ok(())
    });
}

#[test]
fn every_64_bit_instruction_agrees_with_the_host() {
    run("singles", |campaign, wishes| {
        let (run, _) = candidates(64);
        campaign.singles(64, &run, wishes.cases, wishes.seed)
    });
}

#[test]
fn every_32_bit_instruction_agrees_with_the_host() {
    run("32-bit singles", |campaign, wishes| {
        let (run, _) = candidates(32);
        campaign.singles(32, &run, wishes.cases, wishes.seed)
    });
}

#[test]
fn sequences_agree_with_the_host() {
    run("sequences", |campaign, wishes| {
        let (run, _) = candidates(64);
        campaign.sequences(64, &run, wishes.cases * 400, wishes.seed)
    });
}

#[test]
fn sequences_in_compatibility_mode_agree_with_the_host() {
    run("32-bit sequences", |campaign, wishes| {
        let (run, _) = candidates(32);
        campaign.sequences(32, &run, wishes.cases * 200, wishes.seed)
    });
}

#[test]
fn directed_cases_agree_with_the_host() {
    run("directed cases", |campaign, _| campaign.directed());
}

#[test]
fn encodings_that_no_assembler_makes_agree_with_the_host() {
    run("mangled encodings", |campaign, wishes| {
        for bits in [64, 32] {
            campaign.mangled(bits, &candidates(bits).0, wishes.cases / 2, wishes.seed)?;
        }
        Ok(())
    });
}
