//! Sessions that come, stop, step, resume and die at any moment, on many threads, while the domain stops at their
//! breakpoints: in the end it runs, with every pause given back and no breakpoint left.

mod scripted;

use hv_core::VcpuId;
use hv_core::introspect::{BreakpointId, ControlRun, StepMode};
use introspect::{Session, Target};
use scripted::{Heard, Random, Scripted, breakpoint, within_a_minute};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

/// A session whose sink fails if it is called twice at a time.
fn attach(target: &Arc<Target>) -> Session {
    let busy = AtomicBool::new(false);
    target.attach(
        "random",
        Box::new(move |_| {
            assert!(!busy.swap(true, Ordering::SeqCst), "two events at a time");
            thread::yield_now();
            busy.store(false, Ordering::SeqCst);
        }),
    )
}

/// One debugger after another, each doing random things and dropped in the middle of them.
fn debuggers(domain: &Scripted, target: &Arc<Target>, mut random: Random) {
    for _ in 0..20 {
        let session = attach(target);
        let mut breakpoints: Vec<BreakpointId> = Vec::new();
        for _ in 0..random.below(20) {
            match random.below(6) {
                0 => {
                    session.stop().unwrap();
                    assert!(session.holds());
                    assert!(!domain.run.lock().unwrap().executing, "held, and yet it executes");
                }
                1 | 2 => session.resume().unwrap(),
                3 => breakpoints.push(session.insert_breakpoint(breakpoint()).unwrap()),
                4 => {
                    if let Some(id) = breakpoints.pop() {
                        assert!(session.remove_breakpoint(id).unwrap());
                    }
                }
                _ if session.holds() => {
                    session.step(VcpuId(0), StepMode::Schedule).unwrap();
                }
                _ => thread::yield_now(),
            }
        }
    }
}

fn operator(domain: &Scripted, mut random: Random) {
    for _ in 0..100 {
        domain.pause().unwrap();
        if random.below(2) == 0 {
            thread::yield_now();
        }
        domain.unpause().unwrap();
        thread::yield_now();
    }
}

#[test]
fn whatever_sessions_do_the_guest_runs_in_the_end() {
    within_a_minute(|| {
        for seed in 0..40 {
            println!("seed {seed}");
            let domain = Scripted::new();
            let target = Target::new(domain.clone());
            let witness_heard = Heard::default();
            thread::scope(|scope| {
                let runner = scope.spawn(|| domain.runner(Random::new(seed)));
                thread::scope(|scope| {
                    for n in 1..=4 {
                        let (domain, target) = (&domain, &target);
                        scope.spawn(move || debuggers(domain, target, Random::new(seed * 100 + n)));
                    }
                    scope.spawn(|| operator(&domain, Random::new(seed * 100)));
                });
                let witness = target.attach("witness", witness_heard.sink());
                witness.stop().unwrap();
                assert!(witness.holds());
                drop(witness);
                domain.quit();
                runner.join().unwrap();
            });
            assert_eq!(domain.pauses(), 0);
            assert!(domain.breakpoints.lock().unwrap().is_empty());
            assert!(target.sessions().is_empty());
        }
    });
}

#[test]
fn detaching_at_the_moment_of_a_stop_leaves_no_pause() {
    within_a_minute(|| {
        let domain = Scripted::new();
        let target = Target::new(domain.clone());
        let other = attach(&target);
        for _ in 0..3000 {
            let session = attach(&target);
            let id = session.insert_breakpoint(breakpoint()).unwrap();
            let together = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    together.wait();
                    domain.hit(id);
                });
                scope.spawn(|| {
                    together.wait();
                    drop(session);
                });
            });
            assert_eq!(domain.pauses(), u32::from(other.holds()));
            other.resume().unwrap();
            assert_eq!(domain.pauses(), 0);
        }
    });
}

#[test]
fn stopping_at_the_moment_of_a_stop_holds_once() {
    within_a_minute(|| {
        let domain = Scripted::new();
        let target = Target::new(domain.clone());
        let session = attach(&target);
        let id = session.insert_breakpoint(breakpoint()).unwrap();
        for _ in 0..3000 {
            let together = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    together.wait();
                    domain.hit(id);
                });
                together.wait();
                session.stop().unwrap();
            });
            assert_eq!(domain.pauses(), 1);
            session.resume().unwrap();
            assert_eq!(domain.pauses(), 0);
        }
    });
}
