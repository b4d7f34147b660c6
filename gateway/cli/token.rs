//! `gateway token new`

use crate::api::access::Role;
use crate::app::control::{self, NewToken, Reach, TokenRequest, make_token};
use crate::clock::Clock;
use crate::config::Config;

pub(super) async fn new(config: &Config, name: String, role: Role, json: bool) -> anyhow::Result<bool> {
    let request = TokenRequest { name, role };
    let mut followed = false;
    let token = match control::reach(config).await? {
        Reach::Gateway(directory) => control::ask::<_, NewToken>(&directory, "/tokens", &request).await?.token,
        Reach::Store(store) => {
            followed = store.is_shared();
            make_token(&store, &request, Clock::system().now()).await?.ok_or_else(|| {
                anyhow::anyhow!("there is a token called `{}` already; choose another name", request.name)
            })?
        }
    };
    if json {
        super::print_json(&NewToken { token })?;
    } else {
        println!("{token}");
        eprintln!(
            "This is shown only now. Use it as: curl -H 'Authorization: Bearer …' http://{}/v1/leads",
            config.server.listen
        );
        if followed {
            eprintln!("Gateways that run know it within a second.");
        }
    }
    Ok(true)
}
