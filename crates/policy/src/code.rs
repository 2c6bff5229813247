//! The published numbers this crate reports (surface.md sections 4.1 and 4.2, appendix C).

use ebbgate_model::ErrorCode;

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal;)*) => {
        $($(#[doc = $doc])* pub(crate) const $name: ErrorCode = ErrorCode::new($number);)*
        /// Every number with its name in this file and what it means.
        pub(crate) const MEANINGS: &[(ErrorCode, &str, &str)] =
            &[$(($name, stringify!($name), concat!($($doc),*)),)*];
    };
}

codes! {
    /// An expression does not give true or false.
    EXPRESSION_NOT_BOOL = 2200;
    /// Unknown action type.
    ACTION_UNKNOWN = 2201;
    /// Action in a phase it does not have.
    ACTION_PHASE = 2202;
    /// Unknown configuration key.
    KEY_UNKNOWN = 2203;
    /// Bad value.
    VALUE_BAD = 2204;
    /// Action on a protocol it does not have.
    ACTION_PROTOCOL = 2205;
    /// Rule without actions.
    ACTIONS_MISSING = 2206;
    /// Action behind one that ends the phase.
    ACTION_UNREACHABLE = 2207;
    /// Number outside its range.
    NUMBER_RANGE = 2215;
    /// Too many entries.
    ENTRIES_TOO_MANY = 2218;
    /// A header that policies may not touch.
    HEADER_REFUSED = 2219;
    /// A value of the wrong type.
    VALUE_TYPE = 2222;
    /// A value that may not be empty.
    VALUE_EMPTY = 2223;
    /// An expression does not compile.
    EXPRESSION_BAD = 2224;
    /// Phase on a protocol it does not have.
    PHASE_PROTOCOL = 2230;
    /// Duplicate entries.
    ENTRIES_DUPLICATE = 2231;
    /// A required value is missing.
    VALUE_MISSING = 2234;
    /// A cloud endpoint's policy does not always terminate.
    NOT_TERMINATING = 2235;
    /// The document does not have the shape of a policy.
    DOCUMENT_SHAPE = 2236;
    /// An interpolation does not compile.
    INTERPOLATION_BAD = 2238;
    /// Actions that sign visitors in and exclude each other.
    SIGN_INS_CONFLICT = 2239;
    /// Two settings that exclude each other.
    VALUES_CONFLICT = 2240;
    /// A variable nested too deeply.
    VARS_DEPTH = 2250;
    /// A variable that refers to one set by the same action.
    VARS_SELF = 2251;
    /// A variable entry that is not a one-key map.
    VARS_SHAPE = 2252;
    /// More variables in one phase than there may be.
    VARS_FULL = 2253;
    /// Too many variables in one action.
    VARS_TOO_MANY = 2255;
    /// `on_tcp_connect` on an internal http(s) endpoint.
    INTERNAL_TCP_PHASE = 2262;
    /// Too many rules.
    RULES_TOO_MANY = 2264;
    /// Too many expressions or actions in a rule.
    RULE_TOO_LARGE = 2265;
    /// An expression failed at run time.
    EXPRESSION_FAILED = 2300;
    /// The circuit of a `circuit-breaker` is open.
    CIRCUIT_OPEN = 3202;
    /// A source address is not allowed.
    IP_RESTRICTED = 3203;
    /// A webhook does not carry its provider's signature.
    WEBHOOK_REFUSED = 3204;
    /// Credentials are missing.
    JWT_LACKS = 3401;
    /// The token is valid but not for here.
    JWT_FORBIDDEN = 3403;
    /// The token is not where it should be.
    JWT_NOT_FOUND = 3406;
    /// The header that carries the token is missing.
    JWT_HEADER_MISSING = 3408;
    /// The body cannot be read.
    JWT_BODY_READ = 3411;
    /// The body cannot be parsed.
    JWT_BODY_PARSE = 3412;
    /// The prefix before the token is missing.
    JWT_PREFIX = 3413;
    /// The body's content type carries no token.
    JWT_CONTENT_TYPE = 3414;
    /// The method carries no body token.
    JWT_METHOD = 3415;
    /// The token is malformed.
    JWT_MALFORMED = 3416;
    /// No key set could be fetched.
    JWT_KEYS = 3422;
    /// The answer to an `http-request` is too long. The edge reports it.
    CALL_TOO_LONG = 3601;
    /// The answer to an `http-request` did not come in time.
    CALL_LATE = 3602;
    /// Policies call each other too deep, or too often. The edge reports it.
    CALL_LOOP = 3603;
    /// The answer's status forbids a body.
    BODY_FORBIDDEN = 3604;
    /// The Core Rule Set refuses a request.
    WAF_REQUEST_REFUSED = 3700;
    /// The Core Rule Set could not run.
    WAF_FAILED = 3701;
    /// The Core Rule Set refuses a response.
    WAF_RESPONSE_REFUSED = 3702;
    /// An interpolation failed at run time.
    INTERPOLATION_FAILED = 3900;
    /// A computed pattern is not a regular expression.
    PATTERN_BAD = 3901;
    /// A body broke off while it was held. The edge reports it.
    BODY_INCOMPLETE = 3902;
    /// A body is too long for what the policy does with it.
    BODY_TOO_LONG = 3903;
    /// A body is in a content coding that is not known here.
    BODY_CODING_UNKNOWN = 3904;
    /// A body is not in the content coding that its head names. The edge reports it.
    BODY_CODING_BAD = 3905;
}
