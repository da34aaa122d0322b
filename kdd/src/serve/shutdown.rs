//! One signal that everything in the service selects on.

use tokio::sync::watch;

/// Says once, to all, that the service stops.
#[derive(Debug)]
pub struct Shutdown(watch::Sender<bool>);

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown(watch::Sender::new(false))
    }
}

impl Shutdown {
    /// Says it.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was said.
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is said.
    pub async fn wait(&self) {
        // An error would mean that the sender is gone, which `self` holds.
        let _ = self.0.subscribe().wait_for(|stopping| *stopping).await;
    }
}
