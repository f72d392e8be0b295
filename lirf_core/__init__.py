"""Learning with Recoverable Forgetting (Ye et al., ECCV 2022). PyTorch only: no HTTP, database, queue or settings."""
