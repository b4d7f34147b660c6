//! A TCP proxy that can be told to be a bad network.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Carries every connection to a port of this machine, as long as it lives.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Raised to break every connection that stands.
    cut: watch::Sender<u64>,
    /// New connections are closed at once.
    closed: AtomicBool,
    /// Requests arrive; replies are dropped.
    mute: AtomicBool,
    /// Each reply comes so much later, milliseconds.
    delay: AtomicU64,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let accepting = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if !state.closed.load(Ordering::SeqCst) {
                        tokio::spawn(carry(client, port, Arc::clone(&state)));
                    }
                }
            }
        });
        Self { port: own, state, accepting }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Breaks what stands.
    pub fn cut(&self) {
        self.state.cut.send_modify(|n| *n += 1);
    }

    /// Lets nobody in (and breaks what stands), or lets them in again.
    pub fn close(&self, closed: bool) {
        self.state.closed.store(closed, Ordering::SeqCst);
        self.cut();
    }

    /// Lets requests through and no reply: what was asked is done, and nobody hears of it.
    pub fn mute(&self, mute: bool) {
        self.state.mute.store(mute, Ordering::SeqCst);
    }

    /// Makes every reply so much later.
    pub fn delay(&self, delay: Duration) {
        self.state.delay.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn carry(client: TcpStream, port: u16, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut cut = state.cut.subscribe();
    cut.mark_unchanged();
    let requests = tokio::io::copy(&mut from_client, &mut to_server);
    let replies = async {
        let mut buffer = vec![0; 16 * 1024];
        // TCP leaves nothing out: after a lost reply none comes any more.
        let mut lost = false;
        while let Ok(many @ 1..) = from_server.read(&mut buffer).await {
            let delay = state.delay.load(Ordering::SeqCst);
            if delay > 0 {
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            lost |= state.mute.load(Ordering::SeqCst);
            if !lost && to_client.write_all(&buffer[..many]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = requests => {}
        () = replies => {}
        _ = cut.changed() => {}
    }
}
