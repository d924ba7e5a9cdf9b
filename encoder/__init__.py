"""What the model is: its architecture, its checkpoints, its export, and running it.

Serving imports `runtime`, `session`, `tokenizer`, `words` and `manifest`, which need no torch.
"""
