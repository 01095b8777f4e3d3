"""The two stages of training: what each one's batches and losses are."""
