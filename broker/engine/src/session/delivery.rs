//! One message on its way to one session.

use std::rc::Rc;

use smallvec::SmallVec;

use crate::held::{Held, hold};
use crate::message::MessageView;
use crate::packet::QoS;
use crate::route::GroupId;

/// A message on its way to this session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: Held,
    /// QoS of the delivery.
    pub qos: QoS,
    /// RETAIN of the delivery.
    pub retain: bool,
    /// Identifiers of the matching subscriptions.
    pub subscription_ids: Box<[u32]>,
    /// The shared subscription it was drawn for.
    pub group: Option<GroupId>,
    /// The reader of retained messages that it comes from, 0 for a live one.
    pub reader: u64,
}

/// How a message goes to one session.
pub(crate) struct Manner {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: SmallVec<[u32; 2]>,
    pub(crate) group: Option<GroupId>,
    /// The reader of retained messages that it comes from, 0 for a live one.
    pub(crate) reader: u64,
    /// Whether the view is the message that the frame cache was begun with.
    pub(crate) cached: bool,
}

pub(crate) fn manner_of(delivery: &Delivery) -> Manner {
    Manner {
        qos: delivery.qos,
        retain: delivery.retain,
        subscription_ids: delivery.subscription_ids.iter().copied().collect(),
        group: delivery.group,
        reader: delivery.reader,
        cached: false,
    }
}

/// The delivery to keep.
pub(crate) fn delivery_of(manner: &Manner, view: &MessageView<'_>, held: &mut Option<Held>) -> Delivery {
    Delivery {
        message: Rc::clone(hold(view, held)),
        qos: manner.qos,
        retain: manner.retain,
        subscription_ids: manner.subscription_ids.as_slice().into(),
        group: manner.group,
        reader: manner.reader,
    }
}

/// The lower of two QoS (section 3.8.4).
pub(crate) fn lower(a: QoS, b: u8) -> QoS {
    QoS::from_u8(a.as_u8().min(b)).unwrap_or(QoS::AtMostOnce)
}
