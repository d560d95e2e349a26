//! Accepts connections to the API and serves HTTP/1 on them, until the broker stops. The number of
//! connections, the time for a request to arrive and the time for an answer to be read are bounded.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use super::slots::{Activity, Answer, ConnectionSlots, HeldSlot};

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at a time.
    pub connections_max: usize,
    /// Time that the head of a request may take to arrive, and that a connection may be idle.
    pub request: Duration,
    /// Time in which the client must read a minimum of an answer.
    pub stall: Duration,
}

/// Pause after `accept` has failed, for instance for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket: Unix or TCP.
pub(super) trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    async fn accept(&self) -> io::Result<Self::Stream>;
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn accept(&self) -> io::Result<Self::Stream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn accept(&self) -> io::Result<Self::Stream> {
        let (stream, _) = TcpListener::accept(self).await?;
        // Whole answers are written at once, so Nagle's algorithm would only delay them.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Waits until the broker stops.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the sender was dropped, so the broker stops too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Serves until `stopping` becomes true, then until the running requests have been answered.
pub(super) async fn serve(
    listener: impl Accept,
    router: Router,
    bounds: Bounds,
    mut stopping: watch::Receiver<bool>,
) {
    let slots = ConnectionSlots::new(bounds.connections_max);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stopping) => break,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("the control plane cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let taken = tokio::select! {
            taken = slots.take() => taken,
            () = stopped(&mut stopping) => break,
        };
        tokio::spawn(connection(stream, taken, router.clone(), bounds, stopping.clone()));
    }
    slots.all_free().await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    taken: HeldSlot,
    router: Router,
    bounds: Bounds,
    mut stopping: watch::Receiver<bool>,
) {
    let service = Service { router: TowerToHyperService::new(router), activity: taken.activity() };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.request)
        .serve_connection(TokioIo::new(taken.watch(stream, bounds.stall)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        // The connection is polled first, so that a request that has arrived is processed.
        biased;
        ended = connection.as_mut() => ended,
        // The connection is idle, so no request is lost.
        () = taken.is_needed() => return,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    let Err(error) = ended else { return };
    if is_stall(&error) {
        tracing::warn!(
            "a connection to the control plane is closed: its end took too little of an answer for {} ms \
             (control.stall_timeout_ms)",
            bounds.stall.as_millis()
        );
    } else {
        tracing::debug!("a connection to the control plane ended: {error}");
    }
}

fn is_stall(error: &hyper::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let mut systems = causes.filter_map(|cause| cause.downcast_ref::<io::Error>());
    systems.any(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

/// The routes. Each request marks its connection as busy.
struct Service {
    router: TowerToHyperService<Router>,
    activity: Activity,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = self.activity.begin();
        let answer = hyper::service::Service::call(&self.router, request);
        Box::pin(async move {
            let answer: Response<Body> = answer.await?;
            Ok(answer.map(|body| Answer { body, _busy: busy }))
        })
    }
}
