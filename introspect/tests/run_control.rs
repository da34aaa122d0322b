//! Who holds the domain, who is told, and that pause counts balance: step by step.

mod scripted;

use hv_core::introspect::{
    AccessKind, ControlRun, CrashReason, Event, ResetCause, StepMode, StepOutcome, StopReason,
};
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::{Error, Target, TargetEvent};
use scripted::{Heard, Scripted, at_breakpoint, breakpoint};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};

const VCPU: VcpuId = VcpuId(0);

fn stopped(reason: StopReason, mine: bool) -> TargetEvent {
    TargetEvent::Stopped {
        vcpu: VCPU,
        reason,
        mine,
    }
}

#[test]
fn a_stop_is_held_by_every_session_until_the_last_resumes() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let (heard_a, heard_b) = (Heard::default(), Heard::default());
    let a = target.attach("a", heard_a.sink());
    let b = target.attach("b", heard_b.sink());
    let id = a.insert_breakpoint(breakpoint()).unwrap();

    domain.hit(id);
    assert_eq!(heard_a.take(), [stopped(at_breakpoint(id), true)]);
    assert_eq!(heard_b.take(), [stopped(at_breakpoint(id), false)]);
    assert_eq!(domain.pauses(), 2);
    assert_eq!(domain.run.lock().unwrap().starts, 0, "it ran before they held it");

    a.resume().unwrap();
    assert!(!a.holds() && b.holds());
    assert_eq!(domain.pauses(), 1);
    b.resume().unwrap();
    assert_eq!(domain.pauses(), 0);
    assert_eq!(heard_a.take(), [], "who resumed by itself isn't told");
    assert_eq!(heard_b.take(), []);
}

fn at_watchpoint(id: hv_core::introspect::BreakpointId) -> StopReason {
    StopReason::Watchpoint {
        id,
        address: 0x1000,
        access: AccessKind::Write,
    }
}

#[test]
fn a_stop_at_a_private_breakpoint_is_its_owners_and_a_pause_to_others() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let (heard_a, heard_b) = (Heard::default(), Heard::default());
    let a = target.attach("a", heard_a.sink());
    let b = target.attach("b", heard_b.sink());
    let id = a.insert_private_breakpoint(breakpoint()).unwrap();

    domain.hit(id);
    assert_eq!(heard_a.take(), [stopped(at_breakpoint(id), true)]);
    assert_eq!(heard_b.take(), [TargetEvent::OtherStopped]);
    assert!(a.holds() && !b.holds());
    a.resume().unwrap();
    assert_eq!(domain.pauses(), 0);
    assert_eq!(heard_b.take(), [TargetEvent::OtherResumed]);

    // One that isn't private makes the stop everybody's.
    let public = b.insert_breakpoint(breakpoint()).unwrap();
    domain.stop_by_itself(StopReason::Breakpoint {
        ids: vec![id, public],
        address: GuestVirtAddr(0),
    });
    assert!(a.holds() && b.holds());
    assert!(a.remove_breakpoint(id).unwrap());
}

#[test]
fn private_watchpoints_at_one_place_are_hit_for_each_by_its_own_name() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let (heard_a, heard_b, heard_c) = (Heard::default(), Heard::default(), Heard::default());
    let a = target.attach("a", heard_a.sink());
    let b = target.attach("b", heard_b.sink());
    let _c = target.attach("c", heard_c.sink());
    let (first, second) = (
        a.insert_private_breakpoint(breakpoint()).unwrap(),
        b.insert_private_breakpoint(breakpoint()).unwrap(),
    );
    domain.stop_by_itself(at_watchpoint(first));
    assert_eq!(heard_a.take(), [stopped(at_watchpoint(first), true)]);
    assert_eq!(heard_b.take(), [stopped(at_watchpoint(second), true)]);
    assert_eq!(heard_c.take(), [TargetEvent::OtherStopped]);
}

