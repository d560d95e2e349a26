//! Tests of the TLS layer in memory, against a client of rustls.

mod certificates;
mod clients;
mod facts;
mod files;
mod handshake;
mod hostile;
mod measure;
mod raw;
mod records;
mod reload;
mod resumption;
mod session;
