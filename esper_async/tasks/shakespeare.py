"""Shakespeare by the character: a small causal transformer, judged by its loss alone."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.tasks.recipe import Schedule, adam, scheduler_of
from esper_async.tasks.seeding import Stream, derive_seed, permutation, seeded_initialisation
from esper_async.tasks.shakespeare_text import PLAYS, alphabet, load_plays
from esper_async.tasks.splits import Split, make_loaders, partition
from esper_async.tolaria.task import Task

VALIDATION_PLAYS = 4
TEST_PLAYS = 4


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each added to its input (pre-norm)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width, bias=False)
        self.answer = nn.Linear(width, width, bias=False)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D); position t sees positions up to t."""
        hidden = hidden + self._attend(self.attention_norm(hidden))
        result: Tensor = hidden + self.feedforward(hidden)
        return result

    def _attend(self, hidden: Tensor) -> Tensor:
        count, length, width = hidden.shape
        asked = self.ask(hidden).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = asked.permute(2, 0, 3, 1, 4)  # each (N, heads, T, D / heads)
        heard = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        answer: Tensor = self.answer(heard.transpose(1, 2).reshape(count, length, width))
        return answer


class CharacterTransformer(nn.Module):
    """Embeddings, causal blocks, a norm and a linear head."""

    def __init__(self, characters: int, *, length: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)

    def forward(self, characters: Tensor) -> Tensor:
        """Map characters int64 (N, T) to logits of the next ones (N, T, alphabet)."""
        hidden = self.embedding(characters) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(hidden)))
        return logits


def sequence_cross_entropy(output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return nats per character of logits (N, T, V) for characters (N, T).

    A scalar, or under "none" one value a sequence (N,).
    """
    losses = F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")
    per_sequence = losses.view(target.shape).mean(dim=1)
    if reduction == "none":
        return per_sequence
    if reduction == "mean":
        return per_sequence.mean()
    raise ValueError(f"reduction {reduction!r} is neither 'none' nor 'mean'")


def make_task(
    *,
    seed: int = 0,
    width: int = 32,
    heads: int = 4,
    depth: int = 1,
    length: int = 32,
    batch_size: int = 32,
    learning_rate: float = 5e-3,
    schedule: Schedule = "cosine",
    train_size: int = 2048,
    validation_size: int = 512,
    test_size: int = 2048,
) -> Task:
    """Build the task; `seed` varies initialisation, split and order together.

    Sizes count sequences of `length` characters. Whole plays are dealt to the splits (30, 4 and 4
    of them), so that no split has seen a speech of another; sequences are then drawn from them.

    Raises:
        MissingExtraError: the `tasks` extra is not installed.
        ValueError: a size exceeds the text, or `width` does not divide into `heads`.
    """
    texts = _deal_plays(seed)
    sizes = (train_size, validation_size, test_size)
    train, validation, test = (
        partition(_sequences(text, length), (size,), seed=seed)[0]
        for text, size in zip(texts, sizes, strict=True)
    )
    with seeded_initialisation(seed):
        model = CharacterTransformer(
            len(alphabet()), length=length, width=width, heads=heads, depth=depth
        )
    loaders = make_loaders(train, validation, test, batch_size=batch_size, seed=seed)
    return Task(
        name="shakespeare",
        model=model,
        train_loader=loaders.train,
        validation_loader=loaders.validation,
        test_loader=loaders.test,
        loss=sequence_cross_entropy,
        optimizer=partial(adam, learning_rate=learning_rate),
        scheduler=scheduler_of(schedule),
    )


def _deal_plays(seed: int) -> tuple[str, str, str]:
    order = permutation(PLAYS, derive_seed(seed, Stream.SPLIT)).tolist()
    plays = [load_plays()[place] for place in order]
    held_out = VALIDATION_PLAYS + TEST_PLAYS
    return (
        "\n".join(plays[held_out:]),
        "\n".join(plays[:VALIDATION_PLAYS]),
        "\n".join(plays[VALIDATION_PLAYS:held_out]),
    )


def encode(text: str) -> Tensor:
    """Map a text to the places of its characters in the alphabet: int64 (len(text),).

    Raises:
        KeyError: a character is not in the alphabet.
    """
    places = {character: place for place, character in enumerate(alphabet())}
    return torch.tensor([places[character] for character in text], dtype=torch.int64)


def _sequences(text: str, length: int) -> Split:
    """Cut a text into sequences (N, length) and the same shifted by one character."""
    codes = encode(text)
    count = (len(codes) - 1) // length
    inputs = codes[: count * length].view(count, length)
    return Split(inputs, codes[1 : count * length + 1].view(count, length))
