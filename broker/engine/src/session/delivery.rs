//! One message on its way to one session.

use std::rc::Rc;

use smallvec::SmallVec;

use crate::message::MessageView;
use crate::packet::QoS;
use crate::route::GroupId;
use crate::shared_message::{SharedMessage, shared_message};

/// A message on its way to this session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: SharedMessage,
    /// QoS of the delivery.
    pub qos: QoS,
    /// RETAIN of the delivery.
    pub retain: bool,
    /// Identifiers of the matching subscriptions.
    pub subscription_ids: Box<[u32]>,
    /// The shared subscription that picked this session.
    pub group: Option<GroupId>,
    /// The reader of retained messages it comes from; 0 for a live message.
    pub reader: u64,
}

/// How a message goes to one session.
pub(crate) struct DeliveryOptions {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: SmallVec<[u32; 2]>,
    pub(crate) group: Option<GroupId>,
    /// The reader of retained messages it comes from; 0 for a live message.
    pub(crate) reader: u64,
    /// Whether the view is the message for which the frame cache was made.
    pub(crate) cached: bool,
}

pub(crate) fn options_of(delivery: &Delivery) -> DeliveryOptions {
    DeliveryOptions {
        qos: delivery.qos,
        retain: delivery.retain,
        subscription_ids: SmallVec::from_slice(&delivery.subscription_ids),
        group: delivery.group,
        reader: delivery.reader,
        cached: false,
    }
}

/// Makes the delivery that is stored.
pub(crate) fn delivery_of(
    options: &DeliveryOptions,
    view: &MessageView<'_>,
    shared: &mut Option<SharedMessage>,
) -> Delivery {
    Delivery {
        message: Rc::clone(shared_message(view, shared)),
        qos: options.qos,
        retain: options.retain,
        subscription_ids: options.subscription_ids.as_slice().into(),
        group: options.group,
        reader: options.reader,
    }
}

/// The lower of two QoS (section 3.8.4).
pub(crate) fn lower(a: QoS, b: u8) -> QoS {
    QoS::from_u8(a.as_u8().min(b)).unwrap_or(QoS::AtMostOnce)
}
