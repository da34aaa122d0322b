//! A domain that was created paused waits for its first debugger as well as for `kdd unpause`.
//!
//! Pauses count, so that pause would keep the guest still when the debugger says `continue`. Once a debugger holds
//! the domain itself, the pause it was created with has served its purpose and is taken back.

use super::{Managed, Service};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether a debugger came. Only domains that still wait are looked at.
const LOOK: Duration = Duration::from_millis(20);

impl Service {
    /// Lets the first debugger that holds the domain take over the pause it was created with.
    pub(super) fn hand_over_to_first_debugger(&self, managed: &Arc<Managed>) {
        let managed = Arc::downgrade(managed);
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(managed) = managed.upgrade() else { return };
                if managed.operator_pauses() == 0 {
                    return;
                }
                if managed.target().sessions().iter().any(|session| session.holds) {
                    let done = tokio::task::spawn_blocking(move || managed.unpause()).await;
                    if let Ok(Err(failure)) = done {
                        tracing::debug!("{failure}");
                    }
                    return;
                }
            }
        });
    }
}
