"""From a folder of text to a pretrained encoder. Nothing that serves imports this folder."""
