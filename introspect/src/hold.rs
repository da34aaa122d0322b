//! One pause of the domain, as a value: whoever has it holds the domain, and dropping it gives the pause back.
//! That pause counts balance follows from that, in every interleaving.

use hv_core::introspect::{ControlRun, Error, Introspect, Result};
use std::sync::Arc;

/// A pause. It must not be taken or dropped with a lock of the target held.
pub(crate) struct Hold {
    /// `None` once given back, and for a domain that never runs.
    domain: Option<Arc<dyn Introspect>>,
}

impl Hold {
    /// Pauses the domain. One that can only be read stands still anyway.
    pub(crate) fn acquire(domain: &Arc<dyn Introspect>) -> Result<Hold> {
        let Some(control) = domain.control_run() else {
            return Ok(Hold { domain: None });
        };
        control.pause()?;
        Ok(Hold::adopt(domain))
    }

    /// Takes over a pause that the domain holds already.
    pub(crate) fn adopt(domain: &Arc<dyn Introspect>) -> Hold {
        Hold {
            domain: Some(domain.clone()),
        }
    }

    /// Gives the pause back; the hold is gone even if the domain says that it couldn't be.
    pub(crate) fn release(mut self) -> Result<()> {
        self.give_back()
    }

    fn give_back(&mut self) -> Result<()> {
        match self.domain.take() {
            Some(domain) => control_of(&*domain)?.unpause(),
            None => Ok(()),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            tracing::debug!(%error, "a pause could not be given back");
        }
    }
}

/// The domain's run control, or an error that says there is none.
pub(crate) fn control_of(domain: &dyn Introspect) -> Result<&dyn ControlRun> {
    domain.control_run().ok_or_else(|| Error::Unsupported {
        domain: domain.id(),
        what: "be stopped or run: it is only there to be read",
    })
}
