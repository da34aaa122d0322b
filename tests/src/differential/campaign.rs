//! Many cases, compared; failures shrunk and kept.

use super::case::Case;
use super::compare::differences;
use super::coverage::Coverage;
use super::directed;
use super::engine::{Drive, EngineCpu};
use super::generate::{Builder, Candidate, mangled};
use super::known;
use super::layout::image_offset;
use super::native::NativeCpu;
use super::report;
use super::rng::Rng;
use super::shrink::shrink;
use super::state::{Event, Outcome, Stop};
use anyhow::Result;
use iced_x86::{Code, Mnemonic};
use std::collections::HashMap;

/// Failures described in full; further ones are only counted.
const MOST_REPORTS: usize = 40;
/// Failures described per instruction form.
const MOST_PER_CODE: u32 = 2;

/// A run of many cases.
pub struct Campaign {
    native: NativeCpu,
    engine: EngineCpu,
    /// What was run.
    pub coverage: Coverage,
    reports: Vec<String>,
    failures: u64,
    cases: u64,
    endless: u64,
    per_code: HashMap<Code, u32>,
    /// Memory that the present case doesn't compare.
    ignored: &'static [(u64, u64)],
    completed: u64,
}

impl Campaign {
    /// Prepares both CPUs.
    ///
    /// # Errors
    /// This host doesn't permit tracing.
    pub fn new() -> Result<Campaign> {
        Ok(Campaign {
            native: NativeCpu::new()?,
            engine: EngineCpu::new()?,
            coverage: Coverage::default(),
            reports: Vec::new(),
            failures: 0,
            cases: 0,
            endless: 0,
            per_code: HashMap::new(),
            ignored: &[],
            completed: 0,
        })
    }

    /// Runs a case three times; what differed.
    fn compare(&mut self, case: &Case) -> Result<Option<(Vec<String>, bool)>> {
        let image = case.memory.image();
        // The engine first: it can stop what doesn't end.
        let mut stepped = self.engine.run(case, &image, Drive::Steps)?;
        if stepped.stop == Stop::Endless {
            return Ok(None);
        }
        let mut blocks = self.engine.run(case, &image, Drive::Blocks)?;
        let native = self.native.run(case, &image)?;
        self.forget_ignored(&mut stepped, &native);
        self.forget_ignored(&mut blocks, &native);
        let mut found = differences(case, &native, &stepped);
        if found.is_empty() {
            found = differences(case, &native, &blocks);
            if !found.is_empty() {
                found.insert(0, "only in block mode:".to_string());
            }
        }
        Ok(Some((found, native.stop == Stop::Event(Event::BREAKPOINT))))
    }

    /// Runs a case and keeps what differs.
    ///
    /// # Errors
    /// The machinery failed, not the engine.
    pub fn run(&mut self, case: &Case) -> Result<()> {
        self.cases += 1;
        let Some((found, completed)) = self.compare(case)? else {
            self.endless += 1;
            return Ok(());
        };
        self.coverage.note(case, completed);
        self.completed += completed as u64;
        if found.is_empty() {
            return Ok(());
        }
        self.failures += 1;
        let Some(last) = case.lines.last().map(|line| line.instruction.code()) else {
            return Ok(());
        };
        let seen = self.per_code.entry(last).or_default();
        *seen += 1;
        if *seen > MOST_PER_CODE || self.reports.len() >= MOST_REPORTS {
            return Ok(());
        }
        let kind = kind_of(&found);
        let small = shrink(
            case,
            &mut |candidate| matches!(self.compare(candidate), Ok(Some((found, _))) if !found.is_empty() && kind_of(&found) == kind),
        );
        let found = self.compare(&small)?.map(|(found, _)| found).unwrap_or_default();
        self.reports.push(report::describe(&small, &found));
        Ok(())
    }

    /// The cases written by hand. Memory that a case says isn't compared is taken from the host.
    ///
    /// # Errors
    /// As [`Campaign::run`].
    pub fn directed(&mut self) -> Result<()> {
        for (case, ignored) in directed::cases() {
            self.ignored = ignored;
            self.run(&case)?;
        }
        self.ignored = &[];
        Ok(())
    }

