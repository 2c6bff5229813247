//! `Said`: what edges say alike of all sessions and endpoints, as it comes over a feed: what an older edge leaves out is left out.

use anyhow::Result;
use ebbgate_model::feed::{AgentEndpointReport, SessionReport};
use serde_json::json;

use crate::ids;

/// See the module.
pub(crate) struct Said {
    pub(crate) session: SessionReport,
    pub(crate) endpoint: AgentEndpointReport,
}

impl Said {
    pub(crate) fn new() -> Result<Self> {
        let session = json!({
            "account": ids::account(0), "credential": ids::credential(0), "agent_version": "1", "user_agent": "", "os": "",
            "ip": "", "metadata": "", "started_at": 0, "endpoints": {},
        });
        let endpoint = json!({
            "url": ids::url(0), "binding": "internal", "name": "", "description": "", "metadata": "",
            "pooling_enabled": true, "forwards_to": "", "upstream_protocol": "", "traffic_policy": "", "created_at": 0,
        });
        Ok(Self { session: serde_json::from_value(session)?, endpoint: serde_json::from_value(endpoint)? })
    }
}