#[test]
fn a_step_is_not_ended_by_anothers_private_watchpoint() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let (heard_a, heard_b) = (Heard::default(), Heard::default());
    let a = target.attach("a", heard_a.sink());
    let b = target.attach("b", heard_b.sink());
    let id = a.insert_private_breakpoint(breakpoint()).unwrap();
    b.stop().unwrap();
    let stop = |vcpu| StepOutcome::Stopped {
        vcpu,
        reason: at_watchpoint(id),
    };
    // Another vCPU met it, then the one that is stepped.
    domain
        .steps
        .lock()
        .unwrap()
        .extend([stop(VcpuId(1)), stop(VCPU), StepOutcome::Waiting]);
    assert_eq!(b.step(VCPU, StepMode::Schedule), Ok(StepOutcome::Stepped));
    assert_eq!(domain.steps.lock().unwrap().len(), 1);
    let told = heard_a.take();
    assert_eq!(
        told[1..],
        [
            TargetEvent::Stopped {
                vcpu: VcpuId(1),
                reason: at_watchpoint(id),
                mine: true
            },
            stopped(at_watchpoint(id), true),
        ]
    );
    assert_eq!(heard_b.take(), []);
    assert!(a.holds() && b.holds());
}

#[test]
fn with_nobody_attached_the_domain_runs_on() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let page_access = StopReason::PageAccess {
        frame: hv_core::GuestPhysAddr(0),
        access: None,
    };
    domain.stop_by_itself(page_access.clone());
    assert_eq!(domain.pauses(), 0);
    drop(target.attach("gone", Heard::default().sink()));
    domain.stop_by_itself(page_access);
    assert_eq!(domain.pauses(), 0);
}

#[test]
fn a_session_that_held_already_holds_once() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let a = target.attach("a", Heard::default().sink());
    a.stop().unwrap();
    a.stop().unwrap();
    assert_eq!(domain.pauses(), 1);
    // A stop that was under way on the domain's side.
    domain.pause().unwrap();
    let crash = StopReason::Crashed(CrashReason::Panic);
    domain.emit(&Event::Stopped {
        vcpu: VCPU,
        reason: crash,
    });
    assert_eq!(domain.pauses(), 1);
    a.resume().unwrap();
    a.resume().unwrap();
    assert_eq!(domain.pauses(), 0);
}

#[test]
fn others_are_told_of_a_stop_but_hold_nothing() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let (heard_a, heard_b) = (Heard::default(), Heard::default());
    let a = target.attach("a", heard_a.sink());
    let b = target.attach("b", heard_b.sink());

    a.stop().unwrap();
    assert_eq!(heard_a.take(), []);
    assert_eq!(heard_b.take(), [TargetEvent::OtherStopped]);
    assert!(a.holds() && !b.holds());

    b.stop().unwrap();
    assert_eq!(heard_a.take(), [], "a holds it: no news");
    a.resume().unwrap();
    assert_eq!(heard_a.take(), [], "it waits for b");
    b.resume().unwrap();
    assert_eq!((heard_a.take(), heard_b.take()), (vec![], vec![]));

    b.stop().unwrap();
    assert_eq!(heard_a.take(), [TargetEvent::OtherStopped]);
    drop(b);
    assert_eq!(heard_a.take(), [TargetEvent::OtherResumed]);
    assert_eq!(domain.pauses(), 0);
}

#[test]
fn the_operators_pause_is_told_to_all() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let (heard_a, heard_b) = (Heard::default(), Heard::default());
    let _a = target.attach("a", heard_a.sink());
    domain.pause().unwrap();
    let _b = target.attach("b", heard_b.sink());
    domain.unpause().unwrap();
    assert_eq!(
        heard_a.take(),
        [TargetEvent::OtherStopped, TargetEvent::OtherResumed]
    );
    assert_eq!(heard_b.take(), [TargetEvent::OtherResumed]);
}

