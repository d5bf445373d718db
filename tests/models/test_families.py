"""Every family: its matrices have kinds, are the ones the model uses, and survive a round trip."""
