//! How a request ended: metric label, log field and manual at once.

/// Whose fault an ending is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Nobody,
    Client,
    Upstream,
    Gateway,
}

macro_rules! endings {
    ($($(#[doc = $doc:literal])+ $variant:ident, $name:literal, $fault:ident;)*) => {
        /// Exactly one for each request, on every path.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Ending { $($(#[doc = $doc])+ $variant),* }

        impl Ending {
            pub const ALL: &[Ending] = &[$(Ending::$variant),*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            pub const fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault),* }
            }

            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),* }
            }
        }
    };
}

endings! {
    /// The answer was sent whole.
    Completed, "completed", Nobody;
    /// A redirect or fixed answer of the route itself was sent.
    Answered, "answered", Nobody;
    /// A WebSocket or other upgraded connection was closed by either side.
    TunnelClosed, "tunnel_closed", Nobody;
    /// A tunnel was silent for longer than its idle limit.
    TunnelIdle, "tunnel_idle", Nobody;
    /// The user of a WebSocket sent more messages than the route allows in a minute.
    TunnelOverLimit, "tunnel_over_limit", Client;
    /// The gateway was stopping and its deadline had come.
    CutByDrain, "cut_by_drain", Gateway;
    /// The caller left before the answer was whole (status 499 when none was sent).
    ClientLeft, "client_left", Client;
    /// The caller was refused by a rule of the gateway: see the code.
    Refused, "refused", Client;
    /// Who is calling could not be checked: the keys of the issuer could not be fetched.
    IdentityUnavailable, "identity_unavailable", Upstream;
    /// The gateway had as much work as it takes.
    Overloaded, "overloaded", Gateway;
    /// No route matches.
    NoRoute, "no_route", Client;
    /// The request was malformed.
    BadRequest, "bad_request", Client;
    /// The caller was too slow in sending its body or in taking the answer.
    ClientTimedOut, "client_timed_out", Client;
    /// No endpoint of the pool could be tried.
    NoHealthyEndpoint, "no_healthy_endpoint", Upstream;
    /// The pool was full and so was its queue, or the wait was too long.
    QueueFull, "queue_full", Upstream;
    /// No connection could be made to any endpoint tried.
    ConnectFailed, "connect_failed", Upstream;
    /// The time limit for connecting passed.
    TimedOutConnect, "timed_out_connect", Upstream;
    /// The time limit for the first byte of the answer passed.
    TimedOutFirstByte, "timed_out_first_byte", Upstream;
    /// The time limit between two bytes passed.
    TimedOutIdle, "timed_out_idle", Upstream;
    /// The time limit for the whole request passed.
    TimedOutTotal, "timed_out_total", Upstream;
    /// The endpoint broke off before its answer began.
    UpstreamReset, "upstream_reset", Upstream;
    /// The endpoint broke off in the middle of its answer.
    UpstreamCut, "upstream_cut", Upstream;
    /// The endpoint spoke something that is not HTTP.
    UpstreamMalformed, "upstream_malformed", Upstream;
    /// A model's provider refused the call, and so would others: the caller was told why.
    ProviderRefused, "provider_refused", Client;
    /// No provider of the model answered, or the one that did gave up in the middle.
    ProviderFailed, "provider_failed", Upstream;
    /// The gateway failed: a bug.
    Internal, "internal", Gateway;
    /// Nobody said how it ended: a bug, and a metric that must stay 0.
    Unknown, "unknown", Gateway;
}

impl Ending {
    /// Whether nobody is left who could be told.
    pub const fn client_is_gone(self) -> bool {
        matches!(self, Self::ClientLeft)
    }
}
