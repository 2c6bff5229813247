//! Which accounts there are, found without reading what they have.

use crate::record::ACCOUNTS_PREFIX;
use crate::store::{Range, Store, StoreError};

/// The account part of all keys below [`ACCOUNTS_PREFIX`], greatest first, also where the account's own record is gone.
/// One key is read for each.
pub async fn tenants(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let range = Range { prefix: ACCOUNTS_PREFIX.into(), before, limit: Some(1), reverse: true };
        let page = store.range(range).await?;
        let last = page.items.first().and_then(|item| item.key.strip_prefix(ACCOUNTS_PREFIX));
        let Some((account, _)) = last.and_then(|path| path.split_once('/')) else { return Ok(all) };
        before = Some(format!("{ACCOUNTS_PREFIX}{account}/"));
        all.push(account.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::Lab;
    use crate::store::Txn;

    #[tokio::test]
    async fn every_account_is_found_once() {
        let lab = Lab::new().await;
        let txn = Txn::new().put("/a/ac_gone/endpoints/x", "1").put("/a/ac_gone/endpoints/y", "1");
        let _ = lab.app.store.commit(txn).await.unwrap();
        let mut found = tenants(&*lab.app.store).await.unwrap();
        found.sort();
        let mut expect = [lab.account.to_string(), "ac_gone".to_owned()];
        expect.sort();
        assert_eq!(found, expect);
    }
}
