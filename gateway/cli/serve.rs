//! `gateway serve`

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{App, Loaded};
use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry;

pub(super) async fn run(config: Config) -> anyhow::Result<bool> {
    telemetry::start_logging(&config.log);
    let address = config.server.listen;
    // The address first: it is what most often cannot be had.
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("server.listen {address} cannot be used; is another gateway running?"))?;
    let app = Arc::new(App::open(config, Clock::system()).await?);
    app.join().await?;
    introduce(&app, &listener)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    app.serve(listener, end).await?;
    Ok(true)
}

/// What a person wants to see at a start.
fn introduce(app: &App, listener: &TcpListener) -> anyhow::Result<()> {
    let Loaded { counts: [campaigns, partners, sources, contracts], first, differences, faults } = &app.loaded;
    let config = &app.config;
    println!("gateway   http://{}", listener.local_addr()?);
    println!("store     {}", config.store);
    println!("gate      {}", config.gate);
    let origin = if *first {
        format!("from {}, now in the store", config.network.dir.display())
    } else {
        "from the store".to_owned()
    };
    println!(
        "network   {campaigns} campaigns, {partners} partners, {sources} sources, {contracts} contracts ({origin})"
    );
    if !differences.is_empty() {
        println!("\nThe files in {} differ from the store, which is used:", config.network.dir.display());
        for difference in differences {
            println!("  {}", difference.to_string().replace('\n', "\n  "));
        }
        println!("To use the files: gateway apply {}", config.network.dir.display());
    }
    for fault in faults {
        println!("note: the network's files cannot be compared with the store: {fault}");
    }
    Ok(())
}
