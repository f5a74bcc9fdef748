"""What every script needs and no reader of the paper cares about. Nothing here imports models or data."""
