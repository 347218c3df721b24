//! The application beside an async runner: what a board's tasks do with its lamp and its button.

use quorate::node::{ForwardError, Outcome};
use quorate_embedded::runner::{Handle, Shared};

use crate::{App, COMMAND_BYTES, PRESS_MS, Settings};

/// Shows what the boards agree on whenever that changes, for ever.
pub async fn follow(app: &Shared<'_, App<'_>>, mut show: impl FnMut(&Settings)) -> ! {
    loop {
        if let Some(settings) = app.with(App::poll_change).flatten() {
            show(&settings);
        }
        app.changed().await;
    }
}

/// The button of this board was pressed: as [`App::press`], and waits for what becomes of it.
///
/// # Errors
/// This can't be asked for now; the button can be pressed again.
pub async fn press(app: &Shared<'_, App<'_>>, handle: Handle<'_>) -> Result<Outcome, ForwardError> {
    let mut bytes = [0; COMMAND_BYTES];
    let command = app.with(|app| app.switch(&mut bytes)).unwrap_or(Err(ForwardError::Busy))?;
    let (_, outcome) = handle.forward(command, PRESS_MS).await?;
    Ok(outcome)
}
