"""What every script needs and no reader of the paper has to know."""