    fn forget_ignored(&self, engine: &mut Outcome, native: &Outcome) {
        for (start, length) in self.ignored {
            if let Some(offset) = image_offset(*start) {
                let range = offset..offset + *length as usize;
                engine.memory[range.clone()].copy_from_slice(&native.memory[range]);
            }
        }
    }

    /// Every form by itself, `cases` times.
    ///
    /// # Errors
    /// As [`Campaign::run`].
    pub fn singles(&mut self, bits: u32, candidates: &[Candidate], cases: u64, seed: u64) -> Result<()> {
        let mut rng = Rng::new(seed);
        for candidate in candidates {
            let mut built = 0;
            for _ in 0..cases {
                let seed = rng.bits();
                if let Some(case) = single(bits, candidate.code, seed) {
                    built += 1;
                    self.run(&case)?;
                }
            }
            if built == 0 {
                self.failures += 1;
                self.reports
                    .push(format!("{:?} was never built in {bits} bits", candidate.code));
            }
        }
        Ok(())
    }

    /// Every form by itself with its encoding changed.
    ///
    /// # Errors
    /// As [`Campaign::run`].
    pub fn mangled(&mut self, bits: u32, candidates: &[Candidate], cases: u64, seed: u64) -> Result<()> {
        let mut rng = Rng::new(seed);
        for candidate in candidates {
            for _ in 0..cases {
                if let Some(case) = mangled(bits, candidate.code, rng.bits()) {
                    self.run(&case)?;
                }
            }
        }
        Ok(())
    }

    /// Sequences of 5 to 20 forms.
    ///
    /// # Errors
    /// As [`Campaign::run`].
    pub fn sequences(&mut self, bits: u32, candidates: &[Candidate], cases: u64, seed: u64) -> Result<()> {
        let mut rng = Rng::new(seed);
        for _ in 0..cases {
            let case = sequence(bits, candidates, rng.bits());
            self.run(&case)?;
        }
        Ok(())
    }

    /// The result: an error text with every report, or a line of numbers.
    pub fn verdict(&self) -> Result<String, String> {
        let numbers = format!(
            "{} cases ({} without a fault), {} differ, {} do not end",
            self.cases, self.completed, self.failures, self.endless
        );
        if self.failures == 0 {
            Ok(numbers)
        } else {
            Err(format!("{numbers}\n{}", self.reports.join("\n")))
        }
    }
}

/// What a failure is about, without its numbers: what is made smaller must stay the same failure.
fn kind_of(found: &[String]) -> String {
    let first = found.first().map_or("", |line| line);
    first
        .split_whitespace()
        .filter(|word| !word.starts_with("0x"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The case of one form.
pub fn single(bits: u32, code: Code, seed: u64) -> Option<Case> {
    let mut builder = Builder::new(bits, seed);
    builder.last = true;
    builder
        .push_code(code)
        .then(|| builder.finish(format!("{bits}/{code:?}/{seed:#x}")))
}

/// The case of several forms.
pub fn sequence(bits: u32, candidates: &[Candidate], seed: u64) -> Case {
    let mut builder = Builder::new(bits, seed);
    let mut rng = Rng::new(seed ^ 0x5e9);
    let length = 5 + rng.below(16);
    for number in 0..length {
        builder.last = number + 1 == length;
        let code = rng.pick(candidates).code;
        // What always faults ends a sequence.
        let faults =
            code.op_code().is_privileged() || matches!(code.mnemonic(), Mnemonic::Ud1 | Mnemonic::Ud2);
        if known::is_exact(code) && (builder.last || !faults) {
            builder.push_with_landing(code);
        }
    }
    builder.finish(format!("{bits}/sequence/{seed:#x}"))
}

/// The case that an id of a report names.
pub fn by_id(id: &str, candidates: impl Fn(u32) -> Vec<Candidate>) -> Option<Case> {
    let mut parts = id.split('/');
    let bits = parts.next()?.parse().ok()?;
    let what = parts.next()?;
    let seed = u64::from_str_radix(parts.next()?.trim_start_matches("0x"), 16).ok()?;
    if what == "sequence" {
        return Some(sequence(bits, &candidates(bits), seed));
    }
    let name = what.trim_start_matches("mangled-");
    let code = Code::values().find(|code| format!("{code:?}") == name)?;
    if name == what {
        single(bits, code, seed)
    } else {
        mangled(bits, code, seed)
    }
}
