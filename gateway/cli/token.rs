//! `gateway token new`

use crate::api::access::Role;
use crate::app::control::{self, NewToken, TokenRequest, make_token};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::Store;

pub(super) async fn new(config: &Config, name: String, role: Role, json: bool) -> anyhow::Result<bool> {
    let directory = config.store.directory()?;
    let request = TokenRequest { name, role };
    let token = if Store::is_in_use(&directory) {
        control::ask::<_, NewToken>(&directory, "/tokens", &request).await?.token
    } else {
        let store = Store::open(&directory)?;
        make_token(&store, &request, Clock::system().now())
            .await?
            .ok_or_else(|| anyhow::anyhow!("there is a token called `{}` already; choose another name", request.name))?
    };
    if json {
        super::print_json(&NewToken { token })?;
    } else {
        println!("{token}");
        eprintln!(
            "This is shown only now. Use it as: curl -H 'Authorization: Bearer …' http://{}/v1/leads",
            config.server.listen
        );
    }
    Ok(true)
}
