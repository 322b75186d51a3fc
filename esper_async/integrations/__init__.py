"""Growth inside training loops that others wrote, as one callback for each of them.

`lightning.GrowerCallback` is for PyTorch Lightning, `huggingface.GrowerCallback` for the Trainer of
transformers. Both translate a trainer's events into the steps and boundaries of a `Grower`. Each
module needs the extra of its name: `pip install 'esper-async[lightning]'`.
"""
