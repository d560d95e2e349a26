//! Reloads while connections stay.

use std::sync::Arc;

use super::certificates::{Listener, P256, params, shown};
use super::session::{Session, TLS13, client};
use crate::transport::tls::{TlsError, TlsHandle, TlsWarning};

fn shown_to_a_client(handle: &TlsHandle, listener: &Listener) -> Vec<u8> {
    let session = Session::open(&handle.current(), client(&listener.ca, TLS13, None));
    session.client.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_reload_counts_for_new_connections_and_old_ones_stay() {
    let listener = Listener::new();
    let (handle, warnings) = TlsHandle::new(listener.settings.clone()).unwrap();
    assert_eq!(warnings, []);
    let before = shown_to_a_client(&handle, &listener);
    let mut old = Session::open(&handle.current(), client(&listener.ca, TLS13, None));
    assert!(!handle.files_changed());
    let renewed = listener.ca.pair(&params("renewed", &["broker.test"]));
    listener.files.pair("broker", &renewed);
    assert!(handle.files_changed());
    // Nothing happens by itself.
    assert_eq!(shown_to_a_client(&handle, &listener), before);
    assert_eq!(handle.reload(), Ok(Vec::<TlsWarning>::new()));
    assert!(!handle.files_changed());
    assert_eq!(shown_to_a_client(&handle, &listener), renewed.certificate.der().to_vec());
    old.check_data();
}

#[test]
fn what_is_wrong_leaves_the_old_configuration_in_force() {
    let listener = Listener::new();
    let (handle, _) = TlsHandle::new(listener.settings.clone()).unwrap();
    let before = handle.current();
    let key_file = listener.settings.certificates[0].key.clone();
    let good = std::fs::read_to_string(&key_file).unwrap();
    for bad in [P256, "", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"] {
        listener.files.write("broker.key", bad);
        assert!(handle.files_changed());
        let error = handle.reload().unwrap_err();
        assert!(matches!(error, TlsError::Kept(_)));
        let text = error.to_string();
        assert!(
            text.contains(&shown(&key_file)) && text.ends_with("; what was loaded before stays in force"),
            "{text}"
        );
        assert!(Arc::ptr_eq(&before, &handle.current()));
        // The fault is reported once, and not at each look.
        assert!(!handle.files_changed());
    }
    std::fs::remove_file(&key_file).unwrap();
    assert!(handle.files_changed());
    assert!(handle.reload().is_err() && !handle.files_changed());
    listener.files.write("broker.key", &good);
    assert!(handle.files_changed());
    assert!(handle.reload().is_ok());
    shown_to_a_client(&handle, &listener);
}

#[test]
fn a_file_that_is_written_in_place_is_seen_to_change() {
    let listener = Listener::new();
    let (handle, _) = TlsHandle::new(listener.settings.clone()).unwrap();
    let chain = &listener.settings.certificates[0].chain;
    let text = std::fs::read_to_string(chain).unwrap();
    std::fs::write(chain, format!("{text}\n")).unwrap();
    assert!(handle.files_changed());
}

/// A certificate that expires while it is in force is reported once, and again after each load.
#[test]
fn a_certificate_that_expires_is_reported_once() {
    let listener = Listener::new();
    let (handle, warnings) = TlsHandle::new(listener.settings.clone()).unwrap();
    assert_eq!(warnings, []);
    let (far_s, near_s) = (1 << 40, 1);
    assert_eq!(handle.expired(), []);
    let expired = handle.expired_at(far_s);
    let file = shown(&listener.settings.certificates[0].chain);
    assert!(
        matches!(&expired[..], [TlsWarning::Expired { file: expired, number: 1, .. }] if *expired == file),
        "{expired:?}"
    );
    for now_s in [far_s, far_s + 1, near_s, far_s + 2] {
        assert_eq!(handle.expired_at(now_s), []);
    }
    assert_eq!(handle.reload(), Ok(Vec::new()));
    assert_eq!(handle.expired_at(far_s).len(), 1, "what is loaded anew is reported anew");
}
