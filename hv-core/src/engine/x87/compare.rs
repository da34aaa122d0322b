//! FCOM, FUCOM, FCOMI, FUCOMI, FTST, FXAM and FCMOV.

use super::state::{Source, fsw};
use crate::engine::float::{Class, Unpacked, flag};
use crate::regs::{X87, rflags};
use core::cmp::Ordering;

/// How two values relate (unordered is `None`), and whether the exceptions leave the pops to be done.
type Relation = (Option<Ordering>, bool);

impl X87 {
    /// FCOM (`quiet` false), FUCOM (true) with ST(i), and `pops` pops.
    pub fn compare_stack(&mut self, i: usize, quiet: bool, pops: usize) {
        let relation = self.relate_stack(i, quiet);
        self.set_relation(relation, pops);
    }

    /// FCOM and FICOM with a source from memory.
    pub fn compare_memory(&mut self, source: Source, pop: bool) {
        let relation = if self.is_empty(0) {
            self.unordered_stack()
        } else {
            self.relate(Source::f80(self.st(0)), source, false)
        };
        self.set_relation(relation, pop as usize);
    }

    /// FTST: with +0.
    pub fn test(&mut self) {
        self.compare_memory(Source::f80(0), false);
    }

    /// FCOMI, FUCOMI: the status flags of RFLAGS.
    pub fn compare_flags(&mut self, i: usize, quiet: bool, pop: bool) -> u64 {
        let (order, proceed) = self.relate_stack(i, quiet);
        if pop && proceed {
            self.pop();
        }
        match order {
            None => rflags::ZF | rflags::PF | rflags::CF,
            Some(Ordering::Less) => rflags::CF,
            Some(Ordering::Equal) => rflags::ZF,
            Some(Ordering::Greater) => 0,
        }
    }

    /// The codes are set even when an exception is unmasked; the pops aren't done then.
    fn set_relation(&mut self, (order, proceed): Relation, pops: usize) {
        let bits = match order {
            None => fsw::C3 | fsw::C2 | fsw::C0,
            Some(Ordering::Less) => fsw::C0,
            Some(Ordering::Equal) => fsw::C3,
            Some(Ordering::Greater) => 0,
        };
        self.set_cc(fsw::C3 | fsw::C2 | fsw::C0, bits);
        if proceed {
            for _ in 0..pops {
                self.pop();
            }
        }
    }

    fn relate_stack(&mut self, i: usize, quiet: bool) -> Relation {
        if self.is_empty(0) || self.is_empty(i) {
            return self.unordered_stack();
        }
        self.relate(Source::f80(self.st(0)), Source::f80(self.st(i)), quiet)
    }

    fn unordered_stack(&mut self) -> Relation {
        (None, self.stack_fault(false))
    }

    fn relate(&mut self, a: Source, b: Source, quiet: bool) -> Relation {
        self.set_c1(false);
        let (x, y) = (Unpacked::from_f80(a.bits), Unpacked::from_f80(b.bits));
        let order = x.compare(&y);
        let flags = match order {
            None => {
                let wrong = |u: &Unpacked| matches!(u.class, Class::SignalingNan | Class::Unsupported);
                if !quiet || wrong(&x) || wrong(&y) {
                    flag::IE
                } else {
                    0
                }
            }
            Some(_) if a.denormal || b.denormal => flag::DE,
            Some(_) => 0,
        };
        (order, self.raise(flags))
    }

    /// FXAM.
    pub fn examine(&mut self) {
        let x = Unpacked::from_f80(self.st(0));
        let class = match x.class {
            _ if self.is_empty(0) => fsw::C3 | fsw::C0,
            Class::Unsupported => 0,
            Class::QuietNan | Class::SignalingNan => fsw::C0,
            Class::Normal => fsw::C2,
            Class::Infinity => fsw::C2 | fsw::C0,
            Class::Zero => fsw::C3,
            Class::Denormal => fsw::C3 | fsw::C2,
        };
        let sign = if x.sign { fsw::C1 } else { 0 };
        self.set_cc(fsw::CC, class | sign);
    }

    /// FCMOVcc. A missing operand is a fault even when nothing would be moved.
    pub fn conditional_move(&mut self, condition: bool, i: usize) {
        if self.is_empty(0) || self.is_empty(i) {
            if self.stack_fault(false) {
                self.set_st(0, super::INDEFINITE);
            }
        } else if condition {
            self.set_st(0, self.st(i));
        }
    }
}
