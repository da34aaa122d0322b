//! What was run: per instruction form, and per row of the census of a Linux boot.

use super::case::Case;
use super::generate::{Candidate, Skipped};
use super::known;
use iced_x86::{Code, CpuidFeature, Instruction};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

/// Every instruction that a Linux boot executes, counted once: prefix and mnemonic, and CPUID features.
const CENSUS: &str = include_str!("census.tsv");

/// How often a form ran.
#[derive(Clone, Copy, Default, Debug)]
pub struct Count {
    /// It was part of a case.
    pub cases: u64,
    /// It was the last of a case that ended without a fault.
    pub completed: u64,
}

/// Counts by form and by prefix and mnemonic.
#[derive(Default)]
pub struct Coverage {
    /// By form and mode.
    pub codes: HashMap<(u32, Code), Count>,
    /// By the names that the census uses.
    pub mnemonics: BTreeMap<String, u64>,
}

/// The census' name for an instruction: its prefix and mnemonic.
pub fn census_name(i: &Instruction) -> String {
    let mnemonic = format!("{:?}", i.mnemonic()).to_lowercase();
    if i.has_lock_prefix() {
        format!("lock {mnemonic}")
    } else if i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix()) {
        format!("rep {mnemonic}")
    } else {
        mnemonic
    }
}

impl Coverage {
    /// Notes a case that was run.
    pub fn note(&mut self, case: &Case, completed: bool) {
        for line in &case.lines {
            let count = self
                .codes
                .entry((case.bits, line.instruction.code()))
                .or_default();
            count.cases += 1;
            count.completed += completed as u64;
            *self.mnemonics.entry(census_name(&line.instruction)).or_default() += 1;
        }
    }
}

/// What a row of the census came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// Run this often.
    Run(u64),
    /// Not run, for a reason.
    Skipped(&'static str),
    /// Of a feature that the CPU model lacks.
    NotInModel,
    /// Neither run nor excused.
    Missing,
}

/// The rows of the census.
pub fn census(coverage: &Coverage, skipped: &[Skipped]) -> BTreeMap<&'static str, Row> {
    let mut features = HashMap::new();
    for feature in CpuidFeature::values() {
        features.insert(format!("{feature:?}"), feature);
    }
    CENSUS
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("mnemonic"))
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, needs)| {
            let in_model = needs.split(',').any(|need| {
                features
                    .get(need)
                    .is_some_and(|feature| known::model_has(*feature))
            });
            let excuse = || {
                skipped
                    .iter()
                    .find(|(code, _)| format!("{:?}", code.mnemonic()).to_lowercase() == name)
                    .map(|(_, why)| *why)
            };
            let row = match coverage.mnemonics.get(name) {
                Some(count) => Row::Run(*count),
                None if !in_model => Row::NotInModel,
                None => excuse().map_or(Row::Missing, Row::Skipped),
            };
            (name, row)
        })
        .collect()
}

/// A report for people: forms run and not run, and the census.
pub fn report(coverage: &Coverage, bits: u32, run: &[Candidate], skipped: &[Skipped]) -> String {
    let count = |code: &Code| coverage.codes.get(&(bits, *code)).copied().unwrap_or_default();
    let cases: u64 = run.iter().map(|candidate| count(&candidate.code).cases).sum();
    let faulting: Vec<_> = run
        .iter()
        .filter(|candidate| count(&candidate.code).completed == 0)
        .map(|candidate| format!("{:?}", candidate.code))
        .collect();
    let mut text = format!(
        "{bits}-bit forms: {} run in {cases} cases, {} of them only with a fault, {} not run\n",
        run.len(),
        faulting.len(),
        skipped.len()
    );
    let reasons: BTreeSet<_> = skipped.iter().map(|(_, why)| *why).collect();
    // Writing to a string doesn't fail.
    let _ = writeln!(text, "  only with a fault: {}", faulting.join(" "));
    for reason in reasons {
        let codes: Vec<_> = skipped
            .iter()
            .filter(|(_, why)| *why == reason)
            .map(|(code, _)| format!("{code:?}"))
            .collect();
        let _ = writeln!(text, "  not run, {reason}: {}", codes.join(" "));
    }
    text
}