#[test]
fn a_resume_does_not_undo_the_operators_pause() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let heard = Heard::default();
    let a = target.attach("a", heard.sink());
    domain.pause().unwrap();
    a.resume().unwrap();
    assert_eq!(domain.pauses(), 1);
    drop(a);
    assert_eq!(domain.pauses(), 1);
}

#[test]
fn breakpoints_belong_to_their_session_and_go_with_it() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let a = target.attach("a", Heard::default().sink());
    let b = target.attach("b", Heard::default().sink());
    let of_a = a.insert_breakpoint(breakpoint()).unwrap();
    let of_b = b.insert_breakpoint(breakpoint()).unwrap();

    assert!(!b.remove_breakpoint(of_a).unwrap());
    assert_eq!(target.sessions()[0].breakpoints, 1);
    drop(a);
    assert_eq!(
        domain.breakpoints.lock().unwrap().iter().collect::<Vec<_>>(),
        [&of_b]
    );
    assert!(b.remove_breakpoint(of_b).unwrap());
    assert!(!b.remove_breakpoint(of_b).unwrap());
    assert_eq!(target.sessions().len(), 1);
    assert_eq!(target.sessions()[0].description, "b");
}

#[test]
fn a_late_hit_of_a_dead_sessions_breakpoint_disturbs_nobody() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let heard = Heard::default();
    let _b = target.attach("b", heard.sink());
    let a = target.attach("a", Heard::default().sink());
    let id = a.insert_breakpoint(breakpoint()).unwrap();
    drop(a);
    domain.hit(id);
    assert_eq!(domain.pauses(), 0);
    assert_eq!(heard.take(), []);
}

#[test]
fn a_breakpoint_that_is_hit_while_it_is_inserted_is_its_sessions() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let heard = Heard::default();
    let a = target.attach("a", heard.sink());
    domain.hit_at_once.store(true, Ordering::Relaxed);
    let id = a.insert_breakpoint(breakpoint()).unwrap();
    assert_eq!(heard.take(), [stopped(at_breakpoint(id), true)]);
    assert!(a.holds());
}

#[test]
fn a_holder_that_dies_lets_the_domain_run() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let a = target.attach("a", Heard::default().sink());
    let id = a.insert_breakpoint(breakpoint()).unwrap();
    domain.hit(id);
    assert_eq!(domain.pauses(), 1);
    drop(a);
    assert_eq!(domain.pauses(), 0);
    assert!(domain.breakpoints.lock().unwrap().is_empty());
}

#[test]
fn only_a_holder_may_step() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let heard = Heard::default();
    let a = target.attach("a", Heard::default().sink());
    let _b = target.attach("b", heard.sink());
    assert_eq!(a.step(VCPU, StepMode::Schedule), Err(Error::NotHolding(a.id())));
    a.stop().unwrap();
    heard.take();
    assert_eq!(a.step(VCPU, StepMode::Schedule), Ok(StepOutcome::Stepped));
    assert_eq!(heard.take(), [], "a step is no news to others");
}

#[test]
fn a_stop_during_a_step_is_told_to_the_others_who_then_hold() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let (heard_a, heard_b) = (Heard::default(), Heard::default());
    let a = target.attach("a", heard_a.sink());
    let b = target.attach("b", heard_b.sink());
    let id = b.insert_breakpoint(breakpoint()).unwrap();
    a.stop().unwrap();
    heard_b.take();
    let outcome = StepOutcome::Stopped {
        vcpu: VCPU,
        reason: at_breakpoint(id),
    };
    domain.steps.lock().unwrap().push_back(outcome.clone());
    assert_eq!(a.step(VCPU, StepMode::Schedule), Ok(outcome));
    assert_eq!(heard_a.take(), []);
    assert_eq!(heard_b.take(), [stopped(at_breakpoint(id), true)]);
    assert!(b.holds());
    a.resume().unwrap();
    assert_eq!(domain.pauses(), 1);
    b.resume().unwrap();
    assert_eq!(domain.pauses(), 0);
}

