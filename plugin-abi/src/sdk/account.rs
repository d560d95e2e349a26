//! The account of a client: who is charged for what several clients make a plugin hold. A user may
//! have many client identifiers, and somebody whom nobody has verified may have any.

use super::address::address_share;

/// The account of a client with this user name, which is verified or not, at this host. A client
/// without a host is one of a Unix socket; all of these have one account. `None` for what is no
/// client, such as a plugin that publishes.
pub(crate) fn account_of(
    username: Option<&str>,
    is_verified: bool,
    host: Option<&str>,
    is_client: bool,
) -> Option<String> {
    match (username.filter(|_| is_verified), host.filter(|host| !host.is_empty())) {
        (Some(name), _) => Some(format!("user {name}")),
        (None, Some(host)) => Some(format!("address {}", address_share(host))),
        (None, None) => is_client.then(|| "unix".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::account_of;

    #[test]
    fn a_user_name_counts_where_it_is_verified_and_the_address_elsewhere() {
        let accounts = [
            (Some("ann"), true, Some("10.0.0.1"), Some("user ann")),
            (Some("ann"), true, None, Some("user ann")),
            (Some(""), true, Some("10.0.0.1"), Some("user ")),
            (Some("ann"), false, Some("10.0.0.1"), Some("address 10.0.0.1")),
            (None, true, Some("2001:db8::7"), Some("address 2001:db8::")),
            (None, false, Some("::ffff:10.0.0.1"), Some("address 10.0.0.1")),
            // A user whose name is an address is not that address.
            (Some("10.0.0.1"), true, None, Some("user 10.0.0.1")),
            (Some("ann"), false, None, None),
            (None, true, None, None),
            (None, true, Some(""), None),
        ];
        for (username, is_verified, host, account) in accounts {
            let of = |is_client| account_of(username, is_verified, host, is_client);
            assert_eq!(of(false).as_deref(), account, "{username:?} {host:?}");
            assert_eq!(of(true).as_deref(), account.or(Some("unix")), "{username:?} {host:?}");
        }
    }
}
