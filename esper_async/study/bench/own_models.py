"""Models of a user's own, each the text of a file; nothing in them knows that it is grown.

They draw their data themselves: what a file imports besides torch is its user's time, not Esper's.
"""

_FILE = """import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from esper_async import Task


{model}


def make_task():
    inputs = torch.randn(480, {shape})
    targets = {targets}

    def loader(first, last):
        return DataLoader(TensorDataset(inputs[first:last], targets[first:last]), batch_size=32)

    return Task(model=Net(), train_loader=loader(0, 320), validation_loader=loader(320, 480),
                loss=nn.functional.{loss})
"""

_TABLE_MLP = """class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(13, width), nn.ReLU(), nn.Dropout(0.1),
                                  nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 3)

    def forward(self, rows):
        return self.head(self.body(rows))"""

_SMALL_CONV = """class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width))
        self.block = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(width * 16, 3)

    def forward(self, images):
        return self.head(self.block(torch.relu(self.stem(images))).flatten(1))"""

_SMALL_TRANSFORMER = """class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.embed = nn.Linear(8, width)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, rows):
        return self.head(self.encoder(self.embed(rows)).mean(1))"""

_TIED_GRU = """class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.lift = nn.Linear(1, width)
        self.read = nn.Linear(width, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.write = nn.Linear(width, width)
        self.write.weight = self.read.weight  # tied
        self.head = nn.Linear(width, 1)

    def forward(self, series):
        states, _ = self.recurrent(torch.tanh(self.read(self.lift(series))))
        return self.head(torch.tanh(self.write(states[:, -1]))).squeeze(1)"""


def _classifier(model: str, shape: str) -> str:
    targets = "inputs.flatten(1)[:, :3].argmax(1)"
    return _FILE.format(model=model, shape=shape, targets=targets, loss="cross_entropy")


OWN_MODELS = {
    "table MLP": _classifier(_TABLE_MLP, "13"),
    "small conv net": _classifier(_SMALL_CONV, "1, 8, 8"),
    "small transformer": _classifier(_SMALL_TRANSFORMER, "8, 8"),
    "tied recurrent regression": _FILE.format(
        model=_TIED_GRU, shape="12, 1", targets="inputs[:, -1, 0]", loss="mse_loss"
    ),
}
