//! The admin endpoint: `/metrics`, `/status`, `/livez`, `/readyz` and `POST /replay` over HTTP, on a control thread of its own.
//!
//! ```text
//! scraper ──► listener ─ permit (32) ─► connection (10 s at most) ──► answer, rendered at most four times a second
//! ```
//!
//! Invariants:
//! - **A1** At most [`ADMIN_CONNECTIONS_MAX`] connections are held; the rest waits in the listener's backlog.
//! - **A2** A connection ends after [`ADMIN_CONNECTION_LIFE`], however slow its peer is.
//! - **A3** Nothing here is waited for by a data path; a thousand scrapes cost one rendering each [`ADMIN_ANSWER_AGE`].
//!
//! What it does not do: change anything (but for dead letters that are sent again, see `admin_replay`), authenticate, or speak TLS. It listens on the loopback unless told otherwise.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::extract::connect_info::Connected;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use super::admin_replay::{LetterIntake, LetterVerdict, REPLAY_MEDIA_TYPE, ReplayAnswer};
use super::admin_replay::{Peer, Replay, replay};
use super::export;
use super::status::StatusDocument;
use super::telemetry::Telemetry;
use crate::limits::{ADMIN_ANSWER_AGE, ADMIN_CONNECTION_LIFE, ADMIN_CONNECTIONS_MAX, ADMIN_STOP_GRACE};
use crate::sys::clock::{Clock, HostClock};

/// Why the endpoint could not start.
#[derive(Debug)]
pub enum AdminRefusal {
    /// The address can't be listened on.
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// No thread or no event queue for it.
    Thread(io::Error),
}

impl std::fmt::Display for AdminRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AdminRefusal::Bind { address, error } => write!(f, "can't listen on {address}: {error}"),
            AdminRefusal::Thread(error) => write!(f, "can't start the admin thread: {error}"),
        }
    }
}

impl std::error::Error for AdminRefusal {}

/// The running endpoint. Dropping it stops it too.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Listens and serves on a thread named `admin`, which calls `prepare_thread` first (to leave the runners' CPUs). Dead letters that
    /// are sent again go to `letters`, if that is there.
    ///
    /// # Errors
    /// See [`AdminRefusal`]; nothing is left behind.
    pub fn start(
        address: SocketAddr,
        telemetry: Arc<Telemetry>,
        letters: Option<LetterIntake>,
        prepare_thread: fn(),
    ) -> Result<Self, AdminRefusal> {
        Self::start_with(address, (telemetry, letters), prepare_thread, ADMIN_CONNECTION_LIFE)
    }

    fn start_with(
        address: SocketAddr,
        (telemetry, letters): (Arc<Telemetry>, Option<LetterIntake>),
        prepare_thread: fn(),
        connection_life: Duration,
    ) -> Result<Self, AdminRefusal> {
        let bind = |error| AdminRefusal::Bind { address, error };
        let socket = std::net::TcpListener::bind(address).map_err(bind)?;
        socket.set_nonblocking(true).map_err(bind)?;
        let bound = socket.local_addr().map_err(bind)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(AdminRefusal::Thread)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(socket).map_err(AdminRefusal::Thread)?
        };
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            prepare_thread();
            runtime.block_on(serve(BoundedListener::new(listener, connection_life), telemetry, Replay::new(letters), stopped));
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(serve).map_err(AdminRefusal::Thread)?;
        Ok(Self { address: bound, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens: the port chosen, if port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Finishes the answers under way (for half a second at most) and joins the thread.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // A thread that is gone has nothing to be told; a panic of it was reported when it happened.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve(listener: BoundedListener, telemetry: Arc<Telemetry>, letters: Arc<Replay>, stopped: oneshot::Receiver<()>) {
    let answers = Arc::new(Answers { telemetry, metrics: Cached::default(), status: Cached::default() });
    let routes = Router::new()
        .route("/", get(|| async { "/metrics /status /livez /readyz /replay\n" }))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .with_state(answers)
        .merge(Router::new().route("/replay", post(replay)).with_state(letters))
        .into_make_service_with_connect_info::<Peer>();
    let (hurry, hurried) = oneshot::channel();
    let server = axum::serve(listener, routes).with_graceful_shutdown(async move {
        // A dropped sender means the same as a message.
        let _ = stopped.await;
        let _ = hurry.send(());
    });
    let grace_over = async {
        let _ = hurried.await;
        tokio::time::sleep(ADMIN_STOP_GRACE).await;
    };
    tokio::select! {
        result = server.into_future() => if let Err(error) = result {
            log::error!("the admin endpoint ended: {error}");
        },
        () = grace_over => {}
    }
}

/// Rendered answers, kept for [`ADMIN_ANSWER_AGE`] (A3).
struct Answers {
    telemetry: Arc<Telemetry>,
    metrics: Cached,
    status: Cached,
}

#[derive(Default)]
struct Cached(Mutex<Option<(Instant, Arc<str>)>>);

impl Cached {
    fn get(&self, render: impl FnOnce() -> String) -> Arc<str> {
        // Only this thread's handlers take the lock, and none waits while it holds it.
        let mut cached = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*cached {
            Some((rendered_at, text)) if rendered_at.elapsed() < ADMIN_ANSWER_AGE => text.clone(),
            _ => cached.insert((Instant::now(), render().into())).1.clone(),
        }
    }
}

async fn metrics(State(answers): State<Arc<Answers>>) -> Response {
    let text = answers.metrics.get(|| export::render(answers.telemetry.read(HostClock.now())));
    ([(header::CONTENT_TYPE, export::CONTENT_TYPE)], text.to_string()).into_response()
}

async fn status(State(answers): State<Arc<Answers>>) -> Response {
    let text = answers.status.get(|| {
        let document = StatusDocument::of(&answers.telemetry.read(HostClock.now()));
        serde_json::to_string(&document).expect("maps with text keys and numbers always have a JSON form")
    });
    ([(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response()
}

async fn readyz(State(answers): State<Arc<Answers>>) -> Response {
    match answers.telemetry.ready(HostClock.now()) {
        Ok(()) => "ready\n".into_response(),
        Err(unready) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {unready}\n")).into_response(),
    }
}

/// A listener that accepts only with a permit in hand (A1).
struct BoundedListener {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    connection_life: Duration,
}

impl BoundedListener {
    fn new(listener: TcpListener, connection_life: Duration) -> Self {
        Self { listener, permits: Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)), connection_life }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        // axum's own listener waits a second after errors like EMFILE instead of spinning.
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        (BoundedStream { stream, life: Box::pin(tokio::time::sleep(self.connection_life)), _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, BoundedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Peer(*stream.remote_addr())
    }
}

/// A connection that ends by itself (A2).
struct BoundedStream {
    stream: TcpStream,
    life: Pin<Box<tokio::time::Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    /// Does the operation unless the life is over; wakes the task when it is.
    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        operate: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match operate(Pin::new(&mut self.stream), context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.life.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.bounded(context, |stream, context| stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.bounded(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bounded(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bounded(context, |stream, context| stream.poll_shutdown(context))
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
