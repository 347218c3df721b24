//! So many connections at a time, and no more: whoever opens thousands of them, and is slow or silent on each, must not take the descriptors
//! that the links to other nodes need.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// After a failed accept (no descriptors left) it is not tried at once again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Accepts a connection when there is a place for it; until then it waits in front of the door.
pub(super) struct Places {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

/// A connection, and its place: whoever serves the one drops the other with it.
pub(super) struct Seated {
    pub(super) stream: TcpStream,
    pub(super) place: Option<OwnedSemaphorePermit>,
}

impl Places {
    pub(super) fn new(listener: TcpListener, places: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(places)) }
    }

    /// The next connection that there is a place for. Dropping the future loses none.
    pub(super) async fn accept(&mut self) -> Seated {
        // Nobody closes the semaphore.
        let place = self.places.clone().acquire_owned().await.ok();
        let stream = loop {
            match self.listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    tracing::debug!("can't accept an HTTP connection: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        };
        // A connection that is slow all the same is as good.
        let _ = stream.set_nodelay(true);
        Seated { stream, place }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test]
    async fn who_finds_no_place_waits_until_one_is_given_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut places = Places::new(listener, 2);
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(at).await.unwrap());
        }
        let first = places.accept().await;
        let _second = places.accept().await;
        assert!(timeout(Duration::from_millis(50), places.accept()).await.is_err());
        drop(first);
        timeout(Duration::from_secs(20), places.accept()).await.unwrap();
    }
}
