//! Takes another configuration to the loop, and what an operator says: by the control socket, by SIGHUP,
//! or because a name in the configuration leads elsewhere. Names are asked for here, beside the loop.

use std::path::PathBuf;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};

use super::core::{Answer, Message};
use super::service::Service;
use crate::admin::control::{Command, Order, Refusal, Reply};
use crate::config::File;
use crate::dns::{Follower, Source};

/// The way from operators to the loop.
pub struct Operator {
    path: PathBuf,
    /// What is in force.
    file: File,
    names: Follower,
    messages: mpsc::Sender<Message>,
}

impl Operator {
    /// `path` is where `file`, which is in force, was read from, and is read from again.
    pub fn new(path: PathBuf, file: File, messages: mpsc::Sender<Message>) -> Self {
        Self {
            path,
            names: follow(&file),
            file,
            messages,
        }
    }

    /// Goes on until the loop ends.
    pub async fn serve(mut self, mut orders: mpsc::Receiver<Order>, mut hangup: Signal) {
        while !self.messages.is_closed() {
            let gone = self.messages.clone();
            tokio::select! {
                order = orders.recv() => {
                    let Some((command, answer)) = order else { return };
                    let result = match command {
                        Command::Reload => self.reload().await,
                        command => self.ask(|answer| Message::Command(command, answer)).await,
                    };
                    // Who asked may have gone.
                    let _ = answer.send(result);
                }
                Some(()) = hangup.recv() => {
                    tracing::info!("SIGHUP: reading {} again", self.path.display());
                    if let Err(refusal) = self.reload().await {
                        tracing::error!("the configuration stays as it was: {refusal}");
                    }
                }
                answers = self.names.changed() => {
                    let answers = answers.clone();
                    let file = self.file.with(answers);
                    let result = match file {
                        Ok(file) => self.configure(file, false).await,
                        Err(error) => Err(Refusal::Wrong(error.to_string())),
                    };
                    if let Err(refusal) = result {
                        tracing::error!("backends stay where they were: {refusal}");
                    }
                }
                () = gone.closed() => return,
            }
        }
    }

    async fn reload(&mut self) -> Result<Reply, Refusal> {
        let _until_the_end = Service::from_environment().reloading();
        let known = self.names.answers();
        let file = File::read(&self.path, &Source::system(), known).await;
        let file = file.map_err(|error| Refusal::Wrong(error.to_string()))?;
        self.configure(file, true).await
    }

    /// `names`: the file may have other names than before.
    async fn configure(&mut self, file: File, names: bool) -> Result<Reply, Refusal> {
        let config = Box::new(file.config.clone());
        let reply = self
            .ask(|answer| Message::Configure(config, answer))
            .await?;
        if names {
            self.names = follow(&file);
        }
        self.file = file;
        Ok(reply)
    }

    async fn ask(&self, message: impl FnOnce(Answer) -> Message) -> Result<Reply, Refusal> {
        let (answer, result) = oneshot::channel();
        let stopping = || Refusal::Failed("the agent is stopping".to_owned());
        let sent = self.messages.send(message(answer)).await;
        sent.map_err(|_| stopping())?;
        result.await.map_err(|_| stopping())?
    }
}

fn follow(file: &File) -> Follower {
    let most = file.config.timeouts.dns;
    Follower::new(Source::system(), file.answers.clone(), most)
}
