//! Encoding of deliveries: a message to many sessions is encoded once for each protocol version and
//! set of options. Each delivery copies that and patches its packet identifier.

use std::num::NonZeroU16;

use crate::codec::{PublishHeader, encode_publish, patch_packet_id};
use crate::message::MessageView;
use crate::packet::{QoS, Version};

/// Size from which a payload is shared instead of copied into each outbound queue, bytes.
pub const SHARED_PAYLOAD_BYTES: usize = 4096;

/// The form of a message for one session.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// The receiver's version.
    pub version: Version,
    /// QoS of the delivery.
    pub qos: QoS,
    /// RETAIN of the delivery.
    pub retain: bool,
    /// A resend [MQTT-3.3.1-1].
    pub dup: bool,
    /// Identifiers of the matching subscriptions.
    pub subscription_ids: &'a [u32],
    /// Alias to set or use.
    pub topic_alias: Option<u16>,
    /// Whether the receiver has stored the topic name for the alias.
    pub topic_known: bool,
    /// Bytes of the topic that the receiver does not see: its mount point.
    pub mount_bytes: usize,
}

/// An encoded PUBLISH; small payloads are part of it.
#[derive(Debug, Default)]
pub struct EncodedFrame {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    /// Bytes of the whole packet.
    len: usize,
    /// The number of its message in the [`FrameCache`].
    message: Option<u64>,
}

impl EncodedFrame {
    fn encode(&mut self, view: &MessageView<'_>, shape: &Shape<'_>, now_ms: u64) {
        self.bytes.clear();
        let payload = view.payload.as_slice();
        let header = PublishHeader {
            topic: if shape.topic_known { "" } else { &view.topic[shape.mount_bytes..] },
            qos: shape.qos,
            retain: shape.retain,
            dup: shape.dup,
            packet_id: None,
            subscription_ids: shape.subscription_ids,
            topic_alias: shape.topic_alias,
            message_expiry_s: view.expiry_left_s(now_ms),
            properties: view.properties,
            payload_len: payload.len(),
        };
        let encoded = encode_publish(&header, shape.version, &mut self.bytes);
        self.packet_id_at = encoded.packet_id_at;
        self.len = encoded.len;
        if payload.len() < SHARED_PAYLOAD_BYTES {
            self.bytes.extend_from_slice(payload);
        }
    }

    /// Bytes of the whole packet, with a payload that is shared. 0 if it is too large for MQTT.
    #[inline]
    pub fn packet_len(&self) -> usize {
        self.len
    }

    /// Bytes that [`EncodedFrame::copy_to`] appends.
    #[inline]
    pub fn copied_len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a copy with this packet identifier.
    #[inline]
    pub fn copy_to(&self, out: &mut Vec<u8>, packet_id: Option<NonZeroU16>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let (Some(at), Some(packet_id)) = (self.packet_id_at, packet_id) {
            patch_packet_id(out, start + at, packet_id);
        }
    }
}

/// The encoded forms of the current message. Its buffers live as long as the shard.
#[derive(Debug, Default)]
pub struct FrameCache {
    frames: [EncodedFrame; 12],
    odd: EncodedFrame,
    /// Number of the current message. Frames with another number are of earlier ones.
    message: u64,
    /// The forms for receivers with a mount point, from the first one on. Most often those of a
    /// message have the same.
    mounted: Option<Box<MountedFrames>>,
}

#[derive(Debug, Default)]
struct MountedFrames {
    frames: [EncodedFrame; 12],
    /// The mount point of these, bytes.
    mount_bytes: usize,
}

impl FrameCache {
    /// Starts another message.
    #[inline]
    pub fn begin(&mut self) {
        self.message += 1;
        if let Some(mounted) = &mut self.mounted {
            mounted.mount_bytes = 0;
        }
    }

    /// The message in this shape. `cached` says that it is unchanged since `begin`. With
    /// identifiers, an alias or DUP it is encoded anew in any case.
    pub fn frame(
        &mut self,
        view: &MessageView<'_>,
        shape: &Shape<'_>,
        cached: bool,
        now_ms: u64,
    ) -> &EncodedFrame {
        let plain = shape.subscription_ids.is_empty() && shape.topic_alias.is_none() && !shape.dup;
        if !cached || !plain {
            self.odd.encode(view, shape, now_ms);
            return &self.odd;
        }
        let place = usize::from(shape.version.is_v5()) * 6
            + usize::from(shape.qos.as_u8()) * 2
            + usize::from(shape.retain);
        let frame = match shape.mount_bytes {
            0 => &mut self.frames[place],
            _ => MountedFrames::frame(&mut self.mounted, place, shape.mount_bytes),
        };
        if frame.message != Some(self.message) {
            frame.message = Some(self.message);
            frame.encode(view, shape, now_ms);
        }
        frame
    }
}

impl MountedFrames {
    /// The frame at a place, fresh only if it was encoded for a mount point of this length.
    #[cold]
    fn frame(
        mounted: &mut Option<Box<MountedFrames>>,
        place: usize,
        mount_bytes: usize,
    ) -> &mut EncodedFrame {
        let mounted = mounted.get_or_insert_default();
        if std::mem::replace(&mut mounted.mount_bytes, mount_bytes) != mount_bytes {
            mounted.frames.iter_mut().for_each(|frame| frame.message = None);
        }
        &mut mounted.frames[place]
    }
}
