//! Threads that read. Each owns a connection that cannot write; together they take jobs from one bounded queue.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

/// Jobs that wait for a reader at most; whoever brings more waits too.
const WAITING_MAX: usize = 256;

type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

/// Where a reader finds its connection. It waits while somebody else has the seat, and while it is empty nothing is read.
pub(crate) type Seat = Arc<Mutex<Option<Connection>>>;

/// Why something could not be read, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// SQLite's answer.
    Failed(String),
    /// The store is closed.
    Closed,
}

impl ReadError {
    /// For people.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Failed(sentence) => sentence.clone(),
            Self::Closed => "the store is closed".to_owned(),
        }
    }
}

/// The other side of the threads.
pub(crate) struct Readers {
    sender: Mutex<Option<mpsc::Sender<ReadJob>>>,
    path: String,
}

impl Readers {
    /// Starts one thread for each seat.
    pub(crate) fn start(name: &str, path: String, seats: Vec<Seat>) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let (sender, receiver) = mpsc::channel::<ReadJob>(WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for seat in seats {
            let receiver = Arc::clone(&receiver);
            threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                loop {
                    let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                    let Some(job) = job else { return };
                    let conn = seat.lock().unwrap_or_else(PoisonError::into_inner);
                    // The caller is told by the end of its channel.
                    if let Some(conn) = &*conn
                        && catch_unwind(AssertUnwindSafe(|| job(conn))).is_err()
                    {
                        tracing::error!("reading from the store panicked; the reader goes on");
                    }
                }
            })?);
        }
        Ok((Self { sender: Mutex::new(Some(sender)), path }, threads))
    }

    /// Runs `read` on a reader. A job whose caller has gone is not begun.
    pub(crate) async fn read<T, R>(&self, read: R) -> Result<T, ReadError>
    where
        T: Send + 'static,
        R: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(ReadError::Closed)?;
        let (answer, receiver) = oneshot::channel();
        let job: ReadJob = Box::new(move |conn| {
            if !answer.is_closed() {
                let _ = answer.send(read(conn));
            }
        });
        sender.send(job).await.map_err(|_| ReadError::Closed)?;
        drop(sender);
        match receiver.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(ReadError::Failed(format!("the store `{}` could not be read: {error}", self.path))),
            Err(_) => Err(ReadError::Failed(format!("the store `{}` could not be read: the reader failed", self.path))),
        }
    }

    /// Has `read` run on a reader, and waits for nothing. False if there are too many jobs already, or none is taken any more.
    pub(crate) fn begin(&self, read: impl FnOnce(&Connection) + Send + 'static) -> bool {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_some_and(|sender| sender.try_send(Box::new(read)).is_ok())
    }

    /// Ends the threads once they have done what waits.
    pub(crate) fn stop(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
