//! `ebbgate-control join`: the string that gives an agent its edge, its token and the authority of the agent listener.

use ebbgate_model::{EdgeJoinString, JoinError, JoinString, Token};

use crate::authority::Purpose;
use crate::dir::DataDir;
use crate::file::{self, FileError};

/// Why there is no join string.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// Not a token.
    #[error("that is not an authtoken; create a credential and give its `token`")]
    Token,
    /// The authority's certificate cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// They do not fit together.
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Puts the string of an edge together. `controls` are `host:port` each.
pub fn edge_join_string(
    dir: &DataDir,
    controls: &[String],
    token: &str,
) -> Result<EdgeJoinString, JoinFailure> {
    let token: Token = token.trim().parse().map_err(|_| JoinFailure::Token)?;
    let authorities = file::read(&dir.authority(Purpose::Edge))?;
    Ok(EdgeJoinString::new(controls, token, &authorities)?)
}

/// Puts the string together. `connect` is `host[:port]` of the edge's agent listener; whether the token is known is the
/// edge's to say.
pub fn join_string(dir: &DataDir, connect: &str, token: &str) -> Result<JoinString, JoinFailure> {
    let token: Token = token.trim().parse().map_err(|_| JoinFailure::Token)?;
    let authorities = file::read(&dir.authority(Purpose::Connect))?;
    Ok(JoinString::new(connect.trim(), token, &authorities)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::new_authority;

    #[test]
    fn the_string_carries_the_authority_of_the_agent_listener() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::new(folder.path());
        let token = "0ujtsYcgvSTl8PAuAdqWYSMnLOv_abcdefghijklmnopqrstu";
        assert!(matches!(join_string(&dir, "edge.example", token), Err(JoinFailure::File(_))));
        let authority = new_authority(Purpose::Connect, "lab", 1_700_000_000).unwrap();
        let path = dir.authority(Purpose::Connect);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &authority.certificate_pem).unwrap();
        let join = join_string(&dir, "edge.example:4443", &format!("{token}\n")).unwrap();
        let read: JoinString = join.expose().parse().unwrap();
        assert_eq!((read.connect.as_str(), read.token.expose()), ("edge.example:4443", token));
        let plain = |pem: &str| pem.split_whitespace().collect::<String>();
        assert_eq!(plain(&read.authorities_pem()), plain(&authority.certificate_pem));
        assert!(matches!(join_string(&dir, "edge.example", "x"), Err(JoinFailure::Token)));
    }
}