#[test]
fn a_step_goes_on_past_a_dead_sessions_breakpoint() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let a = target.attach("a", Heard::default().sink());
    let dead = target.attach("b", Heard::default().sink());
    let id = dead.insert_breakpoint(breakpoint()).unwrap();
    drop(dead);
    a.stop().unwrap();
    domain.steps.lock().unwrap().push_back(StepOutcome::Stopped {
        vcpu: VCPU,
        reason: at_breakpoint(id),
    });
    assert_eq!(a.step(VCPU, StepMode::Schedule), Ok(StepOutcome::Stepped));
    assert_eq!(domain.pauses(), 1);
}

#[test]
fn a_sink_may_resume_its_session() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let session = Arc::new(OnceLock::<introspect::Session>::new());
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let sink: introspect::EventSink = {
        let (session, outcomes) = (session.clone(), outcomes.clone());
        Box::new(move |_| outcomes.lock().unwrap().push(session.get().unwrap().resume()))
    };
    let id = session
        .get_or_init(|| target.attach("a", sink))
        .insert_breakpoint(breakpoint())
        .unwrap();
    domain.hit(id);
    assert_eq!(*outcomes.lock().unwrap(), [Ok(())]);
    assert_eq!(domain.pauses(), 0);
}

#[test]
fn other_events_reach_every_session() {
    let domain = Scripted::new();
    let target = Target::new(domain.clone());
    let heard = Heard::default();
    let _a = target.attach("a", heard.sink());
    domain.emit(&Event::VcpuUp(VcpuId(1)));
    domain.emit(&Event::Console {
        port: 1,
        bytes: b"hello".to_vec(),
    });
    domain.emit(&Event::DebugExit(3));
    domain.emit(&Event::Reset(ResetCause::Operator));
    domain.emit(&Event::Crashed(CrashReason::HaltedForever));
    domain.emit(&Event::ShutDown);
    assert_eq!(
        heard.take(),
        [
            TargetEvent::VcpuUp(VcpuId(1)),
            TargetEvent::Console {
                port: 1,
                bytes: b"hello".to_vec(),
            },
            TargetEvent::DebugExit(3),
            TargetEvent::Reset(ResetCause::Operator),
            TargetEvent::Crashed(CrashReason::HaltedForever),
            TargetEvent::ShutDown,
        ]
    );
}

#[test]
fn a_dropped_target_leaves_no_subscription() {
    let domain = Scripted::new();
    let heard = Heard::default();
    let session = Target::new(domain.clone()).attach("a", heard.sink());
    domain.emit(&Event::Reset(ResetCause::Operator));
    assert_eq!(
        heard.take(),
        [TargetEvent::Reset(ResetCause::Operator)],
        "a session keeps its target"
    );
    let weak = Arc::downgrade(session.target());
    drop(session);
    assert!(weak.upgrade().is_none());
    domain.emit(&Event::Reset(ResetCause::Operator));
    assert_eq!(heard.take(), []);
}

#[test]
fn a_domain_that_is_only_there_to_be_read_says_so() {
    let mut domain = Scripted::default();
    domain.dump = true;
    let domain = Arc::new(domain);
    let target = Target::new(domain);
    let a = target.attach("a", Heard::default().sink());
    // It stands still as it is.
    a.stop().unwrap();
    assert!(a.holds());
    let error = a.step(VcpuId(0), StepMode::Alone).unwrap_err();
    assert_eq!(
        error.to_string(),
        "domain 00000000000000d0 can't be stopped or run: it is only there to be read"
    );
    a.resume().unwrap();
    assert!(a.insert_breakpoint(breakpoint()).is_err());
    let space = introspect::AddressSpace::Physical;
    let error = target.write_virtual(space, GuestVirtAddr(0), &[1]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("can't be written: it is only there to be read"),
        "{error}"
    );
}
