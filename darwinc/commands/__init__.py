"""One module per command, or two that belong together. None imports torch before it works."""
