//! The layers of one connection as one: what the shard calls between its socket and the engine.
//! Moves bytes from layer to layer; it reads and writes no socket and knows nothing of MQTT.

use std::cell::RefCell;

use super::{Layer, LayerError, PeerFacts};

#[cfg(test)]
mod tests;

/// The layers of one connection. They are used by one thread at a time, and move with their
/// connection to another shard, also between two parts of a record or frame. Bytes that are on the
/// way from one layer to the next lie in buffers of the thread, so that an idle connection has none.
pub(crate) struct Layers {
    /// The PROXY protocol: only a header, so the layer is dropped after it.
    proxy: Option<Box<dyn Layer>>,
    /// TLS and WebSocket, as far as the listener has them; the lowest is first.
    layers: Stack,
    /// What the PROXY protocol has told, until [`Layers::describe`] takes it.
    facts: PeerFacts,
    ending: Ending,
}

/// How far the end of the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It has not begun.
    None,
    /// This side has told the peer; what the peer says until its own end is still read.
    Closing,
    /// Nothing may be received or sent.
    Ended,
}

type Stack = smallvec::SmallVec<[Box<dyn Layer>; 2]>;

impl Layers {
    /// The layers of a new connection, from the socket up. Absent ones cost nothing.
    pub(crate) fn new(
        proxy: Option<Box<dyn Layer>>,
        tls: Option<Box<dyn Layer>>,
        websocket: Option<Box<dyn Layer>>,
    ) -> Self {
        Layers {
            proxy,
            layers: [tls, websocket].into_iter().flatten().collect(),
            facts: PeerFacts::default(),
            ending: Ending::None,
        }
    }

