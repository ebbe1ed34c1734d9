"""One module per downstream task: head, loss, metrics, labels."""
