//! The GDB remote stub. Stub, replaced at merge.
#![allow(missing_docs)]

pub mod server {
    use introspect::Target;
    use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum ListenAddress {
        Tcp(SocketAddr),
        Unix(PathBuf),
    }

    pub struct Endpoint {
        pub address: ListenAddress,
        task: tokio::task::JoinHandle<()>,
    }

    pub async fn listen(_target: Arc<Target>, address: ListenAddress) -> io::Result<Endpoint> {
        Ok(match address {
            ListenAddress::Tcp(at) => {
                let listener = tokio::net::TcpListener::bind(at).await?;
                let address = ListenAddress::Tcp(listener.local_addr()?);
                let task = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
                Endpoint { address, task }
            }
            ListenAddress::Unix(path) => {
                let listener = tokio::net::UnixListener::bind(&path)?;
                let task = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
                Endpoint {
                    address: ListenAddress::Unix(path),
                    task,
                }
            }
        })
    }

    impl Drop for Endpoint {
        fn drop(&mut self) {
            self.task.abort();
        }
    }
}