    /// Takes all of `input`, which came from the socket. Appends what it means for the engine to
    /// `decoded`, at most as many bytes as have been received, and what is to be sent to `output`.
    ///
    /// After [`Layers::close`] the peer may be read on until it ends the connection too; `decoded`
    /// is to be ignored then.
    ///
    /// # Errors
    /// [`LayerError`] if the connection must end. `decoded` and `output` still count: first the
    /// engine gets the one, and the peer the other, in which all layers have said what the peer must
    /// know. Every later call returns [`LayerError::Closed`] and does nothing.
    pub(crate) fn receive(
        &mut self,
        input: &[u8],
        decoded: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<(), LayerError> {
        if self.ending == Ending::Ended {
            return Err(LayerError::Closed);
        }
        let answering = self.ending == Ending::None;
        let result = match self.proxy.take() {
            Some(proxy) => self.receive_header(proxy, input, decoded, output),
            None => receive(&mut self.layers, input, decoded, output, answering),
        };
        if result.is_err() {
            self.ending = Ending::Ended;
        }
        result
    }

    fn receive_header(
        &mut self,
        mut proxy: Box<dyn Layer>,
        input: &[u8],
        decoded: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<(), LayerError> {
        let mut rest = Scratch::take();
        proxy.receive(input, &mut rest.0, output)?;
        if !proxy.is_open() {
            self.proxy = Some(proxy);
            return Ok(());
        }
        proxy.describe(&mut self.facts);
        if rest.0.is_empty() {
            return Ok(());
        }
        receive(&mut self.layers, &rest.0, decoded, output, self.ending == Ending::None)
    }

    /// Encodes bytes of the engine and appends the result to `output`. To call before
    /// [`Layers::is_open`] is an error of the caller; the bytes are dropped.
    ///
    /// # Errors
    /// [`LayerError`] if nothing can be sent any more; the bytes are dropped.
    pub(crate) fn send(&mut self, bytes: &[u8], output: &mut Vec<u8>) -> Result<(), LayerError> {
        if self.ending != Ending::None {
            return Err(LayerError::Closed);
        }
        debug_assert!(self.is_open(), "bytes sent through layers that are not open");
        if bytes.is_empty() || !self.is_open() {
            return Ok(());
        }
        send(&mut self.layers, bytes, output)
    }

    /// Ends the connection from this side: appends what tells the peer to `output`, such as a close
    /// frame inside TLS and the end of TLS after it. Does nothing the second time, or after an
    /// error of [`Layers::receive`].
    pub(crate) fn close(&mut self, output: &mut Vec<u8>) {
        if self.ending == Ending::None {
            self.ending = Ending::Closing;
            close(&mut self.layers, output);
        }
    }

    /// Whether bytes of the engine can be sent: every handshake is over, and the end has not begun.
    pub(crate) fn is_open(&self) -> bool {
        self.ending == Ending::None && self.proxy.is_none() && self.layers.iter().all(|layer| layer.is_open())
    }

    /// Whether bytes pass as they are, so that the caller may drop the layers and use the socket
    /// itself: the header of the PROXY protocol is over, and there is no other layer.
    pub(crate) fn is_plain(&self) -> bool {
        self.ending == Ending::None && self.proxy.is_none() && self.layers.is_empty()
    }

    /// Memory that the layers own now, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let layers: usize = self.proxy.iter().chain(&self.layers).map(|layer| layer.memory_bytes()).sum();
        size_of::<Self>() + layers
    }

    /// What the layers know of the peer. To be called once, when they are open.
    pub(crate) fn describe(&mut self) -> PeerFacts {
        let mut facts = std::mem::take(&mut self.facts);
        // From below: an upper layer believes a proxy only if the layer below has not shown another
        // peer than the proxy.
        for layer in &self.layers {
            layer.describe(&mut facts);
        }
        facts
    }
}

/// Takes `input` from below the lowest of `layers`. If `answering` is false, what upper layers
/// answer is dropped, because this side has ended its direction.
fn receive(
    layers: &mut [Box<dyn Layer>],
    input: &[u8],
    decoded: &mut Vec<u8>,
    output: &mut Vec<u8>,
    answering: bool,
) -> Result<(), LayerError> {
    let Some((lowest, above)) = layers.split_first_mut() else {
        decoded.extend_from_slice(input);
        return Ok(());
    };
    if above.is_empty() {
        let before = output.len();
        let result = lowest.receive(input, decoded, output);
        if !answering {
            output.truncate(before);
        }
        return result;
    }
    let mut between = Scratch::take();
    let mut answers = Scratch::take();
    let before = output.len();
    let result = lowest.receive(input, &mut between.0, output);
    if !answering {
        output.truncate(before);
    }
    let result_above = match between.0.is_empty() {
        true => Ok(()),
        false => receive(above, &between.0, decoded, &mut answers.0, answering),
    };
    // A lower layer that has failed cannot carry answers, and has said itself what there is to say.
    result?;
    if answering {
        if !answers.0.is_empty() && lowest.is_open() {
            lowest.send(&answers.0, output)?;
        }
        if result_above.is_err() {
            lowest.close(output);
        }
    }
    result_above
}

/// Sends `bytes` from above the highest of `layers`.
fn send(layers: &mut [Box<dyn Layer>], bytes: &[u8], output: &mut Vec<u8>) -> Result<(), LayerError> {
    let Some((highest, below)) = layers.split_last_mut() else {
        output.extend_from_slice(bytes);
        return Ok(());
    };
    if below.is_empty() {
        return highest.send(bytes, output);
    }
    let mut encoded = Scratch::take();
    highest.send(bytes, &mut encoded.0)?;
    send(below, &encoded.0, output)
}

/// Closes the highest of `layers`, then the ones below it.
fn close(layers: &mut [Box<dyn Layer>], output: &mut Vec<u8>) {
    let Some((highest, below)) = layers.split_last_mut() else { return };
    if below.is_empty() {
        return highest.close(output);
    }
    let mut last = Scratch::take();
    highest.close(&mut last.0);
    // A lower layer in its handshake cannot carry anything yet. If one cannot send any more, the
    // peer learns of the end from the layers below it.
    if !last.0.is_empty() && below.iter().all(|layer| layer.is_open()) {
        let _ = send(below, &last.0, output);
    }
    close(below, output);
}

/// A buffer that the thread lends. Its capacity is given back for the next connection.
struct Scratch(Vec<u8>);

/// Buffers that a thread keeps: as many as one call uses at the same time. With the bound of each,
/// a thread keeps at most 768 KiB.
const SCRATCH_BUFFERS_MAX: usize = 3;
/// Largest capacity that is kept, bytes: larger than what one read from a socket brings.
const SCRATCH_KEPT_BYTES_MAX: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    fn take() -> Self {
        // A thread that ends has no list any more.
        let kept = SCRATCH.try_with(|kept| kept.borrow_mut().pop()).ok().flatten();
        Scratch(kept.unwrap_or_default())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() == 0 || buffer.capacity() > SCRATCH_KEPT_BYTES_MAX {
            return;
        }
        buffer.clear();
        let _ = SCRATCH.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < SCRATCH_BUFFERS_MAX {
                kept.push(buffer);
            }
        });
    }
}
